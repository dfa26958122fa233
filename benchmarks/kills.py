"""Kills: commands that are killed at random moments and given again end as if nothing had happened.

    python -m benchmarks.kills                                   # 50 kills of each of 8 commands; some hours
    python -m benchmarks.kills --cases data-build --kills 3      # a try

A command on small input first runs undisturbed, twice, which shows that it repeats itself and how long it takes. Then,
in one fresh folder after another, it is stopped by SIGKILL one to three times, each time at a random moment of that
duration, and given again until it ends. A quarter of the moments lies before the first file appears, the others after
it. The results must equal those of the undisturbed run file by file, and nothing else may be there: no temporary file
or directory, no lock, no process that the killed one had started. What is finished stays in the folder of ``--work``:
after an interruption, the same command goes on from there. POSIX only.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.kill_cases import CASES, Case, contents, is_leftover
from benchmarks.measure import keep, kept, write_record

COMMAND = (sys.executable, "-m", "runtime")

ORPHANS_S = 60.0
"""So long, the processes of a killed command may take to notice that it is gone."""

SHOWN = 5
"""Problems of each kind that go into the record."""


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """How a command runs if nobody stops it."""

    contents: dict[str, str]
    seconds: float
    first_file_s: float
    """When something first changes in the folder of results."""

    def moment(self, rng: np.random.Generator) -> float:
        """A random moment to stop the command at, seconds after its start."""
        first = min(self.first_file_s, self.seconds)
        least, most = (0.0, first) if rng.random() < 0.25 else (first, self.seconds)
        return float(rng.uniform(least, most))


@dataclass(slots=True)
class Outcome:
    """What became of one case so far."""

    kills: int = 0
    rounds: int = 0
    after_files: int = 0
    """Kills after which something was in the folder of results."""
    ended_before: int = 0
    """Runs that ended before their moment came."""
    problems: dict[str, list[str]] = field(default_factory=dict)

    def report(self, kind: str, what: str) -> None:
        """Note a problem."""
        self.problems.setdefault(kind, []).append(what)


class Run:
    """A command in a process group of its own."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        """Start it. Args: arguments: of ``cellsam-engine``. log: what it prints is added here."""
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [*COMMAND, *arguments], stdout=file, stderr=file, stdin=subprocess.DEVNULL, preexec_fn=os.setpgrp
            )
        self.begun = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since its start."""
        return time.perf_counter() - self.begun

    def wait(self, seconds: float | None = None) -> int | None:
        """Exit code; None if it has not ended by then."""
        try:
            return self.process.wait(None if seconds is None else max(0.0, seconds - self.seconds))
        except subprocess.TimeoutExpired:
            return None
        except KeyboardInterrupt:  # which a process group of its own does not get
            self.process.kill()
            raise

    def kill(self) -> list[int]:
        """Kill the command, not what it started. Returns: the processes that stay, which are killed too."""
        self.process.kill()
        self.process.wait()
        limit = time.monotonic() + ORPHANS_S
        while (others := group_members(self.process.pid)) and time.monotonic() < limit:
            time.sleep(0.05)
        for other in others:
            os.kill(other, signal.SIGKILL)
        return others


def group_members(group: int) -> list[int]:
    """Processes of a group that have not ended; none where the system does not tell (/proc)."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, _, rest = stat.read_text(encoding="utf-8", errors="replace").partition(" (")
        except OSError:  # it has ended
            continue
        state, _, of_group = rest.rpartition(") ")[2].split()[:3]
        if int(of_group) == group and state not in "ZX":
            members.append(int(number))
    return members


def fresh(case: Case, inputs: Path, out: Path) -> None:
    """An empty folder of results, but for what the command is to find there."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    case.start(inputs, out)


def names(out: Path) -> set[str]:
    """Paths of all files and directories."""
    return {path.relative_to(out).as_posix() for path in out.rglob("*")}


def run_undisturbed(case: Case, folder: Path) -> Undisturbed:
    """Run a command to its end, and see when it writes its first file.

    Raises:
        RuntimeError: it failed.
    """
    inputs, out = folder / "inputs", folder / "out"
    fresh(case, inputs, out)
    before, first = names(out), None
    run = Run(case.arguments(inputs, out), folder / "log")
    while run.wait(run.seconds + 0.02) is None:
        if first is None and names(out) != before:
            first = run.seconds
    seconds = run.seconds
    if run.process.returncode:
        raise RuntimeError(f"{' '.join(case.arguments(inputs, out))} failed; see {folder / 'log'}.")
    return Undisturbed(contents(case, out), seconds, seconds if first is None else first)


