"""Box formats, thresholds, windows: properties and golden figures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from runtime import BackendError, InputError, SegmentConfig
from runtime.ops.boxes import (
    best_of_overlapping,
    check_boxes,
    cxcywh_to_xyxy,
    scale_xyxy,
    score_cut,
    select_boxes,
    token_window_sides,
    token_windows,
    two_means,
)
from tests.golden.cases import NAMES, assert_close, load_arrays

unit = st.floats(0, 1, width=32)
scores_1d = hnp.arrays(np.float32, st.integers(1, 60), elements=unit)


some_boxes = hnp.arrays(np.float32, st.tuples(st.integers(0, 20), st.just(4)), elements=st.floats(0.0625, 1, width=32))


@pytest.mark.parametrize("name", NAMES)
def test_golden_threshold_and_boxes(name: str) -> None:
    arrays = load_arrays(name)
    adaptive = SegmentConfig(box_threshold=float(arrays["bbox_threshold"]))
    boxes, scores, cut = select_boxes(arrays["pred_boxes"][0], arrays["pred_logits"][0], adaptive)
    assert abs(cut - float(arrays["effective_threshold"])) < 2e-3
    fixed = SegmentConfig(box_threshold=float(arrays["effective_threshold"]), box_threshold_mode="fixed")
    boxes, scores, _ = select_boxes(arrays["pred_boxes"][0], arrays["pred_logits"][0], fixed)
    assert_close(boxes * 1024, arrays["kept_boxes_1024"], "kept boxes")
    assert_close(scores, arrays["topk_scores"][: len(scores)], "scores")


@given(boxes=some_boxes)
def test_corners_enclose_the_centre(boxes: Any) -> None:
    corners = cxcywh_to_xyxy(boxes)
    np.testing.assert_allclose((corners[:, :2] + corners[:, 2:]) / 2, boxes[:, :2], atol=1e-6)
    np.testing.assert_allclose(corners[:, 2:] - corners[:, :2], boxes[:, 2:], atol=1e-6)


@given(boxes=some_boxes, a=st.integers(1, 2000), b=st.integers(1, 2000))
def test_scaling_there_and_back(boxes: Any, a: int, b: int) -> None:
    there = scale_xyxy(boxes, (a, b), (1024, 1024))
    np.testing.assert_array_equal(scale_xyxy(there, (1024, 1024), (a, b)).astype(np.float32), boxes)


@given(values=scores_1d)
def test_two_means_is_the_best_of_all_splits(values: Any) -> None:
    low, high = two_means(values)
    assert low <= high
    ordered = np.sort(values.astype(np.float64))

    def cost(left: Any, right: Any) -> float:
        return sum(float(((part - part.mean()) ** 2).sum()) for part in (left, right) if len(part))

    found = np.minimum((ordered - low) ** 2, (ordered - high) ** 2).sum()
    best = min((cost(ordered[:n], ordered[n:]) for n in range(1, len(ordered))), default=0.0)
    assert found <= best + 1e-9


def test_two_means_of_two_groups() -> None:
    assert two_means(np.array([0.1, 0.9, 0.12, 0.88, 0.08], np.float32)) == pytest.approx((0.1, 0.89), abs=1e-6)


@given(values=scores_1d, seed=st.integers(0, 99))
def test_the_cut_does_not_depend_on_the_order_of_scores(values: Any, seed: int) -> None:
    shuffled = np.random.default_rng(seed).permutation(values)
    assert score_cut(values, SegmentConfig()) == pytest.approx(score_cut(shuffled, SegmentConfig()), abs=1e-9)


@given(logits=hnp.arrays(np.float32, (30, 2), elements=st.floats(-8, 8, width=32)), threshold=st.floats(0, 1))
def test_selection_keeps_exactly_what_exceeds_the_cut(logits: Any, threshold: float) -> None:
    boxes = np.random.default_rng(0).random((30, 4)).astype(np.float32)
    config = SegmentConfig(box_threshold=threshold, box_threshold_mode="fixed")
    kept, scores, cut = select_boxes(boxes, logits, config)
    assert cut == threshold
    assert len(kept) == len(scores)
    assert (scores > np.float32(threshold)).all()
    assert (np.diff(scores) <= 0).all()
    every = np.sort(1 / (1 + np.exp(-logits.astype(np.float64).ravel())))[::-1][:30].astype(np.float32)
    assert len(scores) == (every > threshold).sum()


def test_a_box_may_come_once_per_class() -> None:
    boxes = np.array([[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1]], np.float32)
    logits = np.array([[5.0, 4.0], [-5.0, -6.0]], np.float32)
    kept, _, _ = select_boxes(boxes, logits, SegmentConfig(box_threshold=0.5, box_threshold_mode="fixed"))
    np.testing.assert_allclose(kept, [[0.4, 0.4, 0.6, 0.6]] * 2, atol=1e-6)


@pytest.mark.parametrize("which", ["boxes", "logits"])
def test_nan_from_the_detector_is_an_error(which: str) -> None:
    arrays = {"boxes": np.full((3, 4), 0.5, np.float32), "logits": np.zeros((3, 2), np.float32)}
    arrays[which][1, 1] = np.nan
    with pytest.raises(BackendError, match="the detector returned NaN"):
        select_boxes(arrays["boxes"], arrays["logits"], SegmentConfig())


def test_detections_without_area_are_left_out() -> None:
    boxes = np.array([[0.5, 0.5, 1e-9, 0.1], [0.5, 0.5, 0.1, 0.1]], np.float32)
    fixed = SegmentConfig(box_threshold_mode="fixed")
    kept, scores, _ = select_boxes(boxes, np.array([[3.0], [2.0]], np.float32), fixed)
    assert len(kept) == len(scores) == 1
    check_boxes(scale_xyxy(kept, (1, 1), (50, 60)), (50, 60))


@given(
    boxes=hnp.arrays(np.float32, st.tuples(st.integers(1, 20), st.just(4)), elements=st.floats(-80, 1200, width=32)),
    grid=st.sampled_from([10, 32, 64]),
)
def test_windows_hold_their_boxes_and_stay_in_the_grid(boxes: Any, grid: int) -> None:
    boxes = np.concatenate((np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])), 1)
    origin, side = token_windows(boxes, 1024, grid, full=False)
    assert (origin >= 0).all()
    assert (origin + side[:, None] <= grid).all()
    assert set(side.tolist()) <= set(token_window_sides(grid))
    token = 1024 / grid
    inside = np.clip(boxes, 0, 1024)
    assert (origin[:, ::-1] * token <= inside[:, :2] + 1e-3).all()
    assert ((origin + side[:, None])[:, ::-1] * token >= inside[:, 2:] - 1e-3).all()
    # A window depends on its own box alone.
    alone = [token_windows(boxes[k : k + 1], 1024, grid, full=False) for k in range(len(boxes))]
    np.testing.assert_array_equal(origin, np.concatenate([o for o, _ in alone]))
    np.testing.assert_array_equal(side, np.concatenate([s for _, s in alone]))


def test_windows_leave_a_margin_of_two_tokens() -> None:
    origin, side = token_windows(np.array([[400, 300, 440, 330]], np.float32), 1024, 64, full=False)
    first, last = origin[0] * 16, (origin[0] + side[0]) * 16
    assert (first <= [300 - 32, 400 - 32]).all()
    assert (last >= [330 + 32, 440 + 32]).all()
    assert side[0] == 8


def test_full_windows() -> None:
    origin, side = token_windows(np.array([[1, 2, 3, 4]], np.float32), 1024, 64, full=True)
    assert origin.tolist() == [[0, 0]]
    assert side.tolist() == [64]


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[1, 2, 3]], r"shape \(1, 3\); expected \(K, 4\)"),
        ([1, 2, 3, 4], r"shape \(4,\)"),
        ([[1, 2, 3, float("nan")]], "box 0 .* NaN or infinite"),
        ([[0, 0, 5, 5], [5, 5, 5, 9]], "box 1 .* no area"),
        ([[9, 9, 3, 12]], "box 0 .* no area"),
        ([[0, 0, 5, 5], [0, 0, 5, 5], [200, 0, 210, 9]], "box 2 .* outside the 100 x 50 image"),
        ([["a", 0, 0, 0]], "cannot be read as numbers"),
        ([[0, 0, 1e300, 5]], r"extends beyond 1e\+06 pixels"),
    ],
)
def test_unusable_boxes_are_rejected(boxes: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_boxes(boxes, (50, 100))


@pytest.mark.parametrize("empty", [[], np.zeros((0, 4)), [[]]])
def test_no_boxes_are_fine(empty: Any) -> None:
    assert check_boxes(empty, (5, 5)).shape == (0, 4)


def test_boxes_may_reach_beyond_the_image() -> None:
    assert check_boxes([[-5, -5, 10, 200]], (50, 100)).tolist() == [[-5, -5, 10, 200]]


def test_overlapping_boxes_give_way_to_better_ones() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 5, 10, 15], [20, 20, 30, 30]], np.float32)
    assert best_of_overlapping(boxes, 0.8).tolist() == [True, False, True, True]
    assert best_of_overlapping(boxes, 0.3).tolist() == [True, False, False, True]  # 50 of 150
    assert best_of_overlapping(boxes, 1.0).all()
    assert best_of_overlapping(boxes[:0], 0.5).shape == (0,)


@given(corners=some_boxes, iou=st.floats(0, 1))
def test_suppression_leaves_no_overlap_and_drops_nothing_else(corners: Any, iou: float) -> None:
    boxes = np.concatenate((corners[:, :2], corners[:, :2] + corners[:, 2:]), axis=1)
    stays = best_of_overlapping(boxes, iou)

    def overlap(a: Any, b: Any) -> float:
        sides = (np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])).clip(min=0)
        shared = float(sides.prod())
        return shared / (float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()) - shared)

    kept = [box for box, stay in zip(boxes, stays, strict=True) if stay]
    for index, box in enumerate(boxes):
        before = [other for other, stay in zip(boxes[:index], stays[:index], strict=True) if stay]
        worst = max((overlap(other, box) for other in before), default=0.0)
        if abs(worst - iou) > 1e-5 and iou < 1:
            assert stays[index] == (worst <= iou)
    assert len(kept) == stays.sum()
