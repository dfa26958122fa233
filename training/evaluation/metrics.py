"""Measures of one image and of many: F1 against IoU, Cellpose's average precision, mean segmentation accuracy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from training.evaluation.matching import Counts, Overlaps, count_matches, find_overlaps

PRIMARY_IOU = 0.6
"""IoU of the paper's F1 (Appendix C.2)."""

DEFAULT_IOUS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""IoUs of the COCO metrics, which include the paper's 0.6."""


def iou_key(iou: float) -> str:
    """Format an IoU threshold as a key, such as ``0.6``."""
    return f"{iou:g}"


def shown_iou(ious: Sequence[float]) -> float:
    """Return the IoU that tables show: the paper's 0.6 if it was evaluated, else the first one."""
    return PRIMARY_IOU if iou_key(PRIMARY_IOU) in map(iou_key, ious) else ious[0]


def counts_at(overlaps: Overlaps, ious: Sequence[float]) -> dict[str, Counts]:
    """Return the counts of one image at several IoUs, by ``iou_key``."""
    return {iou_key(iou): count_matches(overlaps, iou) for iou in ious}


def f1_at(truth: ArrayLike, predicted: ArrayLike, ious: Sequence[float] = DEFAULT_IOUS) -> dict[str, float]:
    """Return the F1 of a pair of label maps at several IoUs; NaN if both are empty.

    Args:
        truth: (H, W) integer labels, 0 = background.
        predicted: (H, W) integer labels.
        ious: thresholds in (0, 1].

    Raises:
        InputError: the label maps cannot be compared, as in ``matching.find_overlaps``.
    """
    return {key: counts.f1 for key, counts in counts_at(find_overlaps(truth, predicted), ious).items()}


def mean_average_precision(counts: Iterable[Counts]) -> float:
    """Average Cellpose's average precision over images, as Cellpose reports it.

    Images with neither true nor predicted cells have no value and are left out. The result is NaN if no image has one.

    Source: Stringer et al. 2021 (Cellpose); ``cellpose.metrics.average_precision`` gives NaN for such images.
    """
    values = [c.average_precision for c in counts]
    defined = [v for v in values if not math.isnan(v)]
    return float(np.mean(defined)) if defined else math.nan


def mean_segmentation_accuracy(average_precision: Mapping[str, float]) -> float:
    """Average Cellpose's average precision over IoU 0.5, 0.55 .. 0.95: "mSA" in micro-sam, "mAP" in other tools.

    Images with neither true nor predicted cells have no average precision and are left out.

    Args:
        average_precision: from ``mean_average_precision``, by ``iou_key``.

    Returns:
        The mean; NaN if one of the IoUs was not evaluated.

    Source: Caicedo et al. 2019 (Nature Methods 16:1247), score of the Data Science Bowl; Archit et al. 2025
    (micro-sam, Nature Methods 22:579).
    """
    return float(np.mean([average_precision.get(iou_key(iou), math.nan) for iou in DEFAULT_IOUS]))
