"""Kill commands at random moments, repeat them, and check that the results are those of an undisturbed run.

    python -m benchmarks.kills                                   # 50 kills of each of 8 commands; some hours
    python -m benchmarks.kills --cases data-build --kills 3      # a try

Each command first runs undisturbed on small input, twice, to measure its duration and check that its results are
reproducible. Each round then starts in an empty folder and kills the command with SIGKILL one to three times, at random
moments of that duration. A quarter of the moments are before the first file appears. The command is then repeated until
it ends. All files must equal those of the undisturbed run, and nothing else may remain: no temporary file or directory,
no lock, and no process that the killed command started.

Finished cases stay in the ``--work`` folder, so that an interrupted benchmark resumes. POSIX only.
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
"""Time that the child processes of a killed command have to exit."""

SHOWN = 5
"""Maximum number of problems of each kind in the record."""


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """Results and timing of a command that is not interrupted."""

    contents: dict[str, str]
    seconds: float
    first_file_s: float
    """Time of the first change in the results folder."""

    def moment(self, rng: np.random.Generator) -> float:
        """Draw a random moment to kill the command, in seconds after its start."""
        first = min(self.first_file_s, self.seconds)
        least, most = (0.0, first) if rng.random() < 0.25 else (first, self.seconds)
        return float(rng.uniform(least, most))


@dataclass(slots=True)
class Outcome:
    """Counts and problems of one case so far."""

    kills: int = 0
    rounds: int = 0
    after_files: int = 0
    """Kills after the results folder had changed."""
    ended_before: int = 0
    """Runs that ended before they could be killed."""
    problems: dict[str, list[str]] = field(default_factory=dict)

    def report(self, kind: str, what: str) -> None:
        """Record a problem."""
        self.problems.setdefault(kind, []).append(what)


class Run:
    """A command in a separate process group."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        """Start the command.

        Args:
            arguments: arguments of ``cellsam-engine``.
            log: file to which the output is appended.
        """
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                [*COMMAND, *arguments], stdout=file, stderr=file, stdin=subprocess.DEVNULL, preexec_fn=os.setpgrp
            )
        self.begun = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.begun

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait until ``seconds`` after the start; return the exit code, or None if the command still runs."""
        try:
            return self.process.wait(None if seconds is None else max(0.0, seconds - self.seconds))
        except subprocess.TimeoutExpired:
            return None
        except KeyboardInterrupt:  # a separate process group does not receive it
            self.process.kill()
            raise

    def kill(self) -> list[int]:
        """Kill the command alone, then any child processes that do not exit in time; return the latter."""
        self.process.kill()
        self.process.wait()
        limit = time.monotonic() + ORPHANS_S
        while (others := group_members(self.process.pid)) and time.monotonic() < limit:
            time.sleep(0.05)
        for other in others:
            os.kill(other, signal.SIGKILL)
        return others


def group_members(group: int) -> list[int]:
    """List the running processes of a group; empty if the system has no /proc."""
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
    """Create an empty results folder with the files that the command expects there."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    case.start(inputs, out)


def names(out: Path) -> set[str]:
    """Return the paths of all files and directories."""
    return {path.relative_to(out).as_posix() for path in out.rglob("*")}


def run_undisturbed(case: Case, folder: Path) -> Undisturbed:
    """Run a command to its end and note when it writes its first file.

    Raises:
        RuntimeError: the command failed.
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
    """Run one round: kill the command up to ``kills`` times, let it finish, and record problems."""
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
    """Run all kills of one case.

    Args:
        name: name of the case.
        kills: number of kills.
        seed: seed of the random moments.
        folder: folder for the files of the case; deleted if the case passes.
    """
    case, rng, outcome = CASES[name](), np.random.default_rng([seed, list(CASES).index(name)]), Outcome()
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "inputs").mkdir(parents=True)
    case.prepare(folder / "inputs")
    first = run_undisturbed(case, folder)  # may also compile code that later runs load
    expected = run_undisturbed(case, folder)
    for changed in sorted(n for n, digest in first.contents.items() if expected.contents.get(n) != digest):
        outcome.report("not repeatable", changed)
    while outcome.kills < kills:
        if outcome.rounds > 20 * kills:
            raise RuntimeError(
                f"{name} ended before it could be killed, in {outcome.rounds} rounds; expected a command that runs "
                f"longer than {expected.seconds} s. Give the case more input."
            )
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
    """Yield the name and record of every case; read finished cases from the ``--work`` folder."""
    for name in options.cases:
        path, asked = options.work / f"{name}.json", {"kills": options.kills, "seed": options.seed}
        found = kept(path, asked)
        if found is None:
            found = keep(path, asked, kill_case(name, options.kills, options.seed, options.work / name))
        yield name, found


def describe(name: str, found: dict[str, Any]) -> str:
    """Summarise a case in one line."""
    problems = "".join(f"; {kind} {of['count']}: {of['first'][0]}" for kind, of in found["problems"].items())
    return (
        f"{name}: {'passed' if found['passed'] else 'FAILED'}, {found['kills']} kills in {found['rounds']} rounds, "
        f"{found['kills_after_first_file']} after the first file; undisturbed {found['seconds']} s{problems}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run all cases, print a summary and write the record; return exit code 1 if a case failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--kills", type=int, default=50, help="kills of each case")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
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
