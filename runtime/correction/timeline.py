"""State of an image along its journal: revision, undo and redo steps, engine. Without labels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from runtime.correction.engine_record import EngineRecord
from runtime.correction.journal import Base, Entry, ProjectError, State


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """The part of an image's state that undo brings back."""

    state: State = "new"
    engine: EngineRecord | None = None
    cells: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """An edit that can be undone or redone."""

    revision: int
    operation: str
    before: Status
    after: Status


class Timeline:
    """State of an image after some entries of its journal."""

    def __init__(self, base: Base, entries: Iterable[Entry] = ()) -> None:
        """Begin at the point before the first entry, then follow the entries."""
        self.revision = base.revision
        self.status = Status(state=base.state, engine=base.engine, cells=base.cells)
        self.undoable: list[Step] = []
        self.redoable: list[Step] = []
        self.author = ""
        for entry in entries:
            self.follow(entry)

    def follow(self, entry: Entry) -> None:
        """Advance by one entry.

        Raises:
            ProjectError: the entry does not fit, such as the undo of another edit than the last one.
        """
        if entry.kind == "edit":
            after = Status(state=entry.state, engine=entry.engine or self.status.engine, cells=entry.cells)
            step = Step(revision=entry.revision, operation=entry.operation, before=self.status, after=after)
            self.undoable.append(step)
            self.redoable.clear()
            self.status = after
        elif entry.kind == "mark":
            self.status = replace(self.status, state=entry.state)
        else:
            source, target = (self.undoable, self.redoable) if entry.kind == "undo" else (self.redoable, self.undoable)
            if not source or source[-1].revision != entry.of:
                raise ProjectError(
                    f"revision {entry.revision} is the {entry.kind} of revision {entry.of}; expected that of the last "
                    "edit. Restore the journal from a copy.",
                    kind="damaged",
                )
            step = source.pop()
            target.append(step)
            self.status = step.before if entry.kind == "undo" else step.after
        self.revision, self.author = entry.revision, entry.author

    def base(self) -> Base:
        """Return this point for a snapshot."""
        return Base(revision=self.revision, state=self.status.state, engine=self.status.engine, cells=self.status.cells)
