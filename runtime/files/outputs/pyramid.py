"""Label maps at several sizes, for viewers of large images. Pure functions on arrays."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

SMALLEST_LEVEL_PX = 1024
"""A level is made while the longer side of the last one is larger."""


def label_dtype(labels: NDArray[np.integer]) -> np.dtype[np.unsignedinteger]:
    """16 bits where the labels fit, else 32."""
    return np.dtype(np.uint16) if labels.max(initial=0) < 1 << 16 else np.dtype(np.uint32)


def level_count(size_hw: tuple[int, int]) -> int:
    """Number of levels for an image of this size, the whole one among them."""
    count, side = 1, max(size_hw)
    while side > SMALLEST_LEVEL_PX:
        count, side = count + 1, -(-side // 2)
    return count


def level_shape(size_hw: tuple[int, int], level: int) -> tuple[int, int]:
    """Size of a level; 0 is the whole image."""
    return -(-size_hw[0] // (1 << level)), -(-size_hw[1] // (1 << level))


def label_levels(labels: NDArray[np.integer]) -> Iterator[NDArray[np.integer]]:
    """The label map, then every second pixel of the level before: labels cannot be averaged."""
    for level in range(level_count((labels.shape[0], labels.shape[1]))):
        yield labels[:: 1 << level, :: 1 << level]
