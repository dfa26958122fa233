"""Everything this package raises on purpose. Each message says what came, what was expected, what to do."""

from __future__ import annotations

from pathlib import Path


class SegmenterError(Exception):
    """Base of all errors of this package."""


class InputError(SegmenterError, ValueError):
    """An image, a set of boxes or a file that cannot be segmented."""


class ImageTooLargeError(InputError):
    """An image that is not segmented as a whole, but as a slide."""


class ConfigError(SegmenterError, ValueError):
    """A setting outside its range."""


class EngineError(SegmenterError):
    """An engine directory that is missing, incomplete, altered or of another version."""


class BackendError(SegmenterError):
    """A backend that is not installed, not known, or failed to run an engine."""


class OutOfMemoryError(BackendError):
    """A call that does not fit into the memory of the device or the host."""


class JobError(SegmenterError):
    """A job that cannot be begun, gone on with or finished."""


CAUGHT = (SegmenterError, OSError, MemoryError, RuntimeError, ValueError)
"""What a damaged file, a full memory or disk, or a backend raise: one image or tile fails, the others go on."""


def reason_of(error: BaseException, image: Path | None = None) -> str:
    """What an error says, in words of the user; the file that an ``OSError`` is about only if it is not ``image``."""
    if isinstance(error, OSError) and error.strerror:
        named = error.filename is not None and (image is None or str(error.filename) != str(image))
        return f"{error.strerror}: {error.filename}" if named else error.strerror
    return str(error) or type(error).__name__
