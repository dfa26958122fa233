"""Masks to labels in ONNX operators, like ``runtime.ops.masks``.

Masks are decoded one by one, so that memory does not grow with their number. The only step that differs from the
runtime is the last: a hole is filled only if a single cell surrounds it.
"""

from __future__ import annotations

import numpy as np
import onnx

from export.bioimageio.boxes import Prompts
from export.bioimageio.operators import BOOL, FLOAT, INT64, Operators
from runtime.config import SegmentConfig
from runtime.engines.manifest import Manifest
from runtime.ops.boxes import LOGITS_PER_TOKEN

_OUTSIDE = -1e30
"""Logit beyond a window. Any pixel that reads it is outside the mask."""

_STEPS = 8
"""Steps of growth between two checks for change."""


def decode_labels(
    ops: Operators,
    decoder: onnx.ModelProto,
    embedding: str,
    prompts: Prompts,
    manifest: Manifest,
    config: SegmentConfig,
) -> str:
    """Decode all masks and assign each pixel to the most probable one.

    Args:
        ops: the graph.
        decoder: the mask decoder.
        embedding: (1, C, G, G) image embedding.
        prompts: the boxes.
        manifest: sizes of the model.
        config: thresholds, smallest area and holes.

    Returns:
        (S, S) int64 labels, 0 background, in the order of the boxes.
    """
    side = manifest.image_size
    threshold = np.float32(config.mask_threshold_logit)

    def decode(inner: Operators, number: str, state: list[str]) -> tuple[str, list[str]]:
        best, owner = state
        logits, iou = _one_mask(inner, decoder, embedding, prompts, number, manifest)
        passed = inner("GreaterOrEqual", iou, inner.single(config.iou_threshold))
        wins = inner("And", passed, inner("Greater", logits, best))
        value = inner("Add", number, inner.whole(1))
        new = [inner("Where", wins, logits, best), inner("Where", wins, value, owner)]
        return inner.constant(True, np.bool_), new

    shape = ops.whole([side, side])
    lowest = onnx.numpy_helper.from_array(np.array([threshold], np.float32))
    state = {
        "best": (ops("ConstantOfShape", shape, value=lowest), FLOAT, (side, side)),
        "owner": (ops("ConstantOfShape", shape, value=_zero()), INT64, (side, side)),
    }
    _, owner = ops.loop(prompts.number, ops.constant(True, np.bool_), state, decode)
    labels = _without_small(ops, owner, prompts.number, config.min_area_px)
    return _filled(ops, labels, side) if config.fill_holes else labels


def _one_mask(
    ops: Operators, decoder: onnx.ModelProto, embedding: str, prompts: Prompts, number: str, manifest: Manifest
) -> tuple[str, str]:
    """Decode one box; return its logits at all pixels, (S, S), and its IoU estimate, (1,)."""
    whole, zero, row = LOGITS_PER_TOKEN * manifest.grid_size, ops.whole([0]), ops("Unsqueeze", number, ops.whole([0]))
    side = ops("Gather", prompts.sides, number)
    origin = ops("Gather", prompts.origins, row, axis=0)  # (1, 2)
    top, left = ops.several("Split", origin, outputs=2, axis=1, num_outputs=2)
    tokens = ops("Range", ops.whole(0), side, ops.whole(1))
    made = ops.engine(
        decoder,
        {
            "image_embedding": embedding,
            "image_index": zero,
            "boxes_xyxy_model": ops("Gather", prompts.boxes, row, axis=0),
            "window_rows": ops("Add", top, tokens),
            "window_cols": ops("Add", left, tokens),
        },
    )
    before = ops("Mul", ops("Reshape", origin, ops.whole([2])), ops.whole(LOGITS_PER_TOKEN))
    length = ops("Mul", ops("Unsqueeze", side, zero), ops.whole(LOGITS_PER_TOKEN))
    after = ops("Sub", ops("Sub", ops.whole([whole, whole]), before), length)
    pads = ops("Concat", zero, before, zero, after, axis=0)
    padded = ops("Unsqueeze", ops("Pad", made["mask_logits"], pads, ops.single(_OUTSIDE)), zero)
    sizes = ops.whole([1, 1, manifest.image_size, manifest.image_size])
    pixels = ops("Resize", padded, "", "", sizes, mode="linear", coordinate_transformation_mode="half_pixel")
    return ops("Squeeze", pixels, ops.whole([0, 1])), made["iou_predictions"]


