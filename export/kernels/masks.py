"""Kernels of the mask assembly, equal to the loops in ``runtime.ops.mask_kernels``.

An image pixel's logit is computed from the low-resolution window when it is needed: first along x, then along y, in
float32 and in the order of the numpy path, so that both round alike. Which mask owns a pixel is decided by one program
per block of pixels, which goes through all masks that touch the block. Without atomic operations, the result does not
depend on the order in which blocks run.

Arguments of all kernels:
    windows: (K, window_h, window_w) float16 or float32, mask logits.
    origins: (K, 2) int32, first logit (y, x) of each window in the whole map.
    rects: (K, 4) int32, top, bottom, left, right of the pixels to compute for each mask, ends excluded.
    taps_y, firsts_y, taps_x, firsts_x: ``taps`` and ``first`` of the ``ResizeAxis`` along y and x; ``taps_y_count`` and
        ``taps_x_count`` are the widths of the former.
    threshold: pixels with a higher logit are inside the mask.
Pixels are those that the axes describe: of the image, or of a view of it.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def resized_logits(
    windows, k, origins, window_h, window_w,
    y, x, inside, taps_y, firsts_y, taps_y_count, taps_x, firsts_x, taps_x_count,
):  # fmt: skip
    """Return the logits of mask ``k`` at the pixels y (R,) and x (C,), (R, C) float32; 0 outside ``inside`` (R, C)."""
    some_y, some_x = tl.max(inside.to(tl.int32), axis=1) > 0, tl.max(inside.to(tl.int32), axis=0) > 0
    row = tl.load(firsts_y + y, mask=some_y, other=0) - tl.load(origins + 2 * k)
    column = tl.load(firsts_x + x, mask=some_x, other=0) - tl.load(origins + 2 * k + 1)
    window = windows + k.to(tl.int64) * window_h * window_w
    total = tl.zeros(inside.shape, tl.float32)
    for t in range(taps_y_count):
        in_rows = some_y & (row + t < window_h)
        wide = tl.zeros(inside.shape, tl.float32)
        for u in range(taps_x_count):
            weight = tl.load(taps_x + x * taps_x_count + u, mask=some_x, other=0.0)
            read = inside & in_rows[:, None] & (column + u < window_w)[None, :]
            place = (row + t)[:, None] * window_w + (column + u)[None, :]
            wide += weight[None, :] * tl.load(window + place, mask=read, other=0.0).to(tl.float32)
        total += tl.load(taps_y + y * taps_y_count + t, mask=some_y, other=0.0)[:, None] * wide
    return total


@triton.jit
def mask_bounds(
    windows, origins, rects, taps_y, firsts_y, taps_x, firsts_x, bounds,
    window_h, window_w, taps_y_count, taps_x_count, threshold,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Find the bounds of each thresholded mask. Grid: masks, blocks down, blocks across the largest rectangle.

    Args:
        bounds: (K, 4) int32 top, bottom, left, right; on entry, the reverse of any bounds (large, 0, large, 0).
    """
    k = tl.program_id(0)
    top, bottom = tl.load(rects + 4 * k), tl.load(rects + 4 * k + 1)
    left, right = tl.load(rects + 4 * k + 2), tl.load(rects + 4 * k + 3)
    y = top + tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    x = left + tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (y < bottom)[:, None] & (x < right)[None, :]
    logits = resized_logits(
        windows, k, origins, window_h, window_w,
        y, x, inside, taps_y, firsts_y, taps_y_count, taps_x, firsts_x, taps_x_count,
    )  # fmt: skip
    shown = (inside & (logits > threshold)).to(tl.int32)
    rows, columns = tl.max(shown, axis=1), tl.max(shown, axis=0)
    if tl.max(rows, axis=0) > 0:
        tl.atomic_min(bounds + 4 * k, tl.min(tl.where(rows > 0, y, 2147483647), axis=0))
        tl.atomic_max(bounds + 4 * k + 1, tl.max(tl.where(rows > 0, y + 1, 0), axis=0))
        tl.atomic_min(bounds + 4 * k + 2, tl.min(tl.where(columns > 0, x, 2147483647), axis=0))
        tl.atomic_max(bounds + 4 * k + 3, tl.max(tl.where(columns > 0, x + 1, 0), axis=0))


