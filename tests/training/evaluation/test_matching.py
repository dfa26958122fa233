"""Tests of pairs, matches and counts: by hand, against brute force, and properties."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import ConfigError, InputError
from runtime.types import I32
from tests.training.evaluation.made import label_maps, row_of_squares
from training.evaluation.matching import Counts, count_matches, find_overlaps, match, matched_cells

THRESHOLDS = st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 0.6, 0.75, 1.0])


def brute_force(truth: I32, predicted: I32, iou_threshold: float) -> Counts:
    """Match by comparing all masks and trying all pairings."""
    true_masks = [truth == label for label in np.unique(truth) if label]
    predicted_masks = [predicted == label for label in np.unique(predicted) if label]
    allowed = [
        [(a & b).sum() / (a | b).sum() >= iou_threshold for b in predicted_masks] for a in true_masks
    ]  # by true cell
    slots = [*range(len(predicted_masks)), *([None] * len(true_masks))]
    tp = max(
        sum(slot is not None and allowed[cell][slot] for cell, slot in enumerate(choice))
        for choice in set(itertools.permutations(slots, len(true_masks)))
    )
    return Counts(tp, len(predicted_masks) - tp, len(true_masks) - tp)


def test_hand_computed_pairs() -> None:
    truth = np.zeros((4, 6), np.int32)
    truth[0:2, 0:3] = 5  # 6 pixels
    truth[3, 0:4] = 9  # 4 pixels
    predicted = np.zeros((4, 6), np.int32)
    predicted[0:2, 1:4] = 2  # 6 pixels, 4 of them shared with 5
    predicted[3, 0:4] = 1  # the same as 9
    predicted[0, 5] = 7  # alone
    overlaps = find_overlaps(truth, predicted)
    assert overlaps.truth_ids.tolist() == [5, 9]
    assert overlaps.predicted_ids.tolist() == [1, 2, 7]
    pairs = zip(overlaps.truth_index, overlaps.predicted_index, overlaps.iou, strict=True)
    assert [(int(t), int(p), float(i)) for t, p, i in pairs] == [(0, 1, 0.5), (1, 0, 1.0)]
    assert count_matches(overlaps, 0.5) == Counts(tp=2, fp=1, fn=0)
    assert count_matches(overlaps, 0.6) == Counts(tp=1, fp=2, fn=1)


def test_the_threshold_itself_counts() -> None:
    truth, predicted = np.zeros((1, 10), np.int32), np.zeros((1, 10), np.int32)
    truth[0, :5], predicted[0, :3] = 1, 1  # IoU 3/5
    assert count_matches(find_overlaps(truth, predicted), 0.6).tp == 1
    assert count_matches(find_overlaps(truth, predicted), 0.61).tp == 0


def test_a_cell_cut_in_two_halves_matches_once() -> None:
    truth = row_of_squares(1)
    predicted = truth.copy()
    predicted[:, : predicted.shape[1] // 2] *= 2
    overlaps = find_overlaps(truth, predicted)
    assert overlaps.iou.tolist() == [0.5, 0.5]
    assert count_matches(overlaps, 0.5) == Counts(tp=1, fp=1, fn=0)


def test_low_thresholds_take_as_many_pairs_as_possible() -> None:
    # True cells A (6), B (4); predicted p covers 4 of A and 2 of B, q covers 2 of A. The best match of A is p, but then
    # B has none; A with q and B with p give two matches.
    truth = np.array([[1, 1, 1, 1, 1, 1, 2, 2, 2, 2]], np.int32)
    predicted = np.array([[2, 2, 1, 1, 1, 1, 1, 1, 0, 0]], np.int32)
    overlaps = find_overlaps(truth, predicted)
    assert match(overlaps, 0.2).tolist() == [[0, 1], [1, 0]]
    assert match(overlaps, 0.4).tolist() == [[0, 0]]


def test_equal_numbers_of_pairs_are_decided_by_iou() -> None:
    truth = np.array([[1, 1, 1, 1, 1, 1]], np.int32)
    predicted = np.array([[2, 2, 3, 3, 3, 3]], np.int32)
    assert match(find_overlaps(truth, predicted), 0.3).tolist() == [[0, 1]]


@given(label_maps(), label_maps(), THRESHOLDS)
def test_counts_equal_brute_force(truth: I32, predicted: I32, iou_threshold: float) -> None:
    assert count_matches(find_overlaps(truth, predicted), iou_threshold) == brute_force(truth, predicted, iou_threshold)


@given(label_maps(cells=5), label_maps(cells=5), THRESHOLDS, st.permutations(list(range(1, 6))))
def test_numbering_of_cells_changes_nothing(
    truth: I32, predicted: I32, iou_threshold: float, numbers: list[int]
) -> None:
    renamed = np.array([0, *(1000 * n for n in numbers)], np.int64)[predicted]
    assert count_matches(find_overlaps(truth, renamed), iou_threshold) == count_matches(
        find_overlaps(truth, predicted), iou_threshold
    )


@given(label_maps(), label_maps(), THRESHOLDS)
def test_swapping_the_maps_swaps_precision_and_recall(truth: I32, predicted: I32, iou_threshold: float) -> None:
    one = count_matches(find_overlaps(truth, predicted), iou_threshold)
    other = count_matches(find_overlaps(predicted, truth), iou_threshold)
    assert (one.tp, one.fp, one.fn) == (other.tp, other.fn, other.fp)
    np.testing.assert_equal((one.precision, one.recall, one.f1), (other.recall, other.precision, other.f1))


@given(label_maps().filter(np.any), THRESHOLDS)
def test_a_perfect_prediction_scores_one(labels: I32, iou_threshold: float) -> None:
    counts = count_matches(find_overlaps(labels, labels), iou_threshold)
    assert (counts.precision, counts.recall, counts.f1, counts.average_precision) == (1.0, 1.0, 1.0, 1.0)


@given(label_maps(), label_maps(), st.sampled_from([0.1, 0.5, 0.6]), st.sampled_from([0.75, 0.9, 1.0]))
def test_a_stricter_threshold_matches_no_more(truth: I32, predicted: I32, low: float, high: float) -> None:
    overlaps = find_overlaps(truth, predicted)
    assert count_matches(overlaps, high).tp <= count_matches(overlaps, low).tp


def test_huge_labels_need_no_huge_table() -> None:
    truth = row_of_squares(3).astype(np.int64) * 2**40
    overlaps = find_overlaps(truth, row_of_squares(3))
    assert overlaps.truth_ids.tolist() == [2**40, 2 * 2**40, 3 * 2**40]
    assert overlaps.iou.tolist() == [1.0, 1.0, 1.0]
    full = find_overlaps(np.full((3, 3), 2**40), np.ones((3, 3), np.uint16))  # no background
    assert full.iou.tolist() == [1.0]


def test_ratios_by_hand_and_without_cells() -> None:
    counts = Counts(tp=6, fp=2, fn=4)
    assert (counts.precision, counts.recall, counts.average_precision) == (0.75, 0.6, 0.5)
    assert counts.f1 == pytest.approx(2 * 0.75 * 0.6 / (0.75 + 0.6))
    assert counts + Counts(1, 1, 1) == Counts(7, 3, 5)
    assert all(math.isnan(v) for v in (Counts().precision, Counts().recall, Counts().f1, Counts().average_precision))
    assert (Counts(fn=3).f1, Counts(fp=3).f1) == (0.0, 0.0)
    assert math.isnan(Counts(fn=3).precision)


def test_areas_of_matched_cells_by_hand() -> None:
    truth = row_of_squares(3)  # of 100 pixels each
    predicted = np.where((truth == 2) & (np.arange(truth.shape[0])[:, None] >= 10), 0, truth)  # 80 pixels
    predicted[(truth == 3) & (np.arange(truth.shape[0])[:, None] >= 5)] = 0  # 30 pixels: no match
    found = matched_cells(find_overlaps(truth, predicted))
    assert (found.pairs, found.iou_sum) == (2, pytest.approx(1.8))
    assert found.area_ratio == pytest.approx(math.sqrt(1.0 * 0.8))
    larger = matched_cells(find_overlaps(predicted, truth))
    assert larger.area_ratio == pytest.approx(1 / found.area_ratio)
    assert (found + larger).area_ratio == pytest.approx(1.0)
    assert math.isnan(matched_cells(find_overlaps(truth, np.zeros_like(truth))).area_ratio)


@given(label_maps(), label_maps())
def test_matched_cells_are_those_that_count(truth: I32, predicted: I32) -> None:
    overlaps = find_overlaps(truth, predicted)
    found = matched_cells(overlaps)
    assert found.pairs == count_matches(overlaps, 0.5).tp
    assert 0.5 * found.pairs <= found.iou_sum <= found.pairs
    assert abs(found.log_area_ratio_sum) <= found.pairs * math.log(2) + 1e-9


@pytest.mark.parametrize(
    ("truth", "predicted", "message"),
    [
        (np.zeros((3, 4), int), np.zeros((4, 3), int), "expected the same size"),
        (np.zeros((3, 4)), np.zeros((3, 4), int), "the true labels have shape"),
        (np.zeros((3, 4), int), np.zeros((3, 4, 1), int), "the predicted labels have shape"),
        (np.zeros((3, 4), int), np.full((3, 4), -1), "contain -1"),
    ],
)
def test_wrong_labels_are_named(truth: I32, predicted: I32, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_overlaps(truth, predicted)


@pytest.mark.parametrize("iou_threshold", [0.0, -0.5, 1.01, math.nan])
def test_thresholds_outside_the_range(iou_threshold: float) -> None:
    with pytest.raises(ConfigError, match="IoU threshold"):
        match(find_overlaps(row_of_squares(1), row_of_squares(1)), iou_threshold)
