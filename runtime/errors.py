"""Everything this package raises on purpose. Each message says what came, what was expected, what to do."""


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
