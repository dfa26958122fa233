"""Shrinking of images of any size for display, part by part to bound memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from runtime.types import Extent

LARGEST_SIDE_PX = 4096
"""Maximum side of a picture of an image or slide."""

READ_PX = 1024
"""Approximate side of the parts to read."""


def shrink_factor(size_hw: tuple[int, int]) -> int:
    """Return the integer factor that shrinks both sides to at most ``LARGEST_SIDE_PX``; 1 for smaller images."""
    return max(1, -(-max(size_hw) // LARGEST_SIDE_PX))


def shrunk(
    read: Callable[[Extent], NDArray[np.generic]],
    shape: tuple[int, int, int],
    dtype: np.dtype[np.generic],
    factor: int,
) -> NDArray[np.generic]:
    """Average squares of ``factor`` x ``factor`` pixels; squares at the bottom and right edge may be smaller.

    Args:
        read: returns a part of the image, (h, w, C).
        shape: shape of the image, (H, W, C).
        dtype: data type of the image.
        factor: integer, at least 1.

    Returns:
        (ceil(H / factor), ceil(W / factor), C); uint8 if the image is, else float32.
    """
    height, width, channels = shape
    small = -(-height // factor), -(-width // factor), channels
    out = np.zeros(small, np.uint8 if dtype == np.uint8 else np.float32)
    step = max(1, READ_PX // factor)
    for y in range(0, small[0], step):
        for x in range(0, small[1], step):
            top, left = y * factor, x * factor
            part = read((top, left, min(top + step * factor, height), min(left + step * factor, width)))
            means = _means(part, factor)
            means = means.round() if out.dtype == np.uint8 else means
            out[y : y + means.shape[0], x : x + means.shape[1]] = means
    return out


def _means(part: NDArray[np.generic], factor: int) -> NDArray[np.float64]:
    sums: NDArray[np.float64] = part.astype(np.float64)
    for axis in (0, 1):
        starts = np.arange(0, part.shape[axis], factor)
        sizes = np.diff(starts, append=part.shape[axis])
        sums = np.add.reduceat(sums, starts, axis=axis) / np.expand_dims(sizes, tuple({0, 1, 2} - {axis}))
    return sums
