"""Kernels of the contrast normalisation, equal to ``runtime.ops.preprocess.equalized_plane`` of 8- and 16-bit images.

The percentile and the table of bins are computed on the host from the counts of all values: 256 or 65,536 numbers. All
passes over pixels run here. The equalisation is that of ``runtime.ops.clahe``, whose arithmetic is in double precision.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def count_values(plane, counts, size, BLOCK: tl.constexpr):
    """Count how often each value occurs. Grid: blocks of pixels.

    Args:
        plane: (size,) uint8 or uint16.
        counts: int32, one entry per value; increased.
    """
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    value = tl.load(plane + place, mask=inside, other=0).to(tl.int32)
    tl.atomic_add(counts + value, 1, mask=inside)


@triton.jit
def look_up_bins(plane, table, bins, size, BLOCK: tl.constexpr):
    """Replace each value by its histogram bin. Grid: blocks of pixels.

    Args:
        plane: (size,) uint8 or uint16.
        table: uint8, bin of each value.
        bins: (size,) uint8, written.
    """
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    value = tl.load(plane + place, mask=inside, other=0).to(tl.int32)
    tl.store(bins + place, tl.load(table + value, mask=inside, other=0), mask=inside)


@triton.jit
def reflected(place, size):
    """Return the pixel of an axis of ``size`` pixels that is extended by reflection without repeating the edge."""
    period = tl.maximum(2 * (size - 1), 1)
    folded = place % period
    return tl.where(folded < size, folded, period - folded)


@triton.jit
def count_bins(bins, counts, height, width, tiles_across, side, BLOCK: tl.constexpr):
    """Count the bins in each tile of the equalisation. Grid: tiles, blocks of a tile's pixels.

    Args:
        bins: (height, width) uint8.
        counts: (tiles, 256) int32; increased.
        tiles_across: number of tiles in a row.
        side: side of a tile, in pixels. The last tiles are filled by reflection.
    """
    tile = tl.program_id(0)
    pixel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < side * side
    y = reflected((tile // tiles_across) * side + pixel // side, height)
    x = reflected((tile % tiles_across) * side + pixel % side, width)
    found = tl.load(bins + y.to(tl.int64) * width + x, mask=inside, other=0).to(tl.int32)
    tl.atomic_add(counts + tile * 256 + found, 1, mask=inside)


@triton.jit
def equalisation_maps(counts, maps, side, limit, gray_levels):
    """Clip each tile's histogram and map its bins to gray levels by the cumulative sum. Grid: tiles.

    Args:
        counts: (tiles, 256) int32.
        maps: (tiles, 256) uint16, written.
        side: side of a tile, in pixels.
        limit: most pixels of a bin; the excess is redistributed among the other bins.
        gray_levels: number of gray levels.
    """
    tile, b = tl.program_id(0), tl.arange(0, 256)
    counted = tl.load(counts + tile * 256 + b)
    clipped = tl.minimum(counted, limit)
    excess = tl.sum(counted - clipped, axis=0)
    share = excess // 256
    raised = clipped < limit - share
    excess -= share * tl.sum(raised.to(tl.int32), axis=0)
    clipped = tl.where(raised, clipped + share, clipped)
    nearly = (clipped >= limit - share) & (clipped < limit)
    excess -= tl.sum(tl.where(nearly, limit - clipped, 0), axis=0)
    clipped = tl.where(nearly, limit, clipped)
    before = excess + 1
    while (excess > 0) & (excess != before):
        before = excess
        first = 0
        while (first < 256) & (excess > 0):
            below = clipped < limit
            step = tl.maximum(1, tl.sum(below.to(tl.int32), axis=0) // excess)
            raised = below & (b >= first) & ((b - first) % step == 0)
            clipped = tl.where(raised, clipped + 1, clipped)
            excess -= tl.sum(raised.to(tl.int32), axis=0)
            first += 1
    highest = (tl.zeros((256,), tl.int32) + gray_levels - 1).to(tl.float64)
    share_of_pixel = highest / (tl.zeros((256,), tl.int32) + side * side).to(tl.float64)
    level = tl.minimum(tl.cumsum(clipped, axis=0).to(tl.float64) * share_of_pixel, highest)
    tl.store(maps + tile * 256 + b, level.to(tl.int32).to(tl.uint16))


@triton.jit
def interpolate_levels(
    bins, maps, levels, extremes, height, width, tiles_down, tiles_across, side,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Interpolate each pixel's gray level between the four nearest tiles. Grid: blocks down, blocks across.

    Args:
        bins: (height, width) uint8.
        maps: (tiles_down, tiles_across, 256) uint16.
        levels: (height, width) uint16, written.
        extremes: (2,) int32, lowest and highest level; on entry, a large number and 0.
        side: side of a tile, in pixels.
    """
    y, x = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (y < height)[:, None] & (x < width)[None, :]
    place = y.to(tl.int64)[:, None] * width + x[None, :]
    found = tl.load(bins + place, mask=inside, other=0).to(tl.int32)
    lower, right = (y + side // 2) // side, (x + side // 2) // side
    upper, left = (
        tl.maximum(tl.minimum(lower - 1, tiles_down - 1), 0),
        tl.maximum(tl.minimum(right - 1, tiles_across - 1), 0),
    )
    lower, right = tl.minimum(lower, tiles_down - 1), tl.minimum(right, tiles_across - 1)
    whole = (tl.zeros((1,), tl.int32) + side).to(tl.float64)
    below = (((y + side // 2) % side).to(tl.float64) / whole)[:, None]
    after = (((x + side // 2) % side).to(tl.float64) / whole)[None, :]
    above, before = 1 - below, 1 - after
    top, bottom = (upper * tiles_across)[:, None], (lower * tiles_across)[:, None]
    level = tl.load(maps + (top + left[None, :]) * 256 + found, mask=inside, other=0).to(tl.float64)
    total = (level * (before * above)).to(tl.float32)
    level = tl.load(maps + (top + right[None, :]) * 256 + found, mask=inside, other=0).to(tl.float64)
    total += (level * (after * above)).to(tl.float32)
    level = tl.load(maps + (bottom + left[None, :]) * 256 + found, mask=inside, other=0).to(tl.float64)
    total += (level * (before * below)).to(tl.float32)
    level = tl.load(maps + (bottom + right[None, :]) * 256 + found, mask=inside, other=0).to(tl.float64)
    total += (level * (after * below)).to(tl.float32)
    whole_level = total.to(tl.int32)
    tl.store(levels + place, whole_level.to(tl.uint16), mask=inside)
    tl.atomic_min(extremes, tl.min(tl.min(tl.where(inside, whole_level, 2147483647), axis=1), axis=0))
    tl.atomic_max(extremes + 1, tl.max(tl.max(tl.where(inside, whole_level, 0), axis=1), axis=0))


@triton.jit
def spread_levels(levels, extremes, out, size, BLOCK: tl.constexpr):
    """Spread the gray levels over [0, 1]. Grid: blocks of pixels.

    Args:
        levels: (size,) uint16.
        extremes: (2,) int32, lowest and highest level.
        out: (size,) float32, written. If all levels are equal, it is 0 for level 0 and 1 for others.
    """
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    level = tl.load(levels + place, mask=inside, other=0).to(tl.int32)
    low, high = tl.load(extremes), tl.load(extremes + 1)
    span = (tl.zeros((BLOCK,), tl.int32) + tl.maximum(high - low, 1)).to(tl.float64)
    unit = (level - low).to(tl.float64) / span
    flat = tl.minimum(level, 1).to(tl.float64)
    tl.store(out + place, tl.where(low == high, flat, unit).to(tl.float32), mask=inside)
