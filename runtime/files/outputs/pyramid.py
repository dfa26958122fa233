"""Pyramids of label maps, for viewers of large images. Pure functions on arrays."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

SMALLEST_LEVEL_PX = 1024
"""Levels are added until the longer side is at most this long."""


def label_dtype(labels: NDArray[np.integer]) -> np.dtype[np.unsignedinteger]:
    """Return uint16 if the labels fit, else uint32."""
    return np.dtype(np.uint16) if labels.max(initial=0) < 1 << 16 else np.dtype(np.uint32)


def level_count(size_hw: tuple[int, int]) -> int:
    """Return the number of levels for an image of this size, including the full size."""
    count, side = 1, max(size_hw)
    while side > SMALLEST_LEVEL_PX:
        count, side = count + 1, -(-side // 2)
    return count


def level_shape(size_hw: tuple[int, int], level: int) -> tuple[int, int]:
    """Return the size of a level; level 0 has the full size."""
    return -(-size_hw[0] // (1 << level)), -(-size_hw[1] // (1 << level))


def label_levels(labels: NDArray[np.integer]) -> Iterator[NDArray[np.integer]]:
    """Yield the levels, each with every second pixel of the one before, since labels cannot be averaged."""
    for level in range(level_count((labels.shape[0], labels.shape[1]))):
        yield labels[:: 1 << level, :: 1 << level]
