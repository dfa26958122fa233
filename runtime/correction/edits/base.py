"""Protocol of edits, and checks that several share."""

from __future__ import annotations

from typing import ClassVar, Literal, Protocol

from runtime.correction.difference import Difference
from runtime.correction.label_map import LabelMap
from runtime.errors import InputError

Overlap = Literal["keep", "overwrite"]
"""At pixels of other cells: ``keep`` leaves them to these cells, ``overwrite`` takes them."""

MAX_PIXELS = 1000
"""Largest number of pixels by which a cell grows or shrinks."""


class Edit(Protocol):
    """An operation on the labels of one image: a frozen dataclass of its parameters."""

    operation: ClassVar[str]
    """Name of the operation in JSON and in the journal."""

    def difference(self, cells: LabelMap) -> Difference:
        """Compute the pixels that change, without changing them.

        Raises:
            InputError: the edit does not fit the labels.
        """
        ...


def check_labels_given(labels: tuple[int, ...], least: int) -> None:
    """Raise an ``InputError`` unless there are enough labels and each is given once."""
    if len(labels) < least or len(set(labels)) < len(labels):
        raise InputError(
            f"labels are {list(labels)}; expected {least} or more different labels.", kind="invalid", field="labels"
        )


def check_pixels(pixels: int) -> None:
    """Raise an ``InputError`` unless this is a number of pixels to grow or shrink by."""
    if not 1 <= pixels <= MAX_PIXELS:
        raise InputError(f"pixels is {pixels}; expected 1 to {MAX_PIXELS}.", kind="out_of_range", field="pixels")
