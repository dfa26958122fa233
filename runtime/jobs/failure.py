"""The cause of a failed piece of a job, as data: the error itself may belong to another process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.errors import ErrorKind, SegmenterError, kind_of, reason_of


@dataclass(frozen=True, slots=True)
class Failure:
    """Reason why an image or a tile has no result."""

    message: str
    kind: ErrorKind = "failed"
    field: str | None = None
    """The setting at fault."""

    @classmethod
    def of(cls, error: BaseException, image: Path | None = None, message: str | None = None) -> Failure:
        """Describe an error by ``message``, or by its reason, with ``image`` named."""
        field = error.field if isinstance(error, SegmenterError) else None
        return cls(reason_of(error, image) if message is None else message, kind_of(error), field)

    def __str__(self) -> str:
        return self.message
