"""Painting of separate masks, which may overlap, into one label map."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from runtime.ops.masks import MaskCrop
from runtime.types import I32

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FoundCell:
    """A cell of a label file."""

    crop: MaskCrop
    label: int | None = None
    """The number that the file gives it; None if it gives none."""


def paint_cells(cells: Iterable[FoundCell], size_hw: tuple[int, int], name: str) -> I32:
    """Paint cells into a label map; where cells overlap, the earlier one keeps the pixel.

    Args:
        cells: the cells. They keep their numbers if all have different ones from 1 up; otherwise they are numbered 1..n
            in their order.
        size_hw: size of the image, pixels.
        name: the file, for warnings about cells without pixels and overlaps.

    Returns:
        (H, W) int32, 0 background.
    """
    cells = list(cells)
    given = [cell.label for cell in cells]
    keep = len(set(given)) == len(given) and all(label is not None and 1 <= label < 1 << 31 for label in given)
    labels = np.zeros(size_hw, np.int32)
    overlapping = lost = 0
    for number, cell in enumerate(cells, start=1):
        (y, x), (height, width) = cell.crop.offset_yx, cell.crop.mask.shape
        window = labels[y : y + height, x : x + width]
        free = cell.crop.mask & (window == 0)
        window[free] = cell.label if keep and cell.label is not None else number
        count = int(np.count_nonzero(free))
        overlapping += 0 < count < cell.crop.area_px
        lost += not count
    if overlapping:
        _log.warning("%s: %d cells overlap earlier ones, which keep the pixels", name, overlapping)
    if lost:
        _log.warning("%s: %d cells have no pixel of their own in the image, and are left out", name, lost)
    return labels