@triton.jit
def cut_masks(
    windows, origins, rects, starts, taps_y, firsts_y, taps_x, firsts_x, flags,
    window_h, window_w, taps_y_count, taps_x_count, threshold,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write each thresholded mask, cropped to its rectangle. Grid as in ``mask_bounds``.

    Args:
        starts: (K,) int64, position of each mask's first pixel in ``flags``.
        flags: uint8, the pixels of all rectangles, row by row and mask by mask: 1 inside the mask, else 0.
    """
    k = tl.program_id(0)
    top, bottom = tl.load(rects + 4 * k), tl.load(rects + 4 * k + 1)
    left, right = tl.load(rects + 4 * k + 2), tl.load(rects + 4 * k + 3)
    y = top + tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    x = left + tl.program_id(2) * COLUMNS + tl.arange(0, COLUMNS)
    inside = (y < bottom)[:, None] & (x < right)[None, :]
    logits = resized_logits(
        windows, k, origins, window_h, window_w,
        y, x, inside, taps_y, firsts_y, taps_y_count, taps_x, firsts_x, taps_x_count,
    )  # fmt: skip
    place = tl.load(starts + k) + (y - top)[:, None] * (right - left) + (x - left)[None, :]
    tl.store(flags + place, (logits > threshold).to(tl.uint8), mask=inside)


@triton.jit
def paint_windows(
    windows, values, origins, rects, taps_y, firsts_y, taps_x, firsts_x, owner, best,
    count, window_h, window_w, taps_y_count, taps_x_count, size_h, size_w, offset_y, offset_x, image_w, threshold,
    ARGMAX: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Decide which mask owns each pixel. Grid: blocks down and across the view.

    Args:
        values: (K,) int32, number of each mask, from 1.
        owner: (H, W) int32 of the image, number of the owner, 0 without one; updated.
        best: (H, W) float32, logit of the owner, at least ``threshold``; used and updated only with ``ARGMAX``.
        count: K.
        size_h, size_w: size of the view.
        offset_y, offset_x: image pixel of the view's first pixel.
        image_w: width W of the image.
        ARGMAX: True gives a pixel to the highest logit, or among equal ones to the lowest number; False gives it to
            the highest number.
    """
    start_y, start_x = tl.program_id(0) * ROWS, tl.program_id(1) * COLUMNS
    y, x = start_y + tl.arange(0, ROWS), start_x + tl.arange(0, COLUMNS)
    in_view = (y < size_h)[:, None] & (x < size_w)[None, :]
    place = (y + offset_y).to(tl.int64)[:, None] * image_w + (x + offset_x)[None, :]
    owners = tl.load(owner + place, mask=in_view, other=0)
    if ARGMAX:
        reigning = tl.load(best + place, mask=in_view, other=0.0)
    else:
        reigning = tl.zeros(in_view.shape, tl.float32)
    for k in range(count):
        top, bottom = tl.load(rects + 4 * k), tl.load(rects + 4 * k + 1)
        left, right = tl.load(rects + 4 * k + 2), tl.load(rects + 4 * k + 3)
        if (top < start_y + ROWS) & (bottom > start_y) & (left < start_x + COLUMNS) & (right > start_x):
            value = tl.load(values + k)
            inside = in_view & ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))[None, :]
            logits = resized_logits(
                windows, tl.full((), k, tl.int32), origins, window_h, window_w,
                y, x, inside, taps_y, firsts_y, taps_y_count, taps_x, firsts_x, taps_x_count,
            )  # fmt: skip
            won = inside & (logits > threshold)
            if ARGMAX:
                won = won & ((logits > reigning) | ((logits == reigning) & (value < owners)))
                reigning = tl.where(won, logits, reigning)
            else:
                won = won & (owners < value)
            owners = tl.where(won, value, owners)
    tl.store(owner + place, owners, mask=in_view)
    if ARGMAX:
        tl.store(best + place, reigning, mask=in_view)
