"""Everything this package raises on purpose. Each message says what came, what was expected, what to do.

A message names settings as Python does (``nuclear=``, ``diameter_px``); the command line puts its flags in their place.
Callers decide by class, ``kind`` and ``field``, never by the words of a message.
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
"""What is wrong, for programs. ``failed``: none of the others is known to apply."""


class SegmenterError(Exception):
    """Base of all errors of this package; can be pickled with ``kind`` and ``field``."""

    usual_kind: ClassVar[ErrorKind] = "failed"

    def __init__(self, *arguments: object, kind: ErrorKind | None = None, field: str | None = None) -> None:
        """Create the error.

        Args:
            arguments: the message.
            kind: what is wrong; default, the usual kind of the class.
            field: the setting, argument or manifest field at fault (``box_threshold``, ``engines.encoder.file``).
        """
        super().__init__(*arguments)
        self.kind: ErrorKind = self.usual_kind if kind is None else kind
        self.field = field


class InputError(SegmenterError, ValueError):
    """An image, a set of boxes or a file that cannot be segmented."""

    usual_kind: ClassVar[ErrorKind] = "invalid"


class ImageTooLargeError(InputError):
    """An image that is not segmented as a whole, but as a slide."""

    usual_kind: ClassVar[ErrorKind] = "too_large"


class ConfigError(SegmenterError, ValueError):
    """A setting outside its range."""

    usual_kind: ClassVar[ErrorKind] = "out_of_range"


class EngineError(SegmenterError):
    """An engine directory that is missing, incomplete, altered or of another version."""

    usual_kind: ClassVar[ErrorKind] = "damaged"


class BackendError(SegmenterError):
    """A backend that is not installed, not known, or failed to run an engine."""


class OutOfMemoryError(BackendError):
    """A call that does not fit into the memory of the device or the host."""

    usual_kind: ClassVar[ErrorKind] = "out_of_memory"


class JobError(SegmenterError):
    """A job that cannot be begun, gone on with or finished."""


RECOVERABLE_ERRORS = Exception
"""One image or tile fails, the others go on: libraries that read files and run engines raise what they like."""

_EXPECTED_ERRORS = (SegmenterError, OSError, MemoryError, RuntimeError, ValueError)
"""Those whose message alone says what is wrong."""

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
    """What is wrong, of any error: a ``SegmenterError``'s own kind, or that of a memory or system error."""
    if isinstance(error, SegmenterError):
        return error.kind
    if isinstance(error, MemoryError):
        return "out_of_memory"
    return _KINDS.get(error.errno, "failed") if isinstance(error, OSError) else "failed"


def reason_of(error: BaseException, image: Path | None = None) -> str:
    """What an error says, in words of the user; the file that an ``OSError`` is about only if it is not ``image``."""
    if isinstance(error, OSError) and error.strerror:
        named = error.filename is not None and (image is None or str(error.filename) != str(image))
        return f"{error.strerror}: {error.filename}" if named else error.strerror
    if not isinstance(error, _EXPECTED_ERRORS):
        return f"{type(error).__name__}: {error}"
    return str(error) or type(error).__name__
