"""Contrast limited adaptive histogram equalisation, bit for bit that of scikit-image, without its cost.

Source: scikit-image 0.26, ``skimage.exposure.equalize_adapthist``, for the result: 14-bit gray levels, the
redistribution of clipped counts and the rounding of the interpolation; Zuiderveld 1994 (Graphics Gems IV) for the
method. What is done otherwise: the image is reduced to its 8-bit histogram bins at once, by table where it holds
integers; all tiles are counted in one pass; nothing is padded or rearranged to interpolate.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
U8 = NDArray[np.uint8]
U16 = NDArray[np.uint16]

BINS = 256
GRAY_LEVELS = 1 << 14
CLIP_LIMIT = 0.01
_PER_BIN = 1 + GRAY_LEVELS // BINS
_UINT16_MAX = 65535


def gray_bins(unit: F64) -> U8:
    """Histogram bin of each value.

    Args:
        unit: values in [0, 1], any shape, with minimum 0 and maximum 1.

    Returns:
        The same shape: the value as 16-bit, then 14-bit integer, by bins of 65 levels.
    """
    sixteen = np.floor(unit * _UINT16_MAX + 0.5)
    fourteen = np.rint(sixteen / _UINT16_MAX * (GRAY_LEVELS - 1))
    return (fourteen // _PER_BIN).astype(np.uint8)


def equalize(bins: U8, kernel: int, clip_limit: float = CLIP_LIMIT) -> F32:
    """Equalise an image of histogram bins.

    Args:
        bins: (H, W), from ``gray_bins``.
        kernel: side of the tiles, pixels.
        clip_limit: largest share of a tile's pixels in one bin.

    Returns:
        (H, W) float32, from 0 to 1.
    """
    levels = equalized_levels(bins, kernel, clip_limit)
    return unit_levels(levels, int(levels.min()), int(levels.max()))


def equalized_levels(bins: U8, kernel: int, clip_limit: float = CLIP_LIMIT) -> U16:
    """``equalize`` before the levels are spread over [0, 1]: (H, W), gray levels below ``GRAY_LEVELS``.

    The level of a pixel depends on the tiles of ``kernel`` pixels between whose centres it lies, nothing else.
    """
    height, width = bins.shape
    maps = _tile_maps(bins, kernel, clip_limit)  # (tiles down, tiles across, BINS)
    tiles_down, tiles_across = maps.shape[:2]
    flat = maps.reshape(-1).astype(np.float64)
    left, across = _neighbours(width, kernel, tiles_across)
    upper, down = _neighbours(height, kernel, tiles_down)
    levels = np.empty((height, width), np.uint16)
    # Strips stay in the cache.
    for start in range(0, height, _STRIP_ROWS):
        rows = slice(start, min(start + _STRIP_ROWS, height))
        strip = bins[rows].astype(np.intp)
        total = np.zeros(strip.shape, np.float32)
        for row_tile, row_weight in zip(upper, (1 - down, down), strict=True):
            for column_tile, column_weight in zip(left, (1 - across, across), strict=True):
                offset = (row_tile[rows, None] * tiles_across + column_tile) * BINS
                mapped = flat.take(strip + offset)
                mapped *= column_weight * row_weight[rows, None]
                total += mapped.astype(np.float32)
        levels[rows] = total.astype(np.uint16)
    return levels


def unit_levels(levels: U16, low: int, high: int) -> F32:
    """Spread the gray levels from ``low`` to ``high`` over [0, 1]; those beyond are cut off."""
    if low == high:
        return np.full(levels.shape, min(low, 1), np.float32)
    table = ((np.arange(GRAY_LEVELS, dtype=np.float64) - low) / (high - low)).clip(0.0, 1.0)
    out: F32 = table.astype(np.float32).take(levels)
    return out


_STRIP_ROWS = 64


def _neighbours(size: int, kernel: int, tiles: int) -> tuple[tuple[I64, I64], F64]:
    """The two tiles between whose centres each pixel lies, and the weight of the second."""
    place = np.arange(size) + kernel // 2
    block = place // kernel
    last = tiles - 1
    return (np.clip(block - 1, 0, last), np.clip(block, 0, last)), (place % kernel) / kernel


def _tile_maps(bins: U8, kernel: int, clip_limit: float) -> I64:
    """Gray level of every bin, tile by tile: (tiles down, tiles across, BINS)."""
    padding = [(0, -size % kernel) for size in bins.shape]
    padded = np.pad(bins, padding, mode="reflect") if any(end for _, end in padding) else bins
    down, across = (size // kernel for size in padded.shape)
    tile = np.repeat(np.arange(down) * across, kernel)[:, None] + np.repeat(np.arange(across), kernel)
    counts = np.bincount((tile * BINS + padded).ravel(), minlength=down * across * BINS).reshape(-1, BINS)
    limit = max(int(clip_limit * kernel * kernel), 1)
    for histogram in counts:
        _clip(histogram, limit)
    levels = np.cumsum(counts, axis=1) * ((GRAY_LEVELS - 1) / (kernel * kernel))
    maps: I64 = np.minimum(levels, GRAY_LEVELS - 1).astype(np.int64).reshape(down, across, BINS)
    return maps


def _clip(histogram: I64, limit: int) -> None:
    """Cut counts above the limit and share them out among the bins below it, in place."""
    excess = int((histogram - limit).clip(min=0).sum())
    np.minimum(histogram, limit, out=histogram)
    share = excess // BINS
    low = histogram < limit - share
    excess -= share * int(low.sum())
    histogram[low] += share
    middle = (histogram >= limit - share) & (histogram < limit)
    excess -= int((limit - histogram[middle]).sum())
    histogram[middle] = limit
    while excess > 0:
        before = excess
        for first in range(BINS):
            below = histogram < limit
            step = max(1, int(below.sum()) // excess)
            chosen = below[first::step]
            histogram[first::step][chosen] += 1
            excess -= int(chosen.sum())
            if excess <= 0:
                break
        if excess == before:
            break
