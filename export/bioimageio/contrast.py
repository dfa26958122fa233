"""Contrast normalisation in ONNX operators, step by step like ``runtime.ops.preprocess`` and ``runtime.ops.clahe``."""

from __future__ import annotations

import numpy as np

from export.bioimageio.operators import BOOL, DOUBLE, FLOAT, INT64, Operators
from runtime.ops.clahe import BINS, CLIP_LIMIT, GRAY_LEVELS
from runtime.ops.preprocess import CLAHE_KERNEL_PX, CLIP_PERCENTILE

_UINT16_MAX = 65535.0
_PER_BIN = 1.0 + GRAY_LEVELS // BINS
_PASSES = 8
"""Most passes over the bins while clipped counts are redistributed; two are usual."""


def normalize_plane(ops: Operators, plane: str, side: int) -> str:
    """Clip, rescale and equalise one channel.

    Args:
        ops: the graph.
        plane: (side, side) float32.
        side: pixels, a multiple of ``CLAHE_KERNEL_PX``.

    Returns:
        (side, side) float32 in [0, 1]; zeros if the channel is constant.
    """
    values = ops.cast(ops("Reshape", plane, ops.whole([-1])), DOUBLE)
    low, high = _range(ops, values, side)
    constant = ops("Equal", low, high)
    span = ops("Where", constant, ops.double(1.0), ops("Sub", high, low))
    unit = ops("Div", ops("Sub", ops("Min", ops("Max", values, low), high), low), span)
    sixteen = ops("Floor", ops("Add", ops("Mul", unit, ops.double(_UINT16_MAX)), ops.double(0.5)))
    scaled = ops("Mul", ops("Div", sixteen, ops.double(_UINT16_MAX)), ops.double(GRAY_LEVELS - 1.0))
    bins = ops.cast(ops("Floor", ops("Div", ops("Round", scaled), ops.double(_PER_BIN))), INT64)
    levels = _equalized(ops, bins, side)
    out = ops("Where", constant, ops.single(0.0), _spread(ops, levels))
    return ops("Reshape", out, ops.whole([side, side]))


def _range(ops: Operators, values: str, side: int) -> tuple[str, str]:
    """Return the lowest value, and the highest after clipping to a percentile of the values other than 0."""
    other = ops("Not", ops("Equal", values, ops.double(0.0)))
    count = ops("ReduceSum", ops.cast(other, INT64), keepdims=0)
    ordered, _ = ops.several(
        "TopK",
        ops("Where", other, values, ops.double(np.inf)),
        ops.whole([side * side]),
        outputs=2,
        largest=0,
        sorted=1,
    )
    last = ops("Max", ops("Sub", count, ops.whole(1)), ops.whole(0))
    place = ops("Mul", ops.cast(last, DOUBLE), ops.double(CLIP_PERCENTILE / 100))
    before = ops("Floor", place)
    share = ops("Sub", place, before)
    first = ops.cast(before, INT64)
    lower = ops("Gather", ordered, first)
    upper = ops("Gather", ordered, ops("Min", ops("Add", first, ops.whole(1)), last))
    step = ops("Sub", upper, lower)
    # Interpolates from the nearer end, as numpy does.
    forwards = ops("Add", lower, ops("Mul", step, share))
    backwards = ops("Sub", upper, ops("Mul", step, ops("Sub", ops.double(1.0), share)))
    between = ops("Where", ops("Less", share, ops.double(0.5)), forwards, backwards)
    # Without any value other than 0, the sorted ones are infinite and their difference is not a number.
    clip = ops("Where", ops("Greater", count, ops.whole(0)), between, ops.double(0.0))
    lowest, highest = ops("ReduceMin", values, keepdims=0), ops("ReduceMax", values, keepdims=0)
    return ops("Min", lowest, clip), ops("Min", highest, clip)


def _equalized(ops: Operators, bins: str, side: int) -> str:
    """Equalise (side * side,) int64 bins; return int64 gray levels of the same shape."""
    tiles = side // CLAHE_KERNEL_PX
    maps = _maps(ops, bins, side, tiles)
    place = np.arange(side) + CLAHE_KERNEL_PX // 2
    block = place // CLAHE_KERNEL_PX
    first, second = np.clip(block - 1, 0, tiles - 1), np.clip(block, 0, tiles - 1)
    share = place % CLAHE_KERNEL_PX / CLAHE_KERNEL_PX
    total = ""
    for rows, down in ((first, 1 - share), (second, share)):
        for columns, across in ((first, 1 - share), (second, share)):
            start = ops("Add", ops.whole((rows * tiles * BINS)[:, None]), ops.whole((columns * BINS)[None]))
            index = ops("Add", ops("Reshape", start, ops.whole([-1])), bins)
            weight = ops("Reshape", ops("Mul", ops.double(across[None]), ops.double(down[:, None])), ops.whole([-1]))
            part = ops.cast(ops("Mul", ops.cast(ops("Gather", maps, index), DOUBLE), weight), FLOAT)
            total = ops("Add", total, part) if total else part
    return ops.cast(total, INT64)


