"""Compiled loops of ``runtime.ops.masks``."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from runtime.ops.compiled import compiled
from runtime.types import F32, I32, I64, Bool


class ResizeAxis(NamedTuple):
    """Two bilinear resizes along one axis, from logits to model input to image, as one banded matrix."""

    taps: F32
    """(size of the image, T): weights of the logits that each image pixel reads, starting at its first one."""
    first: I32
    """First logit that each image pixel reads; increases with the pixel."""
    last: I32
    """Last logit that each image pixel reads."""
    starts: I64
    """First image pixel that reads no logit before this one; one entry per logit, and one more."""
    stops: I64
    """First image pixel that reads this logit or a later one; one entry per logit, and one more."""


@compiled
def bounds(logits: F32, threshold: float) -> tuple[int, int, int, int]:
    """Return top, bottom, left, right of the values above a threshold, ends excluded; all 0 if there are none."""
    height, width = logits.shape
    top, bottom, left, right = height, 0, width, 0
    for y in range(height):
        for x in range(width):
            if logits[y, x] > threshold:
                top, bottom = min(top, y), y + 1
                left, right = min(left, x), max(right, x + 1)
    return (top, bottom, left, right) if bottom else (0, 0, 0, 0)


@compiled
def image_range(axis: ResizeAxis, start: int, size: int, low: int, high: int) -> tuple[int, int]:
    """Return the range of image pixels to compute from ``size`` logits that begin at ``start``.

    These pixels read no other logits, and at least one of the window's logits ``low:high``.
    """
    inner = axis.starts[start]
    inner_end = max(inner, axis.stops[start + size])
    near = axis.stops[start + low]
    near_end = max(near, axis.starts[start + high])
    first = min(max(inner, near), inner_end)
    return first, max(first, min(inner_end, near_end))


@compiled
def resample(
    logits: F32, origin: tuple[int, int], axes: tuple[ResizeAxis, ResizeAxis], rows: tuple[int, int],
    columns: tuple[int, int],
) -> F32:  # fmt: skip
    """Compute the logits at the image pixels ``rows`` x ``columns`` from the window (h, w) at ``origin`` alone."""
    down, across = axes
    height, width = rows[1] - rows[0], columns[1] - columns[0]
    out = np.zeros((height, width), np.float32)
    if height == 0 or width == 0:
        return out
    first, stop = down.first[rows[0]] - origin[0], down.last[rows[1] - 1] + 1 - origin[0]
    wide = np.zeros((stop - first, width), np.float32)
    for r in range(stop - first):
        for x in range(width):
            pixel = columns[0] + x
            place = across.first[pixel] - origin[1]
            total = np.float32(0)
            for t in range(across.last[pixel] - across.first[pixel] + 1):
                total += across.taps[pixel, t] * logits[first + r, place + t]
            wide[r, x] = total
    for y in range(height):
        pixel = rows[0] + y
        place = down.first[pixel] - origin[0] - first
        for t in range(down.last[pixel] - down.first[pixel] + 1):
            weight = down.taps[pixel, t]
            for x in range(width):
                out[y, x] += weight * wide[place + t, x]
    return out


@compiled
def window_pixels(
    logits: F32, origin: tuple[int, int], axes: tuple[ResizeAxis, ResizeAxis], threshold: float
) -> tuple[F32, int, int]:
    """Compute the image pixels of one window that can exceed a threshold, and the position (y, x) of the first.

    Raises:
        ValueError: the window extends beyond the map.
    """
    for start, size, axis in ((origin[0], logits.shape[0], axes[0]), (origin[1], logits.shape[1], axes[1])):
        if start < 0 or start + size >= len(axis.starts):
            raise ValueError("a window of logits extends beyond the whole map.")
    top, bottom, left, right = bounds(logits, threshold)
    if bottom == 0:
        return np.zeros((0, 0), np.float32), 0, 0
    rows = image_range(axes[0], origin[0], logits.shape[0], top, bottom)
    columns = image_range(axes[1], origin[1], logits.shape[1], left, right)
    return resample(logits, origin, axes, rows, columns), rows[0], columns[0]


@compiled
def paint_mask(
    value: int, logits: F32, offset: tuple[int, int], threshold: float, argmax: bool, owner: I32, best: F32
) -> tuple[int, int, int, int]:  # fmt: skip
    """Paint one mask: decide which mask owns each of its pixels, in place.

    Args:
        value: number of the mask, from 1.
        logits: (h, w) at image pixels.
        offset: image pixel of ``logits[0, 0]``.
        threshold: only logits above it are inside the mask.
        argmax: True gives a pixel to the highest logit, or among equal ones to the lowest number; False gives it to
            the highest number.
        owner: (H, W) number of the owner, 0 without one.
        best: (H, W) logit of the owner; used only with ``argmax``.

    Returns:
        ``bounds`` of the mask.

    Raises:
        ValueError: the mask extends beyond the image.
    """
    if (
        min(offset[0], offset[1]) < 0
        or offset[0] + logits.shape[0] > owner.shape[0]
        or offset[1] + logits.shape[1] > owner.shape[1]
    ):
        raise ValueError("a mask extends beyond the image.")
    top, bottom, left, right = bounds(logits, threshold)
    for y in range(top, bottom):
        for x in range(left, right):
            logit = logits[y, x]
            if not logit > threshold:
                continue
            row, column = offset[0] + y, offset[1] + x
            if argmax:
                reigning = best[row, column]
                if logit > reigning or (logit == reigning and value < owner[row, column]):
                    best[row, column] = logit
                    owner[row, column] = value
            elif owner[row, column] < value:
                owner[row, column] = value
    return top, bottom, left, right


@compiled
def paint_windows(
    values: I64, windows: F32, origins: I64, axes: tuple[ResizeAxis, ResizeAxis], threshold: float, argmax: bool,
    owner: I32, best: F32,
) -> tuple[I64, list[Bool]]:  # fmt: skip
    """Resize and paint the masks of several windows.

    Args:
        values: (K,), as in ``paint_mask``; 0 skips a mask.
        windows: (K, h, w) mask logits.
        origins: (K, 2) first logit (y, x) of each window in the whole map.
        axes: resizes along y and x.
        threshold, argmax, owner, best: as in ``paint_mask``.

    Returns:
        First image pixel (y, x) of each mask, (K, 2), and the masks, cropped to their pixels.
    """
    offsets = np.zeros((len(values), 2), np.int64)
    masks = []
    for k in range(len(values)):
        if values[k] == 0:
            masks.append(np.zeros((0, 0), np.bool_))
            continue
        pixels, y, x = window_pixels(windows[k], (origins[k, 0], origins[k, 1]), axes, threshold)
        top, bottom, left, right = paint_mask(values[k], pixels, (y, x), threshold, argmax, owner, best)
        offsets[k] = y + top, x + left
        masks.append(pixels[top:bottom, left:right] > threshold)
    return offsets, masks


@compiled
def areas_of(labels: I32, count: int) -> I64:
    """Count the pixels of each label 0..count.

    Raises:
        ValueError: a label is out of range.
    """
    areas = np.zeros(count + 1, np.int64)
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            label = labels[y, x]
            if label < 0 or label > count:
                raise ValueError("a label is below 0 or above the number of masks.")
            areas[label] += 1
    return areas


@compiled
def root_of(parents: I32, node: int) -> int:
    """Find the root of a node's tree, and halve the path to it in place."""
    while parents[node] != node:
        parents[node] = parents[parents[node]]
        node = parents[node]
    return node


