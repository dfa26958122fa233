"""First pass of a build over all fields: content hashes, borders, and unreadable files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from runtime.errors import SegmenterError
from training.data.borders import borders_of
from training.data.records import Field, Skipped
from training.data.splits import Candidate, content_hash

BuildStep = Literal["scanning", "cutting", "indexing"]
Progress = Callable[[BuildStep, int, int, str], None]
"""Callback with the step of a build, the number of items done, their total, and the name of the current item."""

UNREADABLE = (SegmenterError, OSError, MemoryError)
"""Errors of a file that cannot be used."""


def scan(fields: Sequence[Field], tell: Progress) -> tuple[list[Candidate], dict[str, Skipped]]:
    """Read every image once, and its labels and borders if its split has to be drawn.

    Returns:
        A candidate for each readable field, and the unreadable fields by image id.
    """
    candidates: list[Candidate] = []
    broken: dict[str, Skipped] = {}
    for done, field in enumerate(fields):
        tell("scanning", done, len(fields), field.image_id)
        try:
            channels = field.read_channels()
            drawn = field.split is None
            candidates.append(
                Candidate(
                    image_id=field.image_id,
                    image_hash=content_hash(channels),
                    split=field.split,
                    object_set=field.object_set,
                    labels_hash=_labels_hash(field) if drawn else None,
                    borders=borders_of(channels) if drawn and field.object_set is None else None,
                )
            )
        except UNREADABLE as error:
            broken[field.image_id] = skip(field, error)
    tell("scanning", len(fields), len(fields), "")
    return candidates, broken


def _labels_hash(field: Field) -> str | None:
    labels = field.read_labels()
    return content_hash(labels) if labels.any() else None  # all empty label maps are equal


def skip(field: Field, error: Exception) -> Skipped:
    """Record a field's file and its error."""
    return Skipped(field.file, str(error) or type(error).__name__)
