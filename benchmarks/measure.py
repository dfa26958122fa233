"""Timing of variants in turn, each in a separate process, and writing of records."""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.files.placing import write_whole
from runtime.jobs.memory import peak_mib
from training.evaluation.environment import describe_environment, portable_command

SCHEMA = 1

StepTimes = dict[str, float]
"""Seconds by step of one run."""

Variant = Callable[[], tuple[StepTimes, NDArray[np.int32]]]
"""One run, which returns the seconds by step and the labels."""


@dataclass(frozen=True)
class Measured:
    """All counted runs of one variant."""

    runs: list[StepTimes]
    labels: NDArray[np.int32]
    peak_mib: float
    gpu_peak_mib: float | None = None
    """Peak GPU memory of PyTorch alone; None if it used no GPU."""

    def summary(self) -> dict[str, Any]:
        """Return p50, p90 and p99 in ms, in total and by step, and peak memory, on a GPU also that of PyTorch."""
        totals = [sum(run.values()) for run in self.runs]
        return {
            "runs": len(self.runs),
            "total_ms": percentiles_ms(totals),
            "steps_ms": {step: percentiles_ms([run[step] for run in self.runs]) for step in self.runs[0]},
            "peak_mib": round(self.peak_mib),
        } | ({} if self.gpu_peak_mib is None else {"gpu_peak_mib": round(self.gpu_peak_mib)})


def percentiles_ms(seconds: list[float]) -> dict[str, float]:
    """Return p50, p90 and p99 in ms of times in seconds."""
    return {f"p{p}": round(float(np.percentile(seconds, p)) * 1e3, 1) for p in (50, 90, 99)}


def measure_in_turn(variants: Mapping[str, Callable[[], Variant]], *, warmup: int, runs: int) -> dict[str, Measured]:
    """Run all variants in turn, A, B, A, B ..., so that drifts in speed affect them equally.

    Args:
        variants: functions that make each variant, called in the process of the variant.
        warmup: uncounted runs of each variant.
        runs: counted runs of each variant.

    Raises:
        RuntimeError: a variant failed; its message is included.
    """
    workers = {name: _Worker(make) for name, make in variants.items()}
    found: dict[str, list[StepTimes]] = {name: [] for name in variants}
    labels: dict[str, NDArray[np.int32]] = {}
    try:
        for turn in range(warmup + runs):
            for name, worker in workers.items():
                steps, labels[name] = worker.run()
                if turn >= warmup:
                    found[name].append(steps)
        return {name: Measured(found[name], labels[name], *worker.peaks_mib()) for name, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.stop()


class _Worker:
    """Variant in a separate process, run on demand."""

    def __init__(self, make: Callable[[], Variant]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, child = context.Pipe()
        self._process = context.Process(target=_serve, args=(make, child), daemon=True)
        self._process.start()
        child.close()

    def run(self) -> tuple[StepTimes, NDArray[np.int32]]:
        out: tuple[StepTimes, NDArray[np.int32]] = self._ask("run")
        return out

    def peaks_mib(self) -> tuple[float, float | None]:
        peaks: tuple[float, float | None] = self._ask("memory")
        return peaks

    def stop(self) -> None:
        self._process.terminate()
        self._process.join()

    def _ask(self, what: str) -> Any:
        self._pipe.send(what)
        try:
            answer = self._pipe.recv()
        except EOFError as error:
            raise RuntimeError(f"a variant's process ended with exit code {self._process.exitcode}.") from error
        if isinstance(answer, BaseException):
            raise RuntimeError(f"a variant failed: {answer!r}") from answer
        return answer


def _serve(make: Callable[[], Variant], pipe: Connection) -> None:
    try:
        variant = make()
        while True:
            if pipe.recv() == "run":
                pipe.send(variant())
            else:
                pipe.send((peak_mib(), gpu_peak_mib()))
    except BaseException as error:
        pipe.send(error)


def in_separate_process(work: Callable[..., dict[str, Any]], *arguments: object) -> dict[str, Any]:
    """Call a function in a new process and return its result. A process starts with the peak memory of its parent.

    Raises:
        BrokenProcessPool: the process ended before the function returned.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def kept(path: Path, asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the result that ``keep`` wrote to a file, or None if it belongs to another request."""
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return known["found"] if known.get("asked") == asked else None


def keep(path: Path, asked: Mapping[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Write a result that ``kept`` can read, so that an interrupted measurement resumes.

    Args:
        path: the file; its directory is created if it is missing.
        asked: the request, ready for JSON: everything that the result depends on.
        found: the result, ready for JSON.

    Returns:
        The result as read back from JSON.
    """
    text = json.dumps({"asked": asked, "found": found})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    back: dict[str, Any] = json.loads(text)["found"]
    return back


def known_peak_mib() -> float:
    """Return the peak memory of this process in MiB.

    Raises:
        RuntimeError: the system does not report it.
    """
    peak = peak_mib()
    if peak is None:
        raise RuntimeError("this system does not report peak memory; run the benchmark on Linux or macOS.")
    return peak


def gpu_peak_mib() -> float | None:
    """Return the peak GPU memory that PyTorch reserved in this process, MiB; None if it used no GPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    return float(torch.cuda.max_memory_reserved()) / 2**20


def write_record(
    out: Path, case: str, content: dict[str, Any], *, command: Sequence[str] | None = None, of: str = ""
) -> Path:
    """Write ``CASE_DEVICE_DATE.json`` with all information to judge and repeat the result.

    Args:
        out: directory; created if it is missing.
        case: name of the measurement.
        content: the figures.
        command: command without its options; by default the module of this package with the name of the case.
        of: suffix of the case in the file name, if one day has several records of a case.
    """
    environment = describe_environment()
    device = environment["gpus"][0].split(",")[0] if environment["gpus"] else f"cpu{environment['cpu_count']}"
    arguments = sys.argv[1:] if command is None else sys.argv[len(command) :]
    named = f"{case}-{of}" if of else case
    path = out / f"{named}_{device.replace(' ', '-').lower()}_{date.today().isoformat()}.json"
    record = {
        "schema": SCHEMA,
        "case": case,
        "date": date.today().isoformat(),
        "command": portable_command([*(command or ("python", "-m", f"benchmarks.{case}")), *arguments]),
        "environment": environment,
        **content,
    }
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return path
