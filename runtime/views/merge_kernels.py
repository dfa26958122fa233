"""Compiled loops of ``runtime.views.merge_rules``."""

from __future__ import annotations

import numpy as np

from runtime.ops.compiled import compiled
from runtime.types import I32, I64


@compiled
def joint_areas(one: I32, other: I32, count_one: int, count_other: int) -> I64:
    """Count the pixels of each pair of labels of two tiles.

    Args:
        one, other: (h, w) labels of the area that both tiles show.
        count_one, count_other: highest label of each tile.

    Returns:
        (count_one + 1, count_other + 1) number of pixels.

    Raises:
        ValueError: the shapes differ, or a label is out of range.
    """
    if one.shape != other.shape:
        raise ValueError("the parts of two tiles differ in shape.")
    found = np.zeros((count_one + 1, count_other + 1), np.int64)
    for y in range(one.shape[0]):
        for x in range(one.shape[1]):
            i, j = one[y, x], other[y, x]
            if i < 0 or i > count_one or j < 0 or j > count_other:
                raise ValueError("a label is below 0 or above the number of cells.")
            found[i, j] += 1
    return found


@compiled
def paint_label(labels: I32, tile: I32, label: int, number: int) -> None:
    """Give the free pixels of one label of a tile a number, in place.

    Args:
        labels: (h, w) the numbers of an area; 0 is free.
        tile: (h, w) the labels of a tile in the same area.
        label: the label to paint.
        number: the number to paint.

    Raises:
        ValueError: the shapes differ.
    """
    if labels.shape != tile.shape:
        raise ValueError("a tile differs in shape from the area to paint.")
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            if tile[y, x] == label and labels[y, x] == 0:
                labels[y, x] = number
