"""Labels of one image with their journal: the last snapshot, and the entries since."""

from __future__ import annotations

import logging
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from runtime.correction.difference import Difference, decode_difference
from runtime.correction.engine_record import EngineRecord
from runtime.correction.journal import Base, Entry, Journal, Kind, ProjectError, State
from runtime.correction.label_map import LabelMap
from runtime.correction.snapshot import read_base, read_snapshot, write_snapshot
from runtime.correction.timeline import Step, Timeline
from runtime.errors import InputError
from runtime.files.placing import remove_leftovers
from runtime.types import I32

JOURNAL_NAME = "journal.jsonl"
SNAPSHOT_NAME = "labels.tif"

SNAPSHOT_ENTRIES = 1000
"""A snapshot is written after so many entries, which take about as long to replay as a snapshot to read."""
SNAPSHOT_BYTES = 4 << 20
"""A snapshot is also written after entries of this size."""
CLOSING_ENTRIES = 50
"""On closing, a snapshot is written after so many entries."""
CLOSING_BYTES = 1 << 16
"""On closing, a snapshot is also written after entries of this size."""

Change = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Labels whose pixels changed, labels that are new, and labels that are gone."""

_log = logging.getLogger(__name__)


class ImageHistory:
    """Labels of one image, which change by entries of its journal."""

    def __init__(self, directory: Path, size_hw: tuple[int, int], *, read_only: bool = False) -> None:
        """Read the snapshot, and replay the entries since.

        Args:
            directory: directory of the image in the project; created with the first entry.
            size_hw: size of the image, pixels.
            read_only: change no file.

        Raises:
            ProjectError: the journal is damaged, or does not fit the snapshot.
        """
        self.directory = directory
        self._read_only = read_only
        path, problem = directory / SNAPSHOT_NAME, None
        if not read_only:
            remove_leftovers(directory, (SNAPSHOT_NAME,))
        # Before the journal, to which another process may be adding entries: it then reaches to the snapshot at least.
        try:
            found = read_snapshot(path, size_hw)
        except InputError as error:
            found, problem = None, error
        advice = _advice(path, found[1] if found else None)
        self.journal = Journal(directory / JOURNAL_NAME, size_hw, advice=advice, read_only=read_only)
        labels, base = self._start(path, found, problem)
        self.timeline = Timeline(self.journal.base, self.journal.entries)
        self._saved = base.revision
        self._saved_bytes = self.journal.size_bytes if base.revision else 0
        for entry in self.journal.entries:
            if entry.revision > base.revision:
                self._replay(entry, labels)
        self.cells = LabelMap(labels)

    def _start(self, path: Path, found: tuple[I32, Base] | None, problem: InputError | None) -> tuple[I32, Base]:
        """Return the labels from which to replay: the snapshot, or none if the journal begins with the first edit."""
        entries, begin = self.journal.entries, self.journal.base.revision
        if found is None:
            if begin or (problem is not None and not entries):
                raise ProjectError(
                    f"{self.journal.path} begins at revision {begin}; expected {path} with the labels before it "
                    f"({problem or 'it does not exist'}). Restore that file from a copy.",
                    kind="not_found" if problem is None else problem.kind,
                ) from problem
            if problem is not None:
                _log.warning("%s The labels are made again from the journal.", problem)
            return np.zeros(self.journal.size_hw, np.int32), Base()
        labels, base = found
        if not entries:
            _log.warning(
                "%s does not exist; the project continues from the labels of revision %d in %s, and earlier edits "
                "cannot be undone",
                self.journal.path,
                base.revision,
                path,
            )
            self.journal.base = base
        elif not begin <= base.revision <= entries[-1].revision:
            raise ProjectError(
                f"{self.journal.path} has revisions {begin + 1} to {entries[-1].revision}, but {path} is of revision "
                f"{base.revision}; expected one of these. Restore both files from the same copy, or move one away: "
                "the labels are then those of the other.",
                kind="mismatch",
            )
        return labels, base

    def _replay(self, entry: Entry, labels: I32) -> None:
        difference = self._difference_of(entry)
        if difference is None:
            return
        if not difference.fits(labels):
            raise ProjectError(
                f"{self.journal.path}: revision {entry.revision} does not fit the labels before it; expected those of "
                f"revision {entry.revision - 1}. Remove {self.directory / SNAPSHOT_NAME} to make the labels again "
                "from the journal.",
                kind="damaged",
            )
        difference.put(labels)

    def _difference_of(self, entry: Entry) -> Difference | None:
        """Return the pixels that an entry changes; None for a mark."""
        if entry.kind == "mark":
            return None
        if entry.kind == "edit":
            return self.difference(entry.revision)
        assert entry.of is not None, "checked by Timeline"
        difference = self.difference(entry.of)
        return difference.inverse() if entry.kind == "undo" else difference

    def difference(self, revision: int) -> Difference:
        """Read the pixels that an edit changed.

        Raises:
            InputError: the journal has no edit of this revision.
            ProjectError: its line is damaged.
        """
        entries = self.journal.entries
        index = revision - self.journal.base.revision - 1
        if not 0 <= index < len(entries) or entries[index].kind != "edit":
            raise InputError(
                f"revision {revision} is not an edit in {self.journal.path}; expected one from the history.",
                kind="not_found",
                field="revision",
            )
        entry = entries[index]
        return decode_difference(entry.box, self.journal.data(entry), self.journal.size_hw)

    def edit(
        self,
        difference: Difference,
        *,
        operation: str,
        parameters: dict[str, Any],
        author: str,
        state: State,
        engine: EngineRecord | None = None,
    ) -> Change:
        """Record an edit, then change the labels."""
        entry = self._entry(
            "edit",
            operation=operation,
            parameters=parameters,
            author=author,
            state=state,
            engine=engine,
            box=difference.box,
            data=difference.encode(),
            cells=self.cells.count_after(difference),
        )
        return self._add(entry, difference)

    def move(self, kind: Kind, author: str) -> tuple[Change, Difference]:
        """Record an undo or redo, then change the labels.

        Raises:
            InputError: there is nothing to undo or redo.
        """
        steps = self.timeline.undoable if kind == "undo" else self.timeline.redoable
        if not steps:
            raise InputError(
                f"there is nothing to {kind}; expected an edit {'before' if kind == 'undo' else 'that was undone'}.",
                kind="not_found",
            )
        step: Step = steps[-1]
        status = step.before if kind == "undo" else step.after
        difference = self.difference(step.revision)
        entry = self._entry(
            kind,
            operation=step.operation,
            author=author,
            state=status.state,
            cells=status.cells,
            of=step.revision,
            box=difference.box,
        )
        difference = difference.inverse() if kind == "undo" else difference
        return self._add(entry, difference), difference

    def mark(self, state: State, author: str) -> None:
        """Record a state."""
        self._add(self._entry("mark", author=author, state=state, cells=len(self.cells)), None)

    def _entry(self, kind: Kind, **content: Any) -> Entry:
        time = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return Entry(revision=self.timeline.revision + 1, kind=kind, time=time, **content)

    def _add(self, entry: Entry, difference: Difference | None) -> Change:
        self.journal.append(entry)
        self.timeline.follow(entry)
        changed: Change = ((), (), ()) if difference is None else self.cells.put(difference)
        if self._due(SNAPSHOT_ENTRIES, SNAPSHOT_BYTES):
            self.save()
        return changed

    def _due(self, entries: int, size: int) -> bool:
        since = self.timeline.revision - self._saved
        return since >= entries or (since > 0 and self.journal.size_bytes - self._saved_bytes >= size)

    def save(self) -> None:
        """Write a snapshot; a failure is logged, since the journal has everything."""
        try:
            write_snapshot(self.directory / SNAPSHOT_NAME, self.cells.labels, self.timeline.base())
        except OSError as error:
            _log.warning("%s: the snapshot cannot be written (%s)", self.directory, error)
            return
        self._saved, self._saved_bytes = self.timeline.revision, self.journal.size_bytes

    def close(self) -> None:
        """Write a snapshot if reading the entries since the last one would take long, and close the journal."""
        if not self._read_only and self._due(CLOSING_ENTRIES, CLOSING_BYTES):
            self.save()
        self.journal.close()


def read_timeline(directory: Path, size_hw: tuple[int, int]) -> Timeline:
    """Read the state of an image without its labels, and change no file.

    Raises:
        ProjectError: the journal is damaged.
        InputError: there is no journal, and the snapshot is damaged.
    """
    path = directory / SNAPSHOT_NAME
    journal = Journal(directory / JOURNAL_NAME, size_hw, read_only=True)
    return Timeline(journal.base if journal.entries else read_base(path) or Base(), journal.entries)


def _advice(snapshot: Path, base: Base | None) -> str:
    """Return what to do about a damaged journal of which there is no copy."""
    if base is None:
        return ""
    return (
        f" Without a copy, rename the file: the project then continues from the labels of revision {base.revision} in "
        f"{snapshot}, without later edits."
    )
