"""All errors that this package raises. Each message states what came, what was expected and what to do.

A message names settings as in Python (``nuclear=``, ``diameter_px``); the command line replaces them with its options.
Callers should branch on the class, ``kind`` and ``field``, never on the text of a message.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import ClassVar, Literal

ErrorKind = Literal[
    "failed",
    "invalid",
    "out_of_range",
    "wrong_shape",
    "wrong_type",
    "conflict",
    "missing",
    "not_found",
    "exists",
    "busy",
    "unreadable",
    "damaged",
    "mismatch",
    "wrong_version",
    "not_installed",
    "unsupported",
    "too_large",
    "disk_full",
    "out_of_memory",
]
"""Kind of error, for programs. ``failed`` means that no other kind is known to apply."""


class SegmenterError(Exception):
    """Base class of all errors of this package. Pickling keeps ``kind`` and ``field``."""

    usual_kind: ClassVar[ErrorKind] = "failed"

    def __init__(self, *arguments: object, kind: ErrorKind | None = None, field: str | None = None) -> None:
        """Create the error.

        Args:
            arguments: the message.
            kind: kind of error; default, the usual kind of the class.
            field: setting, argument or manifest field at fault (``box_threshold``, ``engines.encoder.file``).
        """
        super().__init__(*arguments)
        self.kind: ErrorKind = self.usual_kind if kind is None else kind
        self.field = field


class InputError(SegmenterError, ValueError):
    """An image, a set of boxes or a file that cannot be segmented."""

    usual_kind: ClassVar[ErrorKind] = "invalid"


class ImageTooLargeError(InputError):
    """An image that is too large to segment as a whole, and must be processed as a slide."""

    usual_kind: ClassVar[ErrorKind] = "too_large"


class ConfigError(SegmenterError, ValueError):
    """A setting outside its range."""

    usual_kind: ClassVar[ErrorKind] = "out_of_range"


class EngineError(SegmenterError):
    """An engine directory that is missing, incomplete, altered or of another version."""

    usual_kind: ClassVar[ErrorKind] = "damaged"


class BackendError(SegmenterError):
    """A backend that is unknown, not installed, or failed to run an engine."""


class OutOfMemoryError(BackendError):
    """A call that does not fit into the memory of the device or host."""

    usual_kind: ClassVar[ErrorKind] = "out_of_memory"


class JobError(SegmenterError):
    """A job that cannot be started, resumed or finished."""


RECOVERABLE_ERRORS = Exception
"""Errors that fail one image or tile while the others continue. Libraries for files and engines raise any class."""

_EXPECTED_ERRORS = (SegmenterError, OSError, MemoryError, RuntimeError, ValueError)
"""Errors whose message explains the problem without the name of the class."""

_KINDS: dict[int | None, ErrorKind] = {
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.ENOENT: "not_found",
    errno.EEXIST: "exists",
    errno.EACCES: "unreadable",
    errno.EPERM: "unreadable",
    errno.EIO: "unreadable",
    errno.ENOMEM: "out_of_memory",
}


def kind_of(error: BaseException) -> ErrorKind:
    """Return the kind of any error: that of a ``SegmenterError``, or the one that fits a memory or system error."""
    if isinstance(error, SegmenterError):
        return error.kind
    if isinstance(error, MemoryError):
        return "out_of_memory"
    return _KINDS.get(error.errno, "failed") if isinstance(error, OSError) else "failed"


def reason_of(error: BaseException, image: Path | None = None) -> str:
    """Return the message of an error for the user; the file of an ``OSError`` is named unless it is ``image``."""
    if isinstance(error, OSError) and error.strerror:
        named = error.filename is not None and (image is None or str(error.filename) != str(image))
        return f"{error.strerror}: {error.filename}" if named else error.strerror
    if not isinstance(error, _EXPECTED_ERRORS):
        return f"{type(error).__name__}: {error}"
    return str(error) or type(error).__name__
