"""Edits that split a cell: at seeds, or along a line."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
from scipy import ndimage

from runtime.correction.difference import Difference, difference_of
from runtime.correction.edits.shapes import Point, check_points
from runtime.correction.label_map import LabelMap
from runtime.errors import InputError
from runtime.types import I32, Bool

MAX_SEEDS = 1000

_SPECK = 0.02
"""Parts of less than this share of a cell, which a line leaves along its stairs, join a larger part."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitAtSeeds:
    """Split a cell into one part around each seed, by the watershed of its distance transform.

    The part of the first seed keeps the label; the others become new cells in the order of their seeds.
    """

    operation: ClassVar[str] = "split_at_seeds"

    label: int
    seeds: tuple[Point, ...]
    """x, y of two or more pixels of the cell."""

    def __post_init__(self) -> None:
        check_points(self.seeds, 2, "seeds")
        if len(self.seeds) > MAX_SEEDS:
            raise InputError(
                f"seeds has {len(self.seeds)} points; expected at most {MAX_SEEDS}.", kind="out_of_range", field="seeds"
            )

    def difference(self, cells: LabelMap) -> Difference:
        """Compute the pixels that change.

        Raises:
            InputError: no cell has the label, or a seed lies outside the cell or on the pixel of another one.

        Source: scikit-image, ``skimage.segmentation.watershed``.
        """
        from skimage.segmentation import watershed

        mask, (top, left, _, _) = cells.mask(self.label)
        markers = np.zeros(mask.shape, np.int32)
        for number, (x, y) in enumerate(self.seeds, start=1):
            row, column = int(np.floor(y)) - top, int(np.floor(x)) - left
            inside = 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1] and mask[row, column]
            if not inside or markers[row, column]:
                raise InputError(
                    f"seed {number} is at ({x:g}, {y:g}); expected a pixel of cell {self.label} for each seed. Move "
                    "the seed into the cell.",
                    kind="out_of_range",
                    field="seeds",
                )
            markers[row, column] = number
        # A frame of background: without it, the distance would not fall towards the edges of the box.
        distance = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
        parts = watershed(-distance, markers, mask=mask)  # type: ignore[no-untyped-call]
        # Parts of the cell that no seed reaches stay with the label.
        return _numbered(cells, self.label, np.where(mask & (parts == 0), 1, parts).astype(np.int32))


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitAlongLine:
    """Cut a cell along a polyline. The largest part keeps the label, the others become new cells.

    The pixels under the line stay with the nearest part.
    """

    operation: ClassVar[str] = "split_along_line"

    label: int
    points: tuple[Point, ...]
    """x, y of two or more points."""

    def __post_init__(self) -> None:
        check_points(self.points, 2, "points")

    def difference(self, cells: LabelMap) -> Difference:
        """Compute the pixels that change.

        Raises:
            InputError: no cell has the label, or the line does not cut the cell into two parts.
        """
        mask, (top, left, _, _) = cells.mask(self.label)
        line = _drawn([(x - left, y - top) for x, y in self.points], mask)
        parts = _cut(mask, line)
        if parts.max(initial=0) < 2:
            raise InputError(
                f"the line does not cut cell {self.label} into two parts; expected one that crosses it from outside to "
                "outside. Draw a longer line.",
                kind="invalid",
                field="points",
            )
        return _numbered(cells, self.label, _spread(parts, mask))


def _cut(mask: Bool, line: Bool) -> I32:
    """Number the parts into which a line cuts a mask.

    Returns:
        (h, w): 1 for the largest piece of every connected part, 2 to n for the other pieces, 0 for the line and specks.
    """
    whole, _ = ndimage.label(mask)
    pieces, count = ndimage.label(mask & ~line)  # 4 neighbours, which a line of 8 neighbours separates
    areas = np.bincount(pieces.ravel(), minlength=count + 1)
    part_of = ndimage.maximum(whole, pieces, np.arange(count + 1))
    numbers, last = np.ones(count + 1, np.int32), 1
    numbers[0] = 0
    for part in np.unique(part_of[1:]):
        of_part = 1 + np.flatnonzero(part_of[1:] == part)
        for piece in of_part[np.argsort(-areas[of_part], kind="stable")][1:]:
            is_speck = areas[piece] < _SPECK * np.count_nonzero(mask)
            last += not is_speck
            numbers[piece] = 0 if is_speck else last
    cut: I32 = numbers[pieces]
    return cut


def _drawn(points: list[Point], mask: Bool) -> Bool:
    """Return the pixels of a window that a polyline passes, connected at least at corners."""
    from skimage.draw import line

    drawn = np.zeros(mask.shape, np.bool_)
    for (x0, y0), (x1, y1) in pairwise(points):
        clipped = _clip((x0, y0), (x1, y1), mask.shape)
        if clipped is None:
            continue
        (c0, r0), (c1, r1) = ((int(np.floor(x)), int(np.floor(y))) for x, y in clipped)
        rows, columns = line(r0, c0, r1, c1)  # type: ignore[no-untyped-call]
        inside = (rows >= 0) & (rows < mask.shape[0]) & (columns >= 0) & (columns < mask.shape[1])
        drawn[rows[inside], columns[inside]] = True
    return drawn


def _clip(start: Point, stop: Point, shape: tuple[int, ...]) -> tuple[Point, Point] | None:
    """Cut a segment to the window and two pixels around it; None if it lies outside (Liang and Barsky 1984)."""
    low, high = 0.0, 1.0
    for begin, end, length in ((start[0], stop[0], shape[1]), (start[1], stop[1], shape[0])):
        step = end - begin
        for edge, direction in ((-2.0 - begin, -1.0), (length + 2.0 - begin, 1.0)):
            if step == 0.0:
                if direction * edge < 0:
                    return None
            elif step * direction > 0:
                high = min(high, edge / step)
            else:
                low = max(low, edge / step)
    if low > high:
        return None
    dx, dy = stop[0] - start[0], stop[1] - start[1]
    return (start[0] + low * dx, start[1] + low * dy), (start[0] + high * dx, start[1] + high * dy)


def _spread(parts: I32, mask: Bool) -> I32:
    """Give the remaining pixels of a mask to the nearest part."""
    nearest = ndimage.distance_transform_edt(parts == 0, return_distances=False, return_indices=True)
    return np.where(mask, parts[tuple(nearest)], 0).astype(np.int32)


def _numbered(cells: LabelMap, label: int, parts: I32) -> Difference:
    """Give part 1 of a cell its label and the others the next free labels.

    Args:
        cells: the labels.
        label: the cell.
        parts: numbers 1..n of its parts within the cell's box, 0 outside the cell.

    Raises:
        InputError: there are not enough free labels.
    """
    box, first = cells.box(label), cells.next_label()
    count = int(parts.max())
    names = np.array([0, label, *range(first, first + count - 1)], np.int32)
    before = cells.window(box)
    return difference_of(before, np.where(parts > 0, names[parts], before), box[:2])
