"""Search for failing inputs for a limited time, keep them, and replay kept inputs."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis.errors import Flaky

from tests.robustness import classes
from tests.robustness.base import Case, signature
from tests.robustness.classes import input_class
from tests.robustness.worker import Worker

FOUND = Path(__file__).parent / "found"

JOBS = "jobs (state machine)"

NAMES = (*classes.NAMES, JOBS)

QUIET = settings(
    database=None,
    deadline=None,
    verbosity=Verbosity.quiet,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
    print_blob=False,
    report_multiple_bugs=False,
)

SHRINKING_SECONDS = 60
"""Time to shrink a failing input, in addition to the search time."""

LEAST = 3
"""Minimum number of inputs, however slow the machine is."""


class CheckError(Exception):
    """An input failed."""


@dataclass
class Tally:
    """Result of a search."""

    name: str
    tried: int = 0
    problems: dict[str, str] = field(default_factory=dict)
    """Problems by signature."""
    seconds: float = 0.0


def search(name: str, seconds: float, number: int, worker: Worker, keep: Path | None = FOUND) -> Tally:
    """Try inputs of a class for some seconds; shrink failing inputs and write them to files.

    Args:
        name: name of the class.
        seconds: search time; a failure takes longer.
        number: seed.
        worker: the process that checks the inputs.
        keep: folder for failing inputs; None writes none.
    """
    tally, rounds = Tally(name), 0
    if name != JOBS:
        worker.warm_up(name)
    start = time.monotonic()
    while not tally.tried or time.monotonic() - start < seconds:
        rounds += 1
        if name == JOBS:
            from tests.robustness import machine

            failure = machine.search_round(number + rounds, QUIET, start + seconds, tally)
        else:
            failure = _round(name, number + rounds, start + seconds, tally, worker)
        if failure is not None and keep is not None:
            _keep(name, *failure, keep)
    tally.seconds = time.monotonic() - start
    return tally


def _round(name: str, number: int, end: float, tally: Tally, worker: Worker) -> tuple[Case, str] | None:
    """Try some examples; return the smallest failing one and its problem, or None."""
    failed: list[tuple[Case, str]] = []

    @seed(number)
    @settings(QUIET, max_examples=200)
    @given(input_class(name).cases())
    def one(case: Case) -> None:
        if tally.tried >= LEAST and time.monotonic() > end + (SHRINKING_SECONDS if failed else 0):
            return
        tally.tried += 1
        problem = worker.problem(name, case)
        if problem is None or (not failed and signature(problem) in tally.problems):
            return
        if not failed or signature(problem) in tally.problems:
            tally.problems.setdefault(signature(problem), problem)
            failed.append((case, problem))
            raise CheckError(problem)

    try:
        one()
    except (CheckError, Flaky):
        return failed[-1]
    return None


def _keep(name: str, case: Case, problem: str, folder: Path) -> None:
    """Write a failing input in the form that the regression test replays."""
    pinned = case if name == JOBS else input_class(name).pinned(case)
    text = json.dumps({"class": name, "case": pinned, "problem": problem.strip().splitlines()[-1][:300]}, indent=1)
    digest = hashlib.sha256(signature(problem).encode()).hexdigest()[:8]
    folder.mkdir(exist_ok=True)
    (folder / f"{name.replace(' ', '_')}-{digest}.json").write_text(text + "\n")


def kept() -> list[Path]:
    """List the files of inputs that failed before."""
    return sorted(FOUND.glob("*.json"))


def replay(path: Path, worker: Worker) -> str | None:
    """Check a kept input again; return the problem, or None."""
    content = json.loads(path.read_text())
    if content["class"] == JOBS:
        from tests.robustness import machine

        return machine.replay(content["case"])
    return worker.problem(content["class"], content["case"])
