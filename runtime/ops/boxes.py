"""Boxes: formats and frames, selection of detections by score, and checks of prompts. Pure functions."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from runtime.config import SegmentConfig
from runtime.errors import BackendError, InputError
from runtime.ops.arrays import as_numbers
from runtime.ops.compiled import compiled
from runtime.types import F32, F64

LOGITS_PER_TOKEN = 4
"""Mask logits per image token and axis: SAM's decoder upscales twice by 2."""

FARTHEST_PX = 1e6
"""A coordinate beyond this limit is a mistake."""


def cxcywh_to_xyxy(boxes: F32) -> F32:
    """Convert (..., 4) centre x, y, width, height to left, top, right, bottom, in the same frame."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return np.concatenate((centre - half, centre + half), axis=-1)


def scale_xyxy(boxes: F32 | F64, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> F64:
    """Scale (K, 4) xyxy boxes from an image of size ``from_hw`` to one of size ``to_hw``.

    Computes in float64, so a float32 box survives a round trip bit for bit: masks are sensitive to rounding of boxes.
    """
    y, x = to_hw[0] / from_hw[0], to_hw[1] / from_hw[1]
    scaled: F64 = boxes * np.array([x, y, x, y])
    return scaled


def clip_boxes(boxes_xyxy_image: F64, size_hw: tuple[int, int]) -> F64:
    """Clip boxes (K, 4), image pixels, to an image of the given size; a box outside it keeps a width or height of 0."""
    height, width = size_hw
    clipped: F64 = np.clip(boxes_xyxy_image, 0.0, np.array([width, height, width, height], np.float64))
    return clipped


def two_means(values: F32) -> tuple[float, float]:
    """Compute the centres of the optimal split of one-dimensional values into two clusters.

    In one dimension, the clusters of k-means are intervals. The best of all splits of the sorted values is therefore
    the global optimum, without iteration or seed.

    Args:
        values: (n,), n >= 1. With fewer than two distinct values, both centres are the mean.

    Returns:
        The lower and the upper centre.
    """
    ordered = np.sort(values.astype(np.float64))
    count = ordered.size
    if ordered[0] == ordered[-1]:
        return float(ordered[0]), float(ordered[0])
    total = np.cumsum(ordered)
    left_count = np.arange(1, count)
    left_sum = total[:-1]
    right_sum = total[-1] - left_sum
    # The within-cluster sum of squares is a constant minus this.
    between = left_sum**2 / left_count + right_sum**2 / (count - left_count)
    best = int(np.argmax(between))
    return float(left_sum[best] / left_count[best]), float(right_sum[best] / (count - left_count[best]))


def score_cut(scores: F32, config: SegmentConfig) -> float:
    """Compute the score that a detection of this image must exceed.

    For ``adaptive`` it is ``0.66 t + 0.33 m``, with m the mean of the two k-means centres of the scores. The constants
    come from the released CellSAM code, whose k-means stops early, so its cut differs by up to 1e-3. For ``fixed`` it
    is t.

    Args:
        scores: (n,) in [0, 1], scores of all candidates.
        config: the threshold t, and the mode.
    """
    if config.box_threshold_mode == "fixed" or scores.size < 2:
        return config.box_threshold
    return 0.66 * config.box_threshold + 0.33 * (sum(two_means(scores)) / 2)


def select_boxes(boxes_cxcywh_norm: F32, logits: F32, config: SegmentConfig) -> tuple[F32, F32, float]:
    """Keep the detections of one image with scores above the cut.

    The candidates are the A highest of all A x classes scores, so a box may occur once per class.

    Args:
        boxes_cxcywh_norm: (A, 4).
        logits: (A, classes).
        config: thresholds of scores and overlaps.

    Returns:
        Boxes (K, 4) xyxy as fractions of the sides, scores (K,) in descending order, and the cut. Boxes without area
        are dropped, as are boxes that overlap a better one by more than ``config.nms_iou``.

    Raises:
        BackendError: the detector returned NaN or infinity.
    """
    if not (np.isfinite(logits).all() and np.isfinite(boxes_cxcywh_norm).all()):
        raise BackendError(
            "the detector returned NaN or infinite boxes or scores; expected finite ones. The engine's precision does "
            "not suit these weights: run 'cellsam-engine verify', or 'cellsam-engine export --precision fp32'."
        )
    anchors, classes = logits.shape
    scores = expit(logits.astype(np.float64).ravel())
    order = np.argsort(-scores, kind="stable")[:anchors]
    candidates = scores[order].astype(np.float32)
    cut = score_cut(candidates, config)
    kept = order[candidates > cut]
    boxes = cxcywh_to_xyxy(boxes_cxcywh_norm[kept // classes]).astype(np.float32)
    real = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    boxes, found = boxes[real], scores[kept][real].astype(np.float32)
    single = best_of_overlapping(boxes, config.nms_iou)
    return boxes[single], found[single], cut


@compiled
def best_of_overlapping(boxes_xyxy: F32, iou: float) -> NDArray[np.bool_]:
    """Select boxes by non-maximum suppression: each kept box drops later ones that overlap it by more than ``iou``.

    Args:
        boxes_xyxy: (K, 4), best first.
        iou: largest overlap that is kept; 1 keeps all boxes.

    Returns:
        (K,) bool, True for kept boxes.
    """
    stays = np.ones(len(boxes_xyxy), np.bool_)
    if iou >= 1.0:
        return stays
    areas = (boxes_xyxy[:, 2] - boxes_xyxy[:, 0]) * (boxes_xyxy[:, 3] - boxes_xyxy[:, 1])
    for one in range(len(boxes_xyxy)):
        if not stays[one]:
            continue
        left, top, right, bottom = boxes_xyxy[one]
        for other in range(one + 1, len(boxes_xyxy)):
            width = min(right, boxes_xyxy[other, 2]) - max(left, boxes_xyxy[other, 0])
            height = min(bottom, boxes_xyxy[other, 3]) - max(top, boxes_xyxy[other, 1])
            if width > 0 and height > 0:
                shared = width * height
                stays[other] &= shared <= iou * (areas[one] + areas[other] - shared)
    return stays


def check_boxes(boxes: ArrayLike, size_hw: tuple[int, int]) -> F64:
    """Check box prompts and return them as (K, 4) float64.

    Args:
        boxes: (K, 4) xyxy in image pixels; K may be 0. Boxes may extend beyond the image but must overlap it.
        size_hw: size of the image.

    Raises:
        InputError: the shape is wrong, or a box has a non-finite value or no area, or lies outside the image.
    """
    array = as_numbers(boxes, "boxes", "[[x0, y0, x1, y1], ...]")
    if array.size == 0 and array.ndim <= 2:
        return np.zeros((0, 4))
    if array.ndim != 2 or array.shape[1] != 4:
        raise InputError(
            f"boxes have shape {array.shape}; expected (K, 4): [[x0, y0, x1, y1], ...]. Reshape them.",
            kind="wrong_shape",
            field="boxes",
        )
    height, width = size_hw
    x0, y0, x1, y1 = array.T
    checks = (
        (~np.isfinite(array).all(axis=1), "holds a NaN or infinite value"),
        ((np.abs(array) > FARTHEST_PX).any(axis=1), f"extends beyond {FARTHEST_PX:.0e} pixels"),
        ((x1 <= x0) | (y1 <= y0), "has no area; expected x0 < x1 and y0 < y1"),
        (
            (x1 <= 0) | (y1 <= 0) | (x0 >= width) | (y0 >= height),
            f"lies outside the {width} x {height} image",
        ),
    )
    for bad, what in checks:
        if bad.any():
            index = int(np.argmax(bad))
            raise InputError(
                f"box {index} {array[index].tolist()} {what} (xyxy, image pixels).", kind="out_of_range", field="boxes"
            )
    return array


def token_window_sides(grid_size: int) -> tuple[int, ...]:
    """Return the available window sides, in tokens; they are few, so boxes of similar size share decoder calls."""
    return (*(side for side in (8, 12, 16, 24, 32, 48) if side < grid_size), grid_size)


def token_windows(
    boxes_xyxy_model: F32, image_size: int, grid_size: int, *, full: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose the square window of image tokens in which to decode each box's mask.

    It contains the box and two tokens (32 pixels at 1024) on each side. That is more than the 20 pixels by which SAM's
    training boxes were jittered at most (Kirillov et al. 2023, appendix A). Parts of a mask beyond its window are lost;
    the whole grid loses nothing. A window depends on its own box alone, not on the boxes decoded with it.

    Args:
        boxes_xyxy_model: (K, 4), model pixels.
        image_size: side of the model input, in pixels.
        grid_size: tokens per side.
        full: use the whole grid.

    Returns:
        First token (row, column) of each window (K, 2), and its side (K,), one of ``token_window_sides``.
    """
    count = len(boxes_xyxy_model)
    if full or not count:
        return np.zeros((count, 2), np.int64), np.full(count, grid_size, np.int64)
    margin_tokens = 2
    token_px = image_size / grid_size
    clipped = np.clip(boxes_xyxy_model, 0, image_size).astype(np.float64)
    first = np.floor(clipped[:, [1, 0]] / token_px).astype(np.int64) - margin_tokens
    last = np.ceil(clipped[:, [3, 2]] / token_px).astype(np.int64) + margin_tokens
    # Tokens outside the image are not needed.
    first, last = np.maximum(first, 0), np.minimum(last, grid_size)
    sides = np.array(token_window_sides(grid_size))
    side = sides[np.searchsorted(sides, (last - first).max(axis=1))]
    centre = (first + last) // 2
    origin = np.clip(centre - side[:, None] // 2, 0, grid_size - side[:, None])
    return origin, side
