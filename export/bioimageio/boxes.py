"""Choice of boxes in ONNX operators, step by step like ``runtime.ops.boxes``."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from export.bioimageio.operators import DOUBLE, FLOAT, INT64, Operators
from runtime.config import SegmentConfig
from runtime.engines.manifest import Manifest
from runtime.ops.boxes import token_window_sides

_MARGIN_TOKENS = 2
"""Tokens around a box in its window; see ``runtime.ops.boxes.token_windows``."""


class Prompts(NamedTuple):
    """Boxes to decode, K of them, best first, and the windows of tokens in which to decode them."""

    boxes: str
    """(K, 4) float32 xyxy, model pixels."""
    origins: str
    """(K, 2) int64, first token (row, column) of each window."""
    sides: str
    """(K,) int64, side of each window in tokens."""
    number: str
    """int64 scalar, K."""


def choose_boxes(
    ops: Operators, boxes_cxcywh_norm: str, logits: str, manifest: Manifest, config: SegmentConfig
) -> Prompts:
    """Keep the boxes with scores above a fixed cut, without those that overlap a better one.

    Args:
        ops: the graph.
        boxes_cxcywh_norm: (1, A, 4).
        logits: (1, A, 1).
        manifest: sizes of the model.
        config: thresholds, with the cut ``fixed``.
    """
    scores = ops.cast(ops("Sigmoid", ops.cast(logits, DOUBLE)), FLOAT)
    centre, size = ops.several("Split", boxes_cxcywh_norm, outputs=2, axis=2, num_outputs=2)
    half = ops("Div", size, ops.single(2.0))
    first, last = ops("Sub", centre, half), ops("Add", centre, half)
    real = ops("ReduceMin", ops.cast(ops("Greater", last, first), INT64), ops.whole([2]), keepdims=1)
    scores = ops("Where", ops("Equal", real, ops.whole(1)), scores, ops.single(-1.0))
    boxes = ops("Concat", first, last, axis=2)  # (1, A, 4) xyxy; suppression works in either order of axes
    anchors = ops("Shape", boxes, start=1, end=2)
    chosen = ops(
        "NonMaxSuppression",
        boxes,
        ops("Transpose", scores, perm=[0, 2, 1]),
        anchors,
        ops.single([config.nms_iou]),
        ops.single([config.box_threshold]),
        center_point_box=0,
    )
    rows = ops("Reshape", ops("Slice", chosen, ops.whole([2]), ops.whole([3]), ops.whole([1])), ops.whole([-1]))
    picked = ops("Gather", ops("Reshape", boxes, ops.whole([-1, 4])), rows, axis=0)
    in_model = ops("Mul", picked, ops.single(float(manifest.image_size)))
    origins, sides = _windows(ops, in_model, manifest, full=config.mask_window == "full")
    return Prompts(in_model, origins, sides, ops("Reshape", ops("Shape", rows), ops.whole([])))


def _windows(ops: Operators, boxes: str, manifest: Manifest, *, full: bool) -> tuple[str, str]:
    """Choose the window of each box, as ``token_windows`` does."""
    grid, size = manifest.grid_size, manifest.image_size
    clipped = ops.cast(ops("Clip", boxes, ops.single(0.0), ops.single(float(size))), DOUBLE)
    tokens = ops("Div", clipped, ops.double(size / grid))
    near = ops("Gather", ops("Floor", tokens), ops.whole([1, 0]), axis=1)
    far = ops("Gather", ops("Ceil", tokens), ops.whole([3, 2]), axis=1)
    margin, end = ops.whole(_MARGIN_TOKENS), ops.whole(grid)
    first = ops("Max", ops("Sub", ops.cast(near, INT64), margin), ops.whole(0))
    last = ops("Min", ops("Add", ops.cast(far, INT64), margin), end)
    length = ops("ReduceMax", ops("Sub", last, first), ops.whole([1]), keepdims=1)
    sides = np.array([grid] if full else token_window_sides(grid))
    fits = ops("GreaterOrEqual", ops.whole(sides[None]), length)
    side = ops("ReduceMin", ops("Where", fits, ops.whole(sides[None]), end), ops.whole([1]), keepdims=1)
    centre = ops("Div", ops("Add", first, last), ops.whole(2))
    start = ops("Sub", centre, ops("Div", side, ops.whole(2)))
    origin = ops("Min", ops("Max", start, ops.whole(0)), ops("Sub", end, side))
    return origin, ops("Reshape", side, ops.whole([-1]))
