"""Matching of predicted and true cells: IoU of all overlapping pairs, and one-to-one matching. Pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from runtime.errors import ConfigError, InputError
from runtime.types import F64, I64


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of true positives, false positives and false negatives; sums over images come before ratios."""

    tp: int = 0
    """Predicted cells that match a true cell."""
    fp: int = 0
    """Predicted cells without a match."""
    fn: int = 0
    """True cells without a match."""

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.tp + other.tp, self.fp + other.fp, self.fn + other.fn)

    @property
    def precision(self) -> float:
        """tp / (tp + fp); NaN if nothing was predicted."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """tp / (tp + fn); NaN if there are no true cells."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        """2 tp / (2 tp + fp + fn), the harmonic mean of both; NaN if there are no cells."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def average_precision(self) -> float:
        """tp / (tp + fp + fn), which Cellpose calls average precision; NaN if there are no cells.

        Source: Stringer et al. 2021 (Cellpose), Methods. COCO's average precision is the area under a curve instead.
        """
        return _ratio(self.tp, self.tp + self.fp + self.fn)


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchedCells:
    """Sums over pairs of a true and a predicted cell, matched at IoU 0.5, which measure the quality of outlines."""

    pairs: int = 0
    iou_sum: float = 0.0
    """Sum of the IoUs of the pairs."""
    log_area_ratio_sum: float = 0.0
    """Sum of the natural logarithms of predicted over true area."""

    def __add__(self, other: MatchedCells) -> MatchedCells:
        return MatchedCells(
            pairs=self.pairs + other.pairs,
            iou_sum=self.iou_sum + other.iou_sum,
            log_area_ratio_sum=self.log_area_ratio_sum + other.log_area_ratio_sum,
        )

    @property
    def area_ratio(self) -> float:
        """Predicted over true area, geometric mean over the pairs; below 1, outlines are too small. NaN if none."""
        return math.exp(self.log_area_ratio_sum / self.pairs) if self.pairs else math.nan


@dataclass(frozen=True, slots=True)
class Overlaps:
    """All M pairs of a true and a predicted cell that share a pixel, of T true and P predicted cells."""

    truth_ids: I64
    """(T) labels in the true map, ascending."""
    predicted_ids: I64
    """(P) labels in the predicted map, ascending."""
    truth_index: I64
    """(M) index of each pair's true cell in ``truth_ids``."""
    predicted_index: I64
    """(M) index of each pair's predicted cell in ``predicted_ids``."""
    iou: F64
    """(M) intersection over union, in (0, 1]."""
    truth_area: I64
    """(T) area of each true cell, pixels."""
    predicted_area: I64
    """(P) area of each predicted cell, pixels."""


def find_overlaps(truth: ArrayLike, predicted: ArrayLike) -> Overlaps:
    """Compute the IoU of every pair of cells that share a pixel, from the joint histogram of two label maps.

    Args:
        truth: (H, W) integer labels, 0 = background. Labels need not be dense.
        predicted: (H, W) integer labels, 0 = background.

    Raises:
        InputError: the maps are not integer or differ in size, or a label is negative.
    """
    truth, predicted = check_labels(truth, "true"), check_labels(predicted, "predicted")
    if truth.shape != predicted.shape:
        raise InputError(
            f"the predicted labels have shape {predicted.shape}, the true ones {truth.shape}; expected the same "
            "size. Save the predicted labels at the size of the image.",
            kind="wrong_shape",
        )
    truth_ids, truth_dense, truth_area = _dense(truth)
    predicted_ids, predicted_dense, predicted_area = _dense(predicted)
    both = (truth_dense > 0) & (predicted_dense > 0)
    width = len(predicted_ids) + 1
    pair, shared = np.unique(truth_dense[both] * width + predicted_dense[both], return_counts=True)
    truth_index, predicted_index = pair // width - 1, pair % width - 1
    union = truth_area[truth_index] + predicted_area[predicted_index] - shared
    iou = shared / union
    return Overlaps(truth_ids, predicted_ids, truth_index, predicted_index, iou, truth_area, predicted_area)


