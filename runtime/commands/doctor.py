"""The commands ``doctor``, which checks an installation, and ``warm-up``, which prepares one."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Annotated, Literal

import typer

from runtime.commands.console import fail, say
from runtime.commands.report import announce_compilation
from runtime.commands.settings import engine_directory, model_directory
from runtime.engines.backends.availability import backend_problems, onnxruntime_clash
from runtime.engines.backends.base import BackendName
from runtime.engines.backends.choice import choose_backend
from runtime.engines.backends.load import ENVIRONMENT, resolve_backend
from runtime.engines.builtin import BUILTIN_NAME, sample_images
from runtime.engines.manifest import read_manifest
from runtime.errors import SegmenterError

PACKAGES = (
    *("numpy", "numba", "scikit-image", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-cu12"),
    *("tensorrt-cu13", "tensorrt-rtx-cu13", "polygraphy", "torch", "imagecodecs", "zarr", "distributed"),
)
"""Distributions whose versions are reported."""

_MODEL_HELP = f"Engine directory, or {BUILTIN_NAME}."
_DIR = f"{BUILTIN_NAME}|DIR"

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A line of the report."""

    name: str
    text: str
    state: State = "ok"
    """``problem`` makes the command fail; ``note`` reports something that this machine lacks."""


def doctor_command(
    model: Annotated[str, typer.Option(help=_MODEL_HELP, metavar=_DIR)] = BUILTIN_NAME,
    self_test: Annotated[
        bool, typer.Option(help="Segment a sample image with each available backend.", metavar="")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.", metavar="")] = False,
) -> None:
    """Check the installation: versions, backends, GPUs, and a sample image.

    Exit code 0: no problem found, 1: a problem was found.
    """
    try:
        findings = []
        for finding in examine(model_directory(model), self_test=self_test):
            findings.append(finding)
            if not as_json:
                say(f"{finding.name:<14} {finding.text}")
    except (SegmenterError, OSError) as error:
        fail(error)
    if as_json:
        say(json.dumps([asdict(finding) for finding in findings]))
    if any(finding.state == "problem" for finding in findings):
        raise typer.Exit(1)


def warm_up_command(
    model: Annotated[str, typer.Option(help=_MODEL_HELP, metavar=_DIR)] = BUILTIN_NAME,
    backend: Annotated[BackendName, typer.Option(help="Backend to prepare.", metavar="NAME")] = "auto",
) -> None:
    """Prepare for a fast first run: compile loops, load and run the engines.

    Useful in containers and services. Compiled loops are cached on disk.
    """
    from runtime.segmenter import Segmenter

    announce_compilation()
    start = time.perf_counter()
    try:
        with Segmenter(engine_directory(model), backend=backend) as segmenter:
            segmenter.warm_up()
            used = segmenter.backend
    except (SegmenterError, OSError) as error:
        fail(error)
    say(f"{model} is ready on {used} after {time.perf_counter() - start:.1f} s")


def examine(directory: Path, *, self_test: bool = True) -> Iterator[Finding]:
    """Examine this machine and an engine directory, one finding at a time.

    Args:
        directory: the engine directory.
        self_test: whether to segment a sample image with each available backend.

    Raises:
        EngineError: the engine directory cannot be read.
    """
    python = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield Finding("cellsam-engine", f"{version('cellsam-engine')}, {python}")
    manifest = read_manifest(directory)
    yield Finding("engines", f"{directory}, {manifest.precision}")
    yield Finding("packages", ", ".join(_versions()))
    yield Finding("memory", _memory())
    yield from _gpus()
    clash = onnxruntime_clash()
    if clash is not None:
        yield Finding("onnxruntime", clash, "problem")
    problems = backend_problems(directory)
    for backend, problem in problems.items():
        yield Finding(backend, problem or "can run", "note" if problem else "ok")
    if ENVIRONMENT in os.environ:
        yield Finding("auto", f"{resolve_backend('auto', directory)}: set by {ENVIRONMENT}")
    else:
        choice = choose_backend(directory)
        yield Finding("auto", f"{choice.backend}: {choice}")
    if self_test:
        announce_compilation()
        for backend, problem in problems.items():
            if problem is None and backend != "tensorrt-ort":  # building its plans takes minutes
                yield _self_test(directory, backend)


def _versions() -> Iterator[str]:
    installed = {found.name.lower(): found.version for found in distributions() if found.name}
    for name in PACKAGES:
        if name in installed:
            yield f"{name} {installed[name]}"


def _memory() -> str:
    """Return the available memory, if the system reports it."""
    if platform.system() == "Linux":
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text("ascii").splitlines())
        free, total = (int(fields[key].split()[0]) / 2**20 for key in ("MemAvailable", "MemTotal"))
        return f"{free:.1f} of {total:.1f} GiB available"
    return "unknown on this system"


def _gpus() -> Iterator[Finding]:
    smi = shutil.which("nvidia-smi")
    if smi is None:
        yield Finding("GPU", "none: nvidia-smi is not installed", "note")
        return
    query = [smi, "--query-gpu=name,driver_version,memory.total,memory.free", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        yield Finding("GPU", f"nvidia-smi failed: {error}", "problem")
        return
    for number, line in enumerate(done.stdout.splitlines()):
        name, driver, total, free = (part.strip() for part in line.split(","))
        yield Finding("GPU", f"{number}: {name}, driver {driver}, {free} of {total} free")


def _self_test(directory: Path, backend: str) -> Finding:
    """Segment a sample twice; the second run gives the time of a warm process."""
    from runtime.files.plain import read_image
    from runtime.segmenter import Segmenter

    name = f"test {backend}"
    sample = next(path for path in sample_images() if path.name.startswith("fluorescence"))
    image = read_image(sample)
    boxes = [[10.0, 10.0, 60.0, 60.0]]
    start = time.perf_counter()
    try:
        with Segmenter(directory, backend=backend) as segmenter:
            given = None if segmenter.manifest.has_detector else boxes
            first = segmenter(image, boxes=given)
            loaded = time.perf_counter()
            again = segmenter(image, boxes=given)
    except SegmenterError as error:
        return Finding(name, str(error), "problem")
    if len(first) == 0 or not (first.labels == again.labels).all():
        counts = f"{len(first)} and {len(again)} cells"
        return Finding(name, f"{sample.name}: {counts} in two runs; expected the same cells twice", "problem")
    times = f"{time.perf_counter() - loaded:.2f} s ({loaded - start:.1f} s with loading)"
    return Finding(name, f"{sample.name}: {len(first)} cells in {times}")
