"""Edits that draw: add pixels to a new or an existing cell, erase them, or draw a cell again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from runtime.correction.difference import Difference, difference_of
from runtime.correction.edits.base import Overlap
from runtime.correction.edits.shapes import Shape
from runtime.correction.label_map import LabelMap, union
from runtime.errors import InputError
from runtime.types import Extent


@dataclass(frozen=True, kw_only=True, slots=True)
class Add:
    """Add the pixels of a shape to a cell."""

    operation: ClassVar[str] = "add"

    shape: Shape
    label: int | None = None
    """The cell that receives the pixels; None makes a new cell."""
    overlap: Overlap = "keep"

    def difference(self, cells: LabelMap) -> Difference:
        """Compute the pixels that change; none if other cells own all of them.

        Raises:
            InputError: no cell has the label.
        """
        if self.label is not None:
            cells.check_cell(self.label)
        crop, label = self.shape.crop(cells.size_hw), cells.next_label() if self.label is None else self.label
        before = cells.window(_box(crop.offset_yx, crop.mask.shape))
        wanted = crop.mask if self.overlap == "overwrite" else crop.mask & (before == 0)
        return difference_of(before, np.where(wanted, np.int32(label), before), crop.offset_yx)


@dataclass(frozen=True, kw_only=True, slots=True)
class Erase:
    """Turn the pixels of a shape into background."""

    operation: ClassVar[str] = "erase"

    shape: Shape
    label: int | None = None
    """The cell that loses the pixels; None erases those of all cells."""

    def difference(self, cells: LabelMap) -> Difference:
        """Compute the pixels that change.

        Raises:
            InputError: no cell has the label.
        """
        if self.label is not None:
            cells.check_cell(self.label)
        crop = self.shape.crop(cells.size_hw)
        before = cells.window(_box(crop.offset_yx, crop.mask.shape))
        erased = crop.mask if self.label is None else crop.mask & (before == self.label)
        return difference_of(before, np.where(erased, np.int32(0), before), crop.offset_yx)


@dataclass(frozen=True, kw_only=True, slots=True)
class Redraw:
    """Give a cell the pixels of a shape in place of its own; pixels of other cells stay theirs."""

    operation: ClassVar[str] = "redraw"

    shape: Shape
    label: int

    def difference(self, cells: LabelMap) -> Difference:
        """Compute the pixels that change.

        Raises:
            InputError: no cell has the label, or other cells own the whole shape.
        """
        cells.check_cell(self.label)
        crop = self.shape.crop(cells.size_hw)
        drawn = _box(crop.offset_yx, crop.mask.shape)
        box = union([cells.box(self.label), drawn])
        before = cells.window(box)
        after = np.where(before == self.label, np.int32(0), before)
        inside = after[drawn[0] - box[0] : drawn[2] - box[0], drawn[1] - box[1] : drawn[3] - box[1]]
        inside[crop.mask & (inside == 0)] = self.label
        if not (after == self.label).any():
            raise InputError(
                f"other cells own all pixels of the new shape of cell {self.label}; expected some background. Erase "
                "those cells first.",
                kind="conflict",
                field="shape",
            )
        return difference_of(before, after, box[:2])


def _box(offset_yx: tuple[int, int], shape: tuple[int, ...]) -> Extent:
    (top, left), (height, width) = offset_yx, shape
    return top, left, top + height, left + width
