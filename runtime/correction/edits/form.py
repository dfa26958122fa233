"""Edits of the form of one cell: holes, size and separate parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy import ndimage

from runtime.correction.difference import Difference, difference_of
from runtime.correction.edits.base import Overlap, check_pixels
from runtime.correction.label_map import LabelMap
from runtime.errors import InputError
from runtime.types import Bool, Extent

_CROSS = ndimage.generate_binary_structure(2, 1)
_SQUARE = ndimage.generate_binary_structure(2, 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class FillHoles:
    """Fill the holes of a cell."""

    operation: ClassVar[str] = "fill_holes"

    label: int
    overlap: Overlap = "keep"
    """``keep`` fills only background; ``overwrite`` also takes the pixels of other cells in the holes."""

    def difference(self, cells: LabelMap) -> Difference:
        """Compute the pixels that change.

        Raises:
            InputError: no cell has the label.
        """
        mask, box = cells.mask(self.label)
        filled = ndimage.binary_fill_holes(mask)
        if self.overlap == "keep":
            filled = mask | (filled & (cells.window(box) == 0))
        return _reshaped(cells, self.label, filled, box)


@dataclass(frozen=True, kw_only=True, slots=True)
class Grow:
    """Grow a cell into the background around it, never over other cells.

    Rounds with 4 and 8 neighbours alternate, so that the outline stays round.
    """

    operation: ClassVar[str] = "grow"

    label: int
    pixels: int = 1

    def __post_init__(self) -> None:
        check_pixels(self.pixels)

    def difference(self, cells: LabelMap) -> Difference:
        """Compute the pixels that change.

        Raises:
            InputError: no cell has the label.
        """
        box = cells.box(self.label, margin=self.pixels)
        before = cells.window(box)
        mask = before == self.label
        free = mask | (before == 0)
        for number in range(self.pixels):
            mask = ndimage.binary_dilation(mask, _SQUARE if number % 2 else _CROSS, mask=free)
        return _reshaped(cells, self.label, mask, box)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shrink:
    """Shrink a cell from its outline, except along the edges of the image."""

    operation: ClassVar[str] = "shrink"

    label: int
    pixels: int = 1

    def __post_init__(self) -> None:
        check_pixels(self.pixels)

    def difference(self, cells: LabelMap) -> Difference:
        """Compute the pixels that change.

        Raises:
            InputError: no cell has the label, or nothing of the cell would be left.
        """
        # The margin of background is missing at the edges of the image, so that the cell does not shrink there.
        box = cells.box(self.label, margin=1)
        mask = cells.window(box) == self.label
        for number in range(self.pixels):
            mask = ndimage.binary_erosion(mask, _SQUARE if number % 2 else _CROSS, border_value=1)
        if not mask.any():
            raise InputError(
                f"pixels is {self.pixels}, which would leave nothing of cell {self.label}; expected less. Delete the "
                "cell instead.",
                kind="out_of_range",
                field="pixels",
            )
        return _reshaped(cells, self.label, mask, box)


@dataclass(frozen=True, kw_only=True, slots=True)
class KeepLargest:
    """Remove all parts of a cell but the largest. Parts that touch only at a corner are separate."""

    operation: ClassVar[str] = "keep_largest"

    label: int

    def difference(self, cells: LabelMap) -> Difference:
        """Compute the pixels that change.

        Raises:
            InputError: no cell has the label.
        """
        mask, box = cells.mask(self.label)
        parts, _ = ndimage.label(mask)
        areas = np.bincount(parts.ravel())
        areas[0] = 0
        return _reshaped(cells, self.label, parts == areas.argmax(), box)


def _reshaped(cells: LabelMap, label: int, mask: Bool, box: Extent) -> Difference:
    """Replace the pixels of a cell within a box that contains it."""
    before = cells.window(box)
    after = np.where(before == label, np.int32(0), before)
    after[mask] = label
    return difference_of(before, after, box[:2])
