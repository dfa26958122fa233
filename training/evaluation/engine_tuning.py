"""Thresholds of an engine directory, chosen on images with true labels by the same F1 that is reported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime import SegmentConfig, Segmenter
from runtime.errors import InputError
from runtime.results import EncodedImage
from training.evaluation.dataset import Sample, read_sample
from training.evaluation.matching import Counts, count_matches, find_overlaps
from training.evaluation.metrics import PRIMARY_IOU

I32 = NDArray[np.int32]

SEARCH: Mapping[str, tuple[Any, ...]] = {
    "box_threshold": (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5),
    "nms_iou": (0.4, 0.6, 0.8, 1.0),
    "iou_threshold": (0.0, 0.4, 0.5, 0.6, 0.7),
    "mask_threshold": (0.3, 0.4, 0.5, 0.6),
    "min_area_px": (10, 25, 40),
}
"""Values of each setting, searched one setting after the other."""


@dataclass(frozen=True, slots=True)
class TunedSettings:
    """The settings that did best."""

    config: SegmentConfig
    f1: Mapping[str, float]
    """F1 of each subset with them."""
    tried: int
    """Sets of settings that were scored."""


@dataclass(frozen=True, slots=True)
class _Encoded:
    image: EncodedImage
    truth: I32
    subset: str


def tune_settings(
    segmenter: Segmenter,
    samples: Sequence[Sample],
    start: SegmentConfig,
    *,
    search: Mapping[str, tuple[Any, ...]] = SEARCH,
    iou: float = PRIMARY_IOU,
    rounds: int = 2,
    on_image: Callable[[Sample], None] = lambda sample: None,
) -> TunedSettings:
    """Choose settings by coordinate ascent on the mean F1 over the subsets.

    Every image is encoded once. Ties go to the value that was there, then to the first.

    Args:
        segmenter: the engines.
        samples: images that were not trained on.
        start: where the search begins.
        search: values to try, by setting.
        iou: threshold of the F1.
        rounds: times that all settings are gone through.
        on_image: called after each image is encoded.

    Raises:
        InputError: no samples, or one that cannot be read.
    """
    if not samples:
        raise InputError("no images to choose settings on came; expected at least one.")
    encoded = []
    for sample in samples:
        image, truth = read_sample(sample)
        encoded.append(_Encoded(segmenter.encode(image, config=start), truth, sample.subset))
        on_image(sample)
    known: dict[SegmentConfig, dict[str, float]] = {}

    def quality(config: SegmentConfig) -> float:
        if config not in known:
            known[config] = _f1_by_subset(segmenter, encoded, config, iou)
        return float(np.mean(list(known[config].values())))

    best = start
    for _ in range(rounds):
        before = best
        for name, values in search.items():
            best = max((best, *(replace(best, **{name: value}) for value in values)), key=quality)
        if best == before:
            break
    quality(best)
    return TunedSettings(best, known[best], len(known))


def _f1_by_subset(
    segmenter: Segmenter, encoded: Sequence[_Encoded], config: SegmentConfig, iou: float
) -> dict[str, float]:
    totals: dict[str, Counts] = {}
    for item in encoded:
        found = segmenter.detect(item.image, config=config)
        result = segmenter.decode(item.image, found.boxes, scores=found.scores, config=config)
        counts = count_matches(find_overlaps(item.truth, result.labels), iou)
        totals[item.subset] = totals.get(item.subset, Counts()) + counts
    return {subset: float(np.nan_to_num(counts.f1)) for subset, counts in sorted(totals.items())}
