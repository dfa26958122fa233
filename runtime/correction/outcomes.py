"""Results and errors of the calls of a project."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.correction.engine_record import EngineRecord
from runtime.correction.journal import ProjectError, State
from runtime.errors import ErrorKind
from runtime.types import Extent


class ConflictError(ProjectError):
    """An edit of labels that somebody else has changed in the meantime."""

    usual_kind: ErrorKind = "conflict"  # type: ignore[misc]

    def __init__(
        self,
        message: str,
        revision: int = 0,
        author: str = "",
        *,
        kind: ErrorKind | None = None,
        field: str | None = None,
    ) -> None:
        """Create the error.

        Args:
            message: the message.
            revision: the present revision of the image.
            author: who made it.
            kind: kind of error.
            field: field at fault.
        """
        super().__init__(message, kind=kind, field=field)
        self.revision, self.author = revision, author


@dataclass(frozen=True, kw_only=True, slots=True)
class EditResult:
    """Effect of one edit, undo, redo or mark."""

    revision: int
    """Revision of the image afterwards."""
    state: State
    box: Extent = (0, 0, 0, 0)
    """Bounding box of the changed pixels; (0, 0, 0, 0) if there are none."""
    cells: tuple[int, ...] = ()
    """Labels whose pixels changed, in ascending order."""
    created: tuple[int, ...] = ()
    """Labels among them that are new."""
    removed: tuple[int, ...] = ()
    """Labels among them that are gone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageStatus:
    """State of one image of a project."""

    name: str
    size_hw: tuple[int, int]
    state: State
    revision: int
    cells: int
    """Number of cells."""
    undo_steps: int
    redo_steps: int
    engine: EngineRecord | None
    """The engine of the last segmentation; None if there was none, or its engine is unknown."""
    author: str
    """Who made the last change."""
    problem: str | None = None
    """Why the image cannot be edited, such as a moved file; None if it can."""
