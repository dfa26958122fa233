"""Errors of the export."""

from runtime.errors import SegmenterError


class ExportError(SegmenterError):
    """The engines could not be written; nothing was left behind."""


class VerificationError(ExportError):
    """An engine does not compute what the PyTorch model computes."""

    usual_kind = "mismatch"