def match(overlaps: Overlaps, iou_threshold: float) -> I64:
    """Match true and predicted cells one to one: the most pairs, and among these the largest sum of IoUs.

    A pair counts if its IoU is at least ``iou_threshold`` (as in COCO and Cellpose). Above 0.5, no cell has two
    candidates, because cells of one map do not overlap. At or below 0.5, an assignment problem is solved for the cells
    with several candidates.

    Args:
        overlaps: from ``find_overlaps``.
        iou_threshold: in (0, 1].

    Returns:
        (K, 2) int64: indices of the true and the predicted cell of each matched pair, by ascending true cell.

    Raises:
        ConfigError: the threshold is outside (0, 1].
    """
    check_iou(iou_threshold)
    chosen = overlaps.iou >= iou_threshold
    truth, predicted, iou = overlaps.truth_index[chosen], overlaps.predicted_index[chosen], overlaps.iou[chosen]
    alone = (np.bincount(truth, minlength=len(overlaps.truth_ids))[truth] == 1) & (
        np.bincount(predicted, minlength=len(overlaps.predicted_ids))[predicted] == 1
    )
    pairs = np.stack((truth[alone], predicted[alone]), axis=1)
    if not alone.all():
        pairs = np.concatenate((pairs, _assign(truth[~alone], predicted[~alone], iou[~alone])))
    ordered: I64 = pairs[np.argsort(pairs[:, 0])]
    return ordered


def count_matches(overlaps: Overlaps, iou_threshold: float) -> Counts:
    """Count true positives, false positives and false negatives of one image at one IoU; see ``match``."""
    tp = len(match(overlaps, iou_threshold))
    return Counts(tp, len(overlaps.predicted_ids) - tp, len(overlaps.truth_ids) - tp)


def matched_cells(overlaps: Overlaps) -> MatchedCells:
    """Sum IoUs and area ratios of the pairs of one image that match at IoU 0.5; see ``match``."""
    truth, predicted = match(overlaps, 0.5).T
    place = {pair: m for m, pair in enumerate(zip(overlaps.truth_index, overlaps.predicted_index, strict=True))}
    chosen = [place[pair] for pair in zip(truth, predicted, strict=True)]
    ratios = overlaps.predicted_area[predicted] / overlaps.truth_area[truth]
    return MatchedCells(
        pairs=len(truth),
        iou_sum=float(overlaps.iou[chosen].sum()),
        log_area_ratio_sum=float(np.log(ratios).sum()),
    )


def check_labels(labels: ArrayLike, which: str) -> NDArray[np.integer]:
    """Return a label map as an (H, W) integer array.

    Raises:
        InputError: the map does not have two axes and an integer dtype, or a label is negative.
    """
    array = np.asarray(labels)
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise InputError(
            f"the {which} labels have shape {array.shape} and dtype {array.dtype}; expected an (H, W) integer map "
            "with 0 = background.",
            kind="wrong_shape",
        )
    if array.size and array.min() < 0:
        raise InputError(
            f"the {which} labels contain {array.min()}; expected 0 = background and positive cell numbers.",
            kind="out_of_range",
        )
    return array


def check_iou(iou_threshold: float) -> None:
    """Raise ConfigError unless the threshold is in (0, 1]."""
    if not 0.0 < iou_threshold <= 1.0:
        raise ConfigError(f"IoU threshold is {iou_threshold}; expected a value in (0, 1].", field="iou_threshold")


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _dense(labels: NDArray[np.integer]) -> tuple[I64, I64, I64]:
    """Return the labels that occur, the map renumbered 1..n in their order, and the area of each in pixels."""
    highest = int(labels.max(initial=0))
    if highest > max(labels.size, 1 << 16):  # a table of all numbers up to the highest would be larger than the map
        values, inverse = np.unique(labels, return_inverse=True)
        dense = inverse.reshape(labels.shape) + (0 if values.size and values[0] == 0 else 1)
        ids = values[values > 0].astype(np.int64)
        return ids, dense, np.bincount(dense.ravel(), minlength=len(ids) + 1)[1:]
    area = np.bincount(labels.ravel(), minlength=1)
    ids = np.flatnonzero(area[1:]) + 1
    lookup = np.zeros(highest + 1, np.int64)
    lookup[ids] = np.arange(1, len(ids) + 1)
    return ids, lookup[labels], area[ids]


def _assign(truth: I64, predicted: I64, iou: F64) -> I64:
    """Return the best one-to-one choice among candidate pairs, (K, 2)."""
    rows, row = np.unique(truth, return_inverse=True)
    columns, column = np.unique(predicted, return_inverse=True)
    gain = np.zeros((len(rows), len(columns)))
    # The sum of all IoUs weighs less than one more pair.
    gain[row, column] = 1.0 + iou / (2 * min(gain.shape))
    chosen = linear_sum_assignment(gain, maximize=True)
    real = gain[chosen] > 0
    return np.stack((rows[chosen[0][real]], columns[chosen[1][real]]), axis=1)