def disturb(
    case: Case, folder: Path, expected: Undisturbed, outcome: Outcome, kills: int, rng: np.random.Generator
) -> None:
    """One round: up to so many kills in a fresh folder, then the command to its end; problems are noted."""
    inputs, out = folder / "inputs", folder / "out"
    fresh(case, inputs, out)
    before, code = names(out), None
    outcome.rounds += 1
    place = f"round {outcome.rounds}"
    for _ in range(kills):
        run = Run(case.arguments(inputs, out), folder / "log")
        code = run.wait(expected.moment(rng))
        if code is not None:
            outcome.ended_before += 1
            break
        for orphan in run.kill():
            outcome.report("orphans", f"{place}: process {orphan}")
        outcome.kills += 1
        outcome.after_files += names(out) != before
    if code is None:
        code = Run(case.arguments(inputs, out), folder / "log").wait()
    if code:
        outcome.report("failed", f"{place}: exit code {code}")
    found = contents(case, out)
    for name in sorted(expected.contents.keys() | found.keys()):
        if name not in found:
            outcome.report("missing", f"{place}: {name}")
        elif name not in expected.contents:
            outcome.report("leftovers" if is_leftover(name) else "unexpected", f"{place}: {name}")
        elif found[name] != expected.contents[name]:
            outcome.report("unlike", f"{place}: {name}")


def kill_case(name: str, kills: int, seed: int, folder: Path) -> dict[str, Any]:
    """All kills of one case. Args: name: of the case. folder: for its files, which are deleted if all went well."""
    case, rng, outcome = CASES[name](), np.random.default_rng([seed, list(CASES).index(name)]), Outcome()
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "inputs").mkdir(parents=True)
    case.prepare(folder / "inputs")
    first = run_undisturbed(case, folder)  # it may also compile what later runs load
    expected = run_undisturbed(case, folder)
    for changed in sorted(n for n, digest in first.contents.items() if expected.contents.get(n) != digest):
        outcome.report("not repeatable", changed)
    while outcome.kills < kills:
        if outcome.rounds > 20 * kills:
            raise RuntimeError(f"{name} ends before it can be killed; its undisturbed run took {expected.seconds} s.")
        disturb(case, folder, expected, outcome, min(int(rng.integers(1, 4)), kills - outcome.kills), rng)
    if not outcome.problems:
        shutil.rmtree(folder)
    return {
        "command": " ".join(["cellsam-engine", *case.arguments(Path("inputs"), Path("out"))]),
        **({"remark": case.remark} if case.remark else {}),
        "seconds": round(expected.seconds, 2),
        "first_file_s": round(expected.first_file_s, 2),
        "files_compared": len(expected.contents),
        "kills": outcome.kills,
        "rounds": outcome.rounds,
        "kills_after_first_file": outcome.after_files,
        "runs_that_ended_before": outcome.ended_before,
        "problems": {kind: {"count": len(found), "first": found[:SHOWN]} for kind, found in outcome.problems.items()},
        "passed": not outcome.problems,
    }


def kill_all(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and record of every case, from the folder where it is finished already."""
    for name in options.cases:
        path, asked = options.work / f"{name}.json", {"kills": options.kills, "seed": options.seed}
        found = kept(path, asked)
        if found is None:
            found = keep(path, asked, kill_case(name, options.kills, options.seed, options.work / name))
        yield name, found


def describe(name: str, found: dict[str, Any]) -> str:
    """One line for a case."""
    problems = "".join(f"; {kind} {of['count']}: {of['first'][0]}" for kind, of in found["problems"].items())
    return (
        f"{name}: {'passed' if found['passed'] else 'FAILED'}, {found['kills']} kills in {found['rounds']} rounds, "
        f"{found['kills_after_first_file']} after the first file; undisturbed {found['seconds']} s{problems}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Kill, print and write the record. Exit code 1 if a case failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--kills", type=int, default=50, help="of each case")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--work", type=Path, default=Path("kills"), help="folder for files and finished cases")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(arguments)
    options.work = options.work.resolve()
    cases = {}
    for name, found in kill_all(options):
        cases[name] = found
        print(describe(name, found), flush=True)  # noqa: T201
    content = {"seed": options.seed, "passed": all(found["passed"] for found in cases.values()), "cases": cases}
    print(write_record(options.out, "kills", content))  # noqa: T201
    return 0 if content["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