@compiled
def runs_of(free: Bool) -> tuple[I32, I32]:
    """Find the runs of pixels along the rows.

    Returns:
        First column and end column of each run, (N, 2), and the first run of each row, (H + 1,).
    """
    height, width = free.shape
    firsts = np.zeros(height + 1, np.int32)
    for y in range(height):
        count, before = 0, False
        for x in range(width):
            count += free[y, x] and not before
            before = free[y, x]
        firsts[y + 1] = firsts[y] + count
    runs = np.empty((firsts[height], 2), np.int32)
    n = 0
    for y in range(height):
        before = False
        for x in range(width):
            if free[y, x] and not before:
                runs[n, 0] = x
            elif before and not free[y, x]:
                runs[n, 1] = x
                n += 1
            before = free[y, x]
        if before:
            runs[n, 1] = width
            n += 1
    return runs, firsts


@compiled
def enclosed(free: Bool) -> Bool:
    """Return (H, W) the pixels of ``free`` that cannot reach the border by steps along rows and columns.

    Touching runs of pixels are joined in trees (union-find); runs at the border are joined to node 0.
    """
    height, width = free.shape
    runs, firsts = runs_of(free)
    parents = np.arange(len(runs) + 1).astype(np.int32)  # run n is node n + 1
    for y in range(height):
        above = firsts[y - 1] if y else 0
        for n in range(firsts[y], firsts[y + 1]):
            start, stop = runs[n]
            root = n + 1
            if y == 0 or y == height - 1 or start == 0 or stop == width:
                parents[root] = root = 0  # from left to right
            while y and above < firsts[y] and runs[above, 1] <= start:
                above += 1
            other = above
            while y and other < firsts[y] and runs[other, 0] < stop:
                joined = root_of(parents, other + 1)
                low, high = min(root, joined), max(root, joined)
                parents[high] = root = low
                other += 1
    out = np.zeros((height, width), np.bool_)
    for y in range(height):
        for n in range(firsts[y], firsts[y + 1]):
            if root_of(parents, n + 1):
                out[y, runs[n, 0] : runs[n, 1]] = True
    return out


