"""Errors of the export."""

from runtime.errors import SegmenterError


class ExportError(SegmenterError):
    """An export that failed; it leaves nothing behind."""


class VerificationError(ExportError):
    """An engine whose results differ from those of the PyTorch model."""

    usual_kind = "mismatch"