def _maps(ops: Operators, bins: str, side: int, tiles: int) -> str:
    """Map each bin of each tile to a gray level, (tiles * tiles * BINS,) int64, by the clipped cumulative histogram."""
    rows = np.arange(side) // CLAHE_KERNEL_PX
    start = ops("Add", ops.whole((rows * tiles * BINS)[:, None]), ops.whole((rows * BINS)[None]))
    index = ops("Add", ops("Reshape", start, ops.whole([-1])), bins)
    none = ops("ConstantOfShape", ops.whole([tiles * tiles * BINS]), value=_whole_zero())
    ones = ops("ConstantOfShape", ops.whole([side * side]), value=_whole_zero(1))
    counts = ops("ScatterElements", none, index, ones, axis=0, reduction="add")
    limit = max(int(CLIP_LIMIT * CLAHE_KERNEL_PX**2), 1)
    clipped = _clipped(ops, ops("Reshape", counts, ops.whole([tiles * tiles, BINS])), tiles * tiles, limit)
    share = (GRAY_LEVELS - 1) / CLAHE_KERNEL_PX**2
    total = ops.cast(ops("CumSum", clipped, ops.whole(1)), DOUBLE)
    levels = ops("Min", ops("Mul", total, ops.double(share)), ops.double(GRAY_LEVELS - 1.0))
    return ops("Reshape", ops.cast(levels, INT64), ops.whole([-1]))


def _whole_zero(value: int = 0) -> object:
    from onnx import numpy_helper

    return numpy_helper.from_array(np.array([value], np.int64))


def _clipped(ops: Operators, counts: str, tiles: int, limit: int) -> str:
    """Clip (tiles, BINS) counts at the limit and redistribute the excess among the bins below it."""
    most, zero = ops.whole(limit), ops.whole(0)
    excess = ops.sum_of(ops("Max", ops("Sub", counts, most), zero), 1)
    share = ops("Div", excess, ops.whole(BINS))
    border = ops("Sub", most, share)
    counts = ops("Min", counts, most)
    below = ops("Less", counts, border)
    counts = ops("Where", below, ops("Add", counts, share), counts)
    excess = ops("Sub", excess, ops("Mul", share, ops.sum_of(ops.cast(below, INT64), 1)))
    near = ops("And", ops("GreaterOrEqual", counts, border), ops("Less", counts, most))
    missing = ops("Where", near, ops("Sub", most, counts), zero)
    counts, excess = ops("Add", counts, missing), ops("Sub", excess, ops.sum_of(missing, 1))
    state = {"counts": (counts, INT64, (tiles, BINS)), "excess": (excess, INT64, (tiles, 1))}
    started = ops.constant(True, np.bool_)
    out, _ = ops.loop(ops.whole(BINS * _PASSES), started, state, lambda *given: _redistribute(*given, limit=limit))
    return out


def _redistribute(ops: Operators, number: str, state: list[str], *, limit: int) -> tuple[str, list[str]]:
    """Raise every n-th bin of each tile by one, from the bin with the number of the iteration on."""
    counts, excess = state
    most, zero, one = ops.whole(limit), ops.whole(0), ops.whole(1)
    first = ops("Mod", number, ops.whole(BINS))
    free = ops("Less", counts, most)
    room = ops.sum_of(ops.cast(free, INT64), 1)
    step = ops("Max", ops("Div", room, ops("Max", excess, one)), one)
    distance = ops("Sub", ops.whole(np.arange(BINS)[None]), first)
    due = ops("And", ops("GreaterOrEqual", distance, zero), ops("Equal", ops("Mod", distance, step), zero))
    raised = ops.cast(ops("And", ops("And", due, free), ops("Greater", excess, zero)), INT64)
    counts, left = ops("Add", counts, raised), ops("Sub", excess, ops.sum_of(raised, 1))
    active = ops("And", ops("Greater", left, zero), ops("Greater", room, zero))
    again = ops.cast(ops("ReduceMax", ops.cast(active, INT64), keepdims=0), BOOL)
    return again, [counts, left]


def _spread(ops: Operators, levels: str) -> str:
    """Spread gray levels over [0, 1], float32."""
    low, high = ops("ReduceMin", levels, keepdims=0), ops("ReduceMax", levels, keepdims=0)
    same = ops("Equal", low, high)
    span = ops.cast(ops("Where", same, ops.whole(1), ops("Sub", high, low)), DOUBLE)
    spread = ops.cast(ops("Div", ops.cast(ops("Sub", levels, low), DOUBLE), span), FLOAT)
    return ops("Where", same, ops.cast(ops("Min", low, ops.whole(1)), FLOAT), spread)
