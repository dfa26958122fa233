"""Bilinear, antialiased resize of an image that fills only part of its frame, equal to Pillow's.

Source: Pillow, ``Image.resize`` with ``Resampling.BILINEAR``, for the result, bit for bit. Weights are in double
precision, rows are resized first (Pillow 13 starts with the columns of some tall images), and values between the two
passes are float32. The implementation differs: the frame around the image, which is 0, counts in the weights but is
never stored. Only the input rows that the next output row reads are kept between the passes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from runtime.ops.compiled import compiled
from runtime.types import F32, F64, I64

Scaling = tuple[np.float32, np.float32, np.float32]
"""Factor, mean and standard deviation: a resized value v becomes (factor v - mean) / standard deviation, in float32."""

UNCHANGED: Scaling = (np.float32(1), np.float32(0), np.float32(1))
"""Leaves the resized values as they are."""


@compiled
def resize_plane(plane: F32, frame_hw: tuple[int, int], out: F32, scaling: Scaling) -> None:
    """Resize a frame whose upper left part is the image and whose rest is 0, then rescale the values.

    Args:
        plane: (h, w) float32, the image.
        frame_hw: size of the frame, at least (h, w).
        out: (H, W) float32, overwritten with the whole frame.
        scaling: applied to every resized value, also where the frame is 0.
    """
    height, width = plane.shape
    firsts, stops, down = _taps(height, frame_hw[0], out.shape[0])
    starts, _, across = _taps(width, frame_hw[1], out.shape[1])
    indices = starts.astype(np.uint32)  # unsigned: no check for negative indices in the inner loop
    line = np.zeros(width + len(across), np.float32)  # the last taps of a narrow window have no weight
    kept = np.zeros((len(down) + 1, len(starts)), np.float32)
    total = np.zeros(len(starts))
    done = 0
    for row in range(len(firsts)):
        for y in range(done, stops[row]):
            line[:width] = plane[y]
            _stretch(line, indices, across, total, kept[y % len(kept)])
        done = max(done, stops[row])
        _blend(kept, firsts[row], stops[row], down[:, row], total, out[row])
        out[row, len(starts) :] = 0
        _rescale(out[row], scaling)
    for row in range(len(firsts), out.shape[0]):
        out[row] = 0
        _rescale(out[row], scaling)


@compiled
def _stretch(line: F32, indices: NDArray[np.uint32], weights: F64, total: F64, out: F32) -> None:
    """Resize one row of the image; ``total`` is overwritten."""
    if len(weights) == 2:  # enlarged
        for x in range(len(out)):
            out[x] = line[indices[x]] * weights[0, x] + line[indices[x] + np.uint32(1)] * weights[1, x]
        return
    total[:] = 0
    for tap in range(len(weights)):
        shifted = line[tap:]
        for x in range(len(out)):
            total[x] += shifted[indices[x]] * weights[tap, x]
    for x in range(len(out)):
        out[x] = total[x]


@compiled
def _blend(kept: F32, first: int, stop: int, weights: F64, total: F64, out: F32) -> None:
    """Compute one output row from the resized rows ``first:stop``; ``total`` is overwritten."""
    if stop - first == 2:
        upper, lower = kept[first % len(kept)], kept[(first + 1) % len(kept)]
        above, below = weights[0], weights[1]
        for x in range(len(total)):
            out[x] = upper[x] * above + lower[x] * below
        return
    total[:] = 0
    for y in range(first, stop):
        line, weight = kept[y % len(kept)], weights[y - first]
        for x in range(len(total)):
            total[x] += line[x] * weight
    for x in range(len(total)):
        out[x] = total[x]


@compiled
def _rescale(row: F32, scaling: Scaling) -> None:
    factor, mean, std = scaling
    if factor == 1 and mean == 0 and std == 1:
        return
    for x in range(len(row)):
        row[x] = (row[x] * factor - mean) / std


@compiled
def _taps(size: int, frame: int, length: int) -> tuple[I64, I64, F64]:
    """Find the input pixels that each output pixel reads along one axis, and their weights.

    Covers only those of the ``length`` output pixels that read one of the first ``size`` pixels of a frame.

    Returns:
        First input pixel and end of the input pixels, (n,), and weights (T, n), which sum to 1 over the whole frame.
    """
    scale = frame / length
    support = max(scale, 1.0)
    firsts, stops = np.zeros(length, np.int64), np.zeros(length, np.int64)
    totals = np.zeros(length)
    count = most = 0
    for place in range(length):
        centre = (place + 0.5) * scale
        first, stop = max(0, int(centre - support + 0.5)), min(frame, int(centre + support + 0.5))
        if first >= size:
            break
        for pixel in range(first, stop):
            totals[place] += _weight(pixel, place, scale)
        stop = min(stop, size)
        while stop > first + 1 and _weight(stop - 1, place, scale) == 0:
            stop -= 1
        firsts[place], stops[place] = first, stop
        most = max(most, stops[place] - first)
        count += 1
    weights = np.zeros((most, count))
    for place in range(count):
        for pixel in range(firsts[place], stops[place]):
            weights[pixel - firsts[place], place] = _weight(pixel, place, scale) / totals[place]
    return firsts[:count], stops[:count], weights


@compiled
def _weight(pixel: int, place: int, scale: float) -> float:
    """Compute the weight of an input pixel in an output pixel, before weights are normalised to a sum of 1."""
    centre = (place + 0.5) * scale
    distance = abs((pixel - centre + 0.5) * (1.0 / max(scale, 1.0)))
    return 1.0 - distance if distance < 1.0 else 0.0