@compiled
def beside_holes(labels: I32, count: int) -> Bool:
    """Return (count + 1,) the labels next to background that cannot reach the border along rows and columns."""
    holes = enclosed(labels == 0)
    found = np.zeros(count + 1, np.bool_)
    for y in range(1, labels.shape[0] - 1):
        for x in range(1, labels.shape[1] - 1):
            if holes[y, x]:
                found[labels[y - 1, x]] = found[labels[y + 1, x]] = True
                found[labels[y, x - 1]] = found[labels[y, x + 1]] = True
    found[0] = False
    return found


@compiled
def clean_cells(labels: I32, values: I64, boxes: I64, holed: Bool, least: int, take: bool) -> None:
    """Remove small cells and fill holes in others, in place and cell by cell.

    Args:
        labels: (H, W) label map.
        values: the cells, in the order of processing.
        boxes: (count + 1, 4) ``extents`` of the labels.
        holed: (count + 1,), True for cells whose holes are filled.
        least: pixels of the smallest cell to keep.
        take: also fill pixels that belong to other cells.
    """
    for value in values:
        top, bottom, left, right = boxes[value]
        region = labels[top:bottom, left:right]
        area = 0  # recounted, because an earlier cell may have taken pixels
        for y in range(bottom - top):
            for x in range(right - left):
                area += region[y, x] == value
        if area >= least and not (area and holed[value]):
            continue
        changed = region == value if area < least else enclosed(region != value)
        for y in range(bottom - top):
            for x in range(right - left):
                if changed[y, x] and (area < least or take or region[y, x] == 0):
                    region[y, x] = 0 if area < least else value


@compiled
def extents(labels: I32, count: int) -> I64:
    """Return (count + 1, 4) top, bottom, left, right of each label, ends excluded; bottom is 0 for absent labels."""
    height, width = labels.shape
    found = np.zeros((count + 1, 4), np.int64)
    found[:, 0], found[:, 2] = height, width
    for y in range(height):
        x = 0
        while x < width:  # run by run
            first, label = x, labels[y, x]
            while x < width and labels[y, x] == label:
                x += 1
            one = found[label]
            one[0], one[1] = min(one[0], y), y + 1
            one[2], one[3] = min(one[2], first), max(one[3], x)
    return found
