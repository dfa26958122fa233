"""Compiled loops of the model inputs in ``runtime.ops.model_input``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from runtime.ops.compiled import compiled
from runtime.types import F32

U32 = NDArray[np.uint32]

_BLOCK = 64
"""Pixels that are compared together, because most of them are below the percentile."""


@compiled
def nonzero_range(bits: U32) -> tuple[int, np.uint32, np.uint32]:
    """Return the number of values above 0, the lowest of these, and the highest of all.

    Args:
        bits: (H, W) the bits of values in float32 that are not negative. They sort like the values, and loops over
            integers run in vectors.
    """
    count, low, high = 0, np.uint32(0xFFFFFFFF), np.uint32(0)
    for y in range(bits.shape[0]):
        row, row_count = bits[y], np.uint32(0)
        for x in range(len(row)):
            row_count = np.uint32(row_count + np.uint32(row[x] != 0))
            low = min(low, np.uint32(row[x] - np.uint32(1)))  # 0 becomes the highest integer
            high = max(high, row[x])
        count += int(row_count)
    return count, np.uint32(low + np.uint32(1)), high


@compiled
def values_above(plane: F32, bound: np.float32) -> tuple[F32, int]:
    """Return the values above a bound, in order, and the number of values equal to it.

    Args:
        plane: (H, W) float32, C order.
    """
    found, count, equal = np.empty(max(_BLOCK, plane.size // 32), np.float32), 0, 0
    for y in range(plane.shape[0]):
        row = plane[y]
        for start in range(0, len(row), _BLOCK):
            stop, reached = min(start + _BLOCK, len(row)), np.uint32(0)
            for x in range(start, stop):
                reached = np.uint32(reached + np.uint32(row[x] >= bound))
            if reached == 0:
                continue
            if count + _BLOCK > len(found):
                found = np.concatenate((found, np.empty(len(found), np.float32)))
            for x in range(start, stop):
                if row[x] > bound:
                    found[count] = row[x]
                    count += 1
                else:
                    equal += row[x] == bound
    return found[:count], equal


@compiled
def stretch_values(plane: F32, span: tuple[np.float32, np.float32], steps: F32) -> None:
    """Clip each value to a range, then subtract and divide step by step, in place and in float32.

    Args:
        plane: (H, W) float32, C order.
        span: lowest and highest value.
        steps: (4, 2) float32, what each step subtracts, and what it divides by.
    """
    low, high = span
    (a, b), (c, d), (e, f), (g, h) = steps
    for y in range(plane.shape[0]):
        row = plane[y]
        for x in range(len(row)):
            value = min(max(row[x], low), high)
            row[x] = ((((value - a) / b - c) / d - e) / f - g) / h


@compiled
def quantize_values(plane: F32, steps: F32, out: F32) -> None:
    """Quantise each value to 8 bits, then subtract and divide step by step, in float32.

    Args:
        plane: (H, W) float32 in [0, 1], C order.
        steps: (3, 2) float32, what each step subtracts, and what it divides by.
        out: (H, W), overwritten.
    """
    (a, b), (c, d), (e, f) = steps
    for y in range(plane.shape[0]):
        source, target = plane[y], out[y]
        for x in range(len(source)):
            value = np.float32(np.int32(source[x] * np.float32(255)))
            target[x] = (((value - a) / b - c) / d - e) / f
