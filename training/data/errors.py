"""Errors of the data builders and the reader."""

from runtime.errors import SegmenterError


class DataError(SegmenterError):
    """Error of a source file, a source directory or a built dataset that cannot be used."""

    usual_kind = "invalid"
