"""Why a piece of a job has no result: the cause as data, since the error itself may be of another process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.errors import ErrorKind, SegmenterError, kind_of, reason_of


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an image or a tile has no result."""

    message: str
    kind: ErrorKind = "failed"
    field: str | None = None
    """The setting at fault."""

    @classmethod
    def of(cls, error: BaseException, image: Path | None = None, message: str | None = None) -> Failure:
        """Describe an error by ``message``, or by what it says of ``image``."""
        field = error.field if isinstance(error, SegmenterError) else None
        return cls(reason_of(error, image) if message is None else message, kind_of(error), field)

    def __str__(self) -> str:
        return self.message