def _without_small(ops: Operators, owner: str, count: str, least: int) -> str:
    """Remove cells with fewer than ``least`` pixels and number the others from 1."""
    flat = ops("Reshape", owner, ops.whole([-1]))
    masks = ops("Unsqueeze", ops("Add", count, ops.whole(1)), ops.whole([0]))
    none = ops("ConstantOfShape", masks, value=_zero())
    ones = ops("ConstantOfShape", ops("Shape", flat), value=_zero(1))
    areas = ops("ScatterElements", none, flat, ones, axis=0, reduction="add")
    number = ops("Range", ops.whole(0), ops("Add", count, ops.whole(1)), ops.whole(1))
    is_cell = ops("Greater", number, ops.whole(0))
    large = ops("And", is_cell, ops("GreaterOrEqual", areas, ops.whole(max(least, 1))))
    ids = ops("Mul", ops("CumSum", ops.cast(large, INT64), ops.whole(0)), ops.cast(large, INT64))
    return ops("Gather", ids, owner)


def _filled(ops: Operators, labels: str, side: int) -> str:
    """Fill background that cannot reach the border along rows and columns, if a single cell surrounds it."""
    shape = (1, 1, side, side)
    image = ops("Reshape", ops.cast(labels, FLOAT), ops.whole(shape))
    free = ops("Equal", image, ops.single(0.0))
    border = np.ones(shape, np.float32)
    border[..., 1:-1, 1:-1] = 0
    reached = ops.cast(ops("And", free, ops.constant(border, np.bool_)), FLOAT)
    passable = ops.cast(free, FLOAT)

    def grow(inner: Operators, _number: str, state: list[str]) -> tuple[str, list[str]]:
        (now,) = state
        after = now
        for _ in range(_STEPS):
            after = inner("Mul", _highest_near(inner, after), passable)
        changed = inner("Not", inner("Equal", _total(inner, after), _total(inner, now)))
        return changed, [after]

    trips, started = ops.whole(side * side), ops.constant(True, np.bool_)
    (reached,) = ops.loop(trips, started, {"reached": (reached, FLOAT, shape)}, grow)
    enclosed = ops("And", free, ops("Equal", reached, ops.single(0.0)))
    highest, lowest = _labels_around(ops, image, enclosed, shape)
    single = ops("And", enclosed, ops("Equal", highest, lowest))
    out = ops("Where", single, highest, image)
    return ops("Reshape", ops.cast(out, INT64), ops.whole([side, side]))


def _labels_around(ops: Operators, image: str, enclosed: str, shape: tuple[int, ...]) -> tuple[str, str]:
    """Carry the highest and the lowest label around each enclosed part into all of its pixels."""
    many = ops.single(1e9)
    lowest = ops("Where", ops("Equal", image, ops.single(0.0)), many, image)

    def carry(inner: Operators, _number: str, state: list[str]) -> tuple[str, list[str]]:
        high, low = state
        new_high, new_low = high, low
        for _ in range(_STEPS):
            new_high = inner("Where", enclosed, _highest_near(inner, new_high), image)
            lower = inner("Neg", _highest_near(inner, inner("Neg", new_low)))
            new_low = inner("Where", enclosed, lower, lowest)
        moved = inner("Or", _differ(inner, high, new_high), _differ(inner, low, new_low))
        return moved, [new_high, new_low]

    some = ops.cast(ops("ReduceMax", ops.cast(enclosed, INT64), keepdims=0), BOOL)
    state = {"highest": (image, FLOAT, shape), "lowest": (lowest, FLOAT, shape)}
    highest, lowest = ops.loop(ops.whole(int(np.prod(shape))), some, state, carry)
    return highest, lowest


def _highest_near(ops: Operators, values: str) -> str:
    """Return the highest value of each pixel and its four neighbours."""
    down = ops("MaxPool", values, kernel_shape=[3, 1], pads=[1, 0, 1, 0])
    return ops("Max", down, ops("MaxPool", values, kernel_shape=[1, 3], pads=[0, 1, 0, 1]))


def _total(ops: Operators, values: str) -> str:
    return ops("ReduceSum", ops.cast(values, INT64), keepdims=0)


def _differ(ops: Operators, one: str, other: str) -> str:
    different = ops.cast(ops("Not", ops("Equal", one, other)), INT64)
    return ops.cast(ops("ReduceMax", different, keepdims=0), BOOL)


def _zero(value: int = 0) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.array([value], np.int64))
