"""Links between the cells of neighbouring planes, by overlap. Pure functions on label maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from runtime.types import I32

LEAST_IOU = 0.25
"""Default of ``link_planes``: cells of neighbouring planes are one cell if their IoU is at least this."""


def link_planes(planes: Sequence[I32], least_iou: float = LEAST_IOU) -> list[I32]:
    """Number the cells of a stack so that cells that overlap in neighbouring planes have the same number.

    A cell is linked to at most one cell of the next plane. Pairs are taken in the order of their IoU.

    Args:
        planes: (H, W) label map of each plane, 0 background, 1..n cells without gaps.
        least_iou: lowest IoU of linked cells, above 0.

    Returns:
        For each plane, the numbers in the stack of its cells, (n,) int32; numbers begin at 1 and have no gaps.
    """
    numbers: list[I32] = []
    count = 0
    for place, labels in enumerate(planes):
        own = np.zeros(int(labels.max(initial=0)), np.int32)
        if place:
            above, below = match_cells(planes[place - 1], labels, least_iou)
            own[below - 1] = numbers[-1][above - 1]
        new = own == 0
        own[new] = count + 1 + np.arange(np.count_nonzero(new))
        count += int(np.count_nonzero(new))
        numbers.append(own)
    return numbers


def match_cells(one: I32, other: I32, least_iou: float) -> tuple[I32, I32]:
    """Pair the cells of two label maps of one size by IoU, the best pairs first.

    Returns:
        The labels of the pairs in ``one`` and in ``other``, (k,) int32 each.
    """
    both = (one > 0) & (other > 0)
    width = int(other.max(initial=0)) + 1
    pairs, shared = np.unique(one[both].astype(np.int64) * width + other[both], return_counts=True)
    first, second = np.divmod(pairs, width)
    areas, other_areas = np.bincount(one.ravel()), np.bincount(other.ravel())
    iou = shared / (areas[first] + other_areas[second] - shared)
    free, other_free = np.ones(len(areas), np.bool_), np.ones(len(other_areas), np.bool_)
    found = []
    for pair in np.lexsort((second, first, -iou)):
        if iou[pair] < least_iou:
            break
        if free[first[pair]] and other_free[second[pair]]:
            free[first[pair]] = other_free[second[pair]] = False
            found.append(pair)
    return first[found].astype(np.int32), second[found].astype(np.int32)
