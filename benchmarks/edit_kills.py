"""Kill editing sessions at random moments, and check that at most the edit in flight is lost.

    python -m benchmarks.edit_kills              # 50 kills; some minutes
    python -m benchmarks.edit_kills --kills 3    # a try

A session is a child process that opens a project and makes random edits, undos, redos and marks without a pause. It
announces each with the digest of the labels to come, and confirms it when the call returns. The parent kills the child
with SIGKILL at a random moment, in a quarter of the rounds while it starts, and opens the project itself. The revision
must be the last confirmed one, or the announced one after it, and the labels must have its digest. Then all edits are
undone and redone, which must give no labels, and the same labels again. POSIX only.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.measure import write_record
from runtime.correction import history
from runtime.correction.edits.base import Edit
from runtime.correction.edits.cells import Delete, Merge, Renumber, Swap
from runtime.correction.edits.draw import Add, Erase
from runtime.correction.edits.form import FillHoles, Grow, KeepLargest
from runtime.correction.edits.shapes import Shape
from runtime.correction.project import Project
from runtime.errors import InputError
from runtime.types import I32

NAME = "image.png"
SIZE_HW = (240, 320)

SNAPSHOT_ENTRIES = 15
"""Entries between the snapshots of a session: few, so that kills also meet snapshots."""

LONGEST_S = 1.0
"""Latest moment of a kill after the project is open."""

SHOWN = 5
"""Maximum number of problems in the record."""


@dataclass(slots=True)
class Outcome:
    """Counts and problems of all kills so far."""

    kills: int = 0
    while_starting: int = 0
    """Kills before the session had reported that the project is open."""
    starting_s: float = 4.0
    """Time from the start of a session until the project is open, measured in the last round."""
    confirmed: int = 0
    """Changes whose call had returned before a kill."""
    in_flight_kept: int = 0
    """Kills after which the change in flight was there."""
    cut: int = 0
    """Kills after which the journal had an incomplete last line."""
    leftovers: int = 0
    """Kills after which a temporary file had to be removed."""
    snapshots: int = 0
    """Kills after which a snapshot existed."""
    problems: list[str] = field(default_factory=list)


def digest(labels: I32) -> str:
    """Return the beginning of the sha256 of labels."""
    return hashlib.sha256(np.ascontiguousarray(labels).tobytes()).hexdigest()[:16]


def make_project(directory: Path) -> None:
    """Create a project of one image without labels."""
    directory.mkdir(parents=True)
    Image.fromarray(np.zeros(SIZE_HW, np.uint8)).save(directory / NAME)
    Project.create(directory / "project", [directory / NAME]).close()


def random_edit(rng: random.Random, labels: list[int]) -> Edit:
    """Return a random edit, which may not fit the labels."""
    height, width = SIZE_HW
    points = [(rng.uniform(0, width), rng.uniform(0, height)) for _ in range(rng.randint(1, 4))]
    shape = Shape.of_stroke(points, rng.uniform(1, 15))
    if len(labels) < 2 or rng.random() < 0.4:
        return Add(shape=shape, overlap=rng.choice(("keep", "overwrite")))
    one, other = rng.sample(labels, 2)
    choices: tuple[Edit, ...] = (
        *(Erase(shape=shape), Delete(labels=(one,)), Merge(labels=(one, other)), Swap(first=one, second=other)),
        *(Renumber(), FillHoles(label=one), Grow(label=one, pixels=2), KeepLargest(label=one)),
        Add(shape=shape, label=one),
    )
    return rng.choice(choices)


def run_session(directory: Path, seed: int) -> None:
    """Edit until killed; print ``open``, then ``> REVISION DIGEST`` before each change and ``= REVISION`` after it."""
    history.SNAPSHOT_ENTRIES = SNAPSHOT_ENTRIES
    rng = random.Random(seed)
    with Project.open(directory) as project:
        _print("open")
        while True:
            _change(project, rng)


def _change(project: Project, rng: random.Random) -> None:
    """Make one random change."""
    status, now = project.status(NAME), project.labels(NAME)
    kind = rng.choices(("edit", "undo", "redo", "mark"), (8, 3, 2, 1))[0]
    if kind == "mark":
        state = rng.choice([one for one in ("segmented", "corrected", "done") if one != status.state])
        _announce(status.revision + 1, now)
        project.mark(NAME, state)
    elif kind == "edit":
        edit = random_edit(rng, list(project.areas(NAME)))
        try:
            after = _preview(edit, now)
        except InputError:
            return
        if np.array_equal(after, now):
            return
        _announce(status.revision + 1, after)
        project.apply(NAME, edit, author="session")
    else:
        if not (status.undo_steps if kind == "undo" else status.redo_steps):
            return
        _announce(status.revision + 1, _moved(project, kind, now))
        (project.undo if kind == "undo" else project.redo)(NAME)
    _print(f"= {status.revision + 1}")


def _preview(edit: Edit, labels: I32) -> I32:
    """Return the labels after an edit, without making it."""
    from runtime.correction.label_map import LabelMap

    difference = edit.difference(LabelMap(labels.copy()))
    after = labels.copy()
    if len(difference):
        difference.put(after)
    return after


def _moved(project: Project, kind: str, labels: I32) -> I32:
    """Return the labels after an undo or redo, from the journal alone."""
    undoable: list[int] = []
    redoable: list[int] = []
    for entry in project.history(NAME):
        if entry.kind == "edit":
            undoable.append(entry.revision)
            redoable.clear()
        elif entry.kind == "undo":
            redoable.append(undoable.pop())
        elif entry.kind == "redo":
            undoable.append(redoable.pop())
    difference = project.changed(NAME, (undoable if kind == "undo" else redoable)[-1])
    after = labels.copy()
    (difference.inverse() if kind == "undo" else difference).put(after)
    return after


def _announce(revision: int, labels: I32) -> None:
    _print(f"> {revision} {digest(labels)}")


def _print(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def kill_session(directory: Path, seed: int, outcome: Outcome) -> None:
    """Start a session, kill it at a random moment, and check the project."""
    rng = random.Random(seed)
    revision, labels = _present(directory)
    command = [sys.executable, "-m", "benchmarks.edit_kills", "--session", str(directory), "--seed", str(seed)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        start = time.perf_counter()
        if rng.random() < 0.25:
            time.sleep(rng.uniform(0.0, outcome.starting_s))
            outcome.while_starting += 1
        else:
            if child.stdout.readline().strip() != "open":
                outcome.problems.append(f"seed {seed}: the session did not open the project")
            outcome.starting_s = time.perf_counter() - start
            time.sleep(rng.uniform(0.0, LONGEST_S))
        child.kill()
        lines = child.stdout.read().splitlines()
    outcome.kills += 1
    announced = {revision: digest(labels)}
    for mark, number, *rest in (line.split() for line in lines if line[:2] in ("> ", "= ")):
        if mark == ">" and rest:
            announced[int(number)] = rest[0]
        elif mark == "=":
            revision = int(number)
            outcome.confirmed += 1
    _check(directory, seed, revision, announced, outcome)


def _present(directory: Path) -> tuple[int, I32]:
    with Project.open(directory, read_only=True) as project:
        return project.status(NAME).revision, project.labels(NAME)


def _check(directory: Path, seed: int, revision: int, announced: dict[int, str], outcome: Outcome) -> None:
    """Open a project after a kill, and compare it with what the session announced and confirmed."""
    place = directory / "labels" / NAME
    journal = place / history.JOURNAL_NAME
    outcome.cut += journal.exists() and not journal.read_bytes().endswith(b"\n")
    outcome.leftovers += any(directory.rglob(".*.partial"))
    outcome.snapshots += (place / history.SNAPSHOT_NAME).exists()
    with Project.open(directory) as project:
        found, labels = project.status(NAME).revision, project.labels(NAME)
        if found not in (revision, revision + 1) or found not in announced:
            outcome.problems.append(f"seed {seed}: revision {found} after {revision} was confirmed")
        elif digest(labels) != announced[found]:
            outcome.problems.append(f"seed {seed}: revision {found} has other labels than announced")
        outcome.in_flight_kept += found == revision + 1
        steps = project.status(NAME).undo_steps
        for _ in range(steps):
            project.undo(NAME)
        if project.labels(NAME).any():
            outcome.problems.append(f"seed {seed}: labels are left after all edits were undone")
        for _ in range(steps):
            project.redo(NAME)
        if not np.array_equal(project.labels(NAME), labels):
            outcome.problems.append(f"seed {seed}: other labels after all edits were redone")
    left = [path.name for path in directory.rglob(".*.partial")]
    if left:
        outcome.problems.append(f"seed {seed}: {left[0]} is left")


def kill_sessions(directory: Path, kills: int, seed: int = 0) -> Iterator[Outcome]:
    """Kill sessions on one project, one after the other; yield the counts after each."""
    make_project(directory)
    outcome = Outcome()
    for number in range(kills):
        kill_session(directory / "project", 1000 * seed + number, outcome)
        yield outcome


def main(arguments: list[str] | None = None) -> int:
    """Run all kills and write the record; return exit code 1 if there was a problem."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="seed of the edits and moments")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument(
        "--session", type=Path, help="project in which to edit until killed; used by the benchmark itself"
    )
    options = parser.parse_args(arguments)
    if options.session is not None:
        run_session(options.session, options.seed)
    start, outcome = time.perf_counter(), Outcome()
    with tempfile.TemporaryDirectory() as folder:
        for outcome in kill_sessions(Path(folder) / "work", options.kills, options.seed):
            _print(f"{outcome.kills} kills, {outcome.confirmed} changes, {len(outcome.problems)} problems")
        revision, _ = _present(Path(folder) / "work" / "project")
    content: dict[str, Any] = {
        **asdict(outcome),
        "starting_s": round(outcome.starting_s, 2),
        "problems": {"count": len(outcome.problems), "first": outcome.problems[:SHOWN]},
        "revision": revision,
        "seconds": round(time.perf_counter() - start, 1),
        "passed": not outcome.problems,
    }
    _print(str(write_record(options.out, "edit_kills", content)))
    return 0 if content["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
