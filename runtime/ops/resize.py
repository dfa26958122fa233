"""Bilinear, antialiased resize of an image that fills only part of its frame, equal to Pillow's.

Source: Pillow, ``Image.resize`` with ``Resampling.BILINEAR``, for the result, bit for bit. Weights are in double
precision, rows are resized first (Pillow 13 starts with the columns of some tall images), and values between the two
passes are float32. The implementation differs: the frame around the image, which is 0, counts in the weights but is
never stored. Nothing is stored between the passes either, so memory scales with the output.
"""

from __future__ import annotations

import numpy as np

from runtime.ops.compiled import compiled
from runtime.types import F32, F64, I64

_COLUMNS = 64
"""Number of output columns that are computed together; bounds the memory for weights."""


@compiled
def resize_plane(plane: F32, frame_hw: tuple[int, int], out: F32) -> None:
    """Resize a frame whose upper left part is the image and whose rest is 0.

    Args:
        plane: (h, w) float32, the image.
        frame_hw: size of the frame, at least (h, w).
        out: (H, W) float32, overwritten with the whole frame.
    """
    out[:] = 0
    height, width = plane.shape
    scale_y, scale_x = frame_hw[0] / out.shape[0], frame_hw[1] / out.shape[1]
    firsts, stops, totals = _windows(height, frame_hw[0], out.shape[0])
    starts, ends, sums = _windows(width, frame_hw[1], out.shape[1])
    for left in range(0, len(starts), _COLUMNS):
        right = min(left + _COLUMNS, len(starts))
        weights = _column_weights(starts[left:right], ends[left:right], sums[left:right], left, scale_x)
        line, made = np.zeros(right - left, np.float32), np.zeros((len(firsts), right - left))
        done = 0
        for y in range(height):
            place = 0
            for x in range(right - left):
                total = 0.0
                for pixel in range(starts[left + x], ends[left + x]):
                    total += plane[y, pixel] * weights[place]
                    place += 1
                line[x] = total
            while done < len(firsts) and stops[done] <= y:
                done += 1
            row = done
            while row < len(firsts) and firsts[row] <= y:
                weight = _weight(y, row, scale_y) / totals[row]
                for x in range(right - left):
                    made[row, x] += line[x] * weight
                row += 1
        for row in range(len(firsts)):
            for x in range(right - left):
                out[row, left + x] = made[row, x]


@compiled
def _weight(pixel: int, place: int, scale: float) -> float:
    """Compute the weight of an input pixel in an output pixel, before weights are normalised to a sum of 1."""
    centre = (place + 0.5) * scale
    distance = abs((pixel - centre + 0.5) * (1.0 / max(scale, 1.0)))
    return 1.0 - distance if distance < 1.0 else 0.0


@compiled
def _windows(size: int, frame: int, length: int) -> tuple[I64, I64, F64]:
    """Find the input pixels that each output pixel reads along one axis.

    Covers only those of the ``length`` output pixels that read one of the first ``size`` pixels of a frame.

    Returns:
        First input pixel, end of the input pixels, and the sum of the weights of all pixels of the frame.
    """
    scale = frame / length
    support = max(scale, 1.0)
    firsts, stops = np.zeros(length, np.int64), np.zeros(length, np.int64)
    totals = np.zeros(length)
    count = 0
    for place in range(length):
        centre = (place + 0.5) * scale
        first, stop = max(0, int(centre - support + 0.5)), min(frame, int(centre + support + 0.5))
        if first >= size:
            break
        for pixel in range(first, stop):
            totals[place] += _weight(pixel, place, scale)
        firsts[place], stops[place] = first, min(stop, size)
        count += 1
    return firsts[:count], stops[:count], totals[:count]


@compiled
def _column_weights(starts: I64, ends: I64, sums: F64, left: int, scale: float) -> F64:
    """Compute the weights of consecutive output columns, the first of which is ``left``, one after the other."""
    weights = np.zeros((ends - starts).sum())
    place = 0
    for x in range(len(starts)):
        for pixel in range(starts[x], ends[x]):
            weights[place] = _weight(pixel, left + x, scale) / sums[x]
            place += 1
    return weights
