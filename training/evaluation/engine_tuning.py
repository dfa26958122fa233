"""Choice of an engine directory's thresholds on images with true labels, by the F1 that reports show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from runtime import EncodedViews, SegmentConfig, Segmenter
from runtime.errors import InputError
from runtime.types import I32
from training.evaluation.dataset import Sample, read_sample
from training.evaluation.matching import Counts, count_matches, find_overlaps
from training.evaluation.metrics import PRIMARY_IOU

SEARCH: Mapping[str, tuple[Any, ...]] = {
    "box_threshold_mode": ("fixed", "adaptive"),
    "box_threshold": (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5),
    "nms_iou": (0.4, 0.6, 0.8, 1.0),
    "iou_threshold": (0.0, 0.4, 0.5, 0.6, 0.7),
    "mask_threshold": (0.3, 0.4, 0.5, 0.6),
    "min_area_px": (10, 25, 40),
}
"""Values of each setting; the search goes through one setting after the other."""

VIEWS: tuple[Mapping[str, Any], ...] = (
    {"view_diameter_px": None, "whole_view_diameter_px": 0.0},
    *(
        {"view_diameter_px": wanted, "whole_view_diameter_px": share * wanted}
        for wanted in (26.0, 32.0, 38.0, 44.0, 52.0)
        for share in (0.65, 0.85)
    ),
)
"""Ways to show an image. The values of a way are tried together, because thresholds depend on the view."""


@dataclass(frozen=True, slots=True)
class TunedSettings:
    """Settings with the best mean F1."""

    config: SegmentConfig
    f1: Mapping[str, float]
    """F1 of each subset with these settings."""
    tried: int
    """Number of sets of settings that were scored."""


@dataclass(frozen=True, slots=True)
class _Encoded:
    views: EncodedViews
    truth: I32
    subset: str


def tune_settings(
    segmenter: Segmenter,
    samples: Sequence[Sample],
    start: SegmentConfig,
    *,
    search: Mapping[str, tuple[Any, ...]] = SEARCH,
    views: Sequence[Mapping[str, Any]] = (),
    iou: float = PRIMARY_IOU,
    rounds: int = 2,
    on_image: Callable[[Sample], None] = lambda sample: None,
) -> TunedSettings:
    """Choose settings by coordinate ascent on the mean F1 over the subsets.

    The search chooses thresholds, then the way to show an image, then thresholds again for that way. Every image is
    encoded once per way. Ties go to the current value, then to the first.

    Args:
        segmenter: the engines.
        samples: images that were not used in training.
        start: settings from which the search starts.
        search: values to try, by setting.
        views: ways to show an image: ``VIEWS``, or none to keep that of ``start``.
        iou: IoU threshold of the F1.
        rounds: number of passes through all settings.
        on_image: called after each image is encoded, ``1 + len(views)`` times in all.

    Raises:
        InputError: there are no samples, or one cannot be read.
    """
    if not samples:
        raise InputError("got no images to choose settings on; expected at least one.", kind="missing")
    known: dict[SegmentConfig, dict[str, float]] = {}

    def mean_f1(config: SegmentConfig, encoded: Sequence[_Encoded]) -> float:
        if config not in known:
            known[config] = _f1_by_subset(segmenter, encoded, config, iou)
        return float(np.mean(list(known[config].values())))

    def choose_thresholds(best: SegmentConfig, encoded: Sequence[_Encoded]) -> SegmentConfig:
        for _ in range(rounds):
            before = best
            for name, values in search.items():
                candidates = (best, *(replace(best, **{name: value}) for value in values))
                best = max(candidates, key=lambda config: mean_f1(config, encoded))
            if best == before:
                break
        mean_f1(best, encoded)
        return best

    shown = _encode(segmenter, samples, start, on_image)
    best = choose_thresholds(start, shown)
    chosen = best
    for way in views:
        config = replace(best, **way)
        encoded = _encode(segmenter, samples, config, on_image)
        if mean_f1(config, encoded) > mean_f1(chosen, shown):
            chosen, shown = config, encoded
    if chosen != best:
        chosen = choose_thresholds(chosen, shown)
    return TunedSettings(chosen, known[chosen], len(known))


def _encode(
    segmenter: Segmenter, samples: Sequence[Sample], config: SegmentConfig, on_image: Callable[[Sample], None]
) -> list[_Encoded]:
    encoded = []
    for sample in samples:
        image, truth = read_sample(sample)
        encoded.append(_Encoded(segmenter.encode(image, config=config), truth, sample.subset))
        on_image(sample)
    return encoded


def _f1_by_subset(
    segmenter: Segmenter, encoded: Sequence[_Encoded], config: SegmentConfig, iou: float
) -> dict[str, float]:
    totals: dict[str, Counts] = {}
    for item in encoded:
        found = segmenter.detect(item.views, config=config)
        result = segmenter.decode(item.views, found, config=config)
        counts = count_matches(find_overlaps(item.truth, result.labels), iou)
        totals[item.subset] = totals.get(item.subset, Counts()) + counts
    return {subset: float(np.nan_to_num(counts.f1)) for subset, counts in sorted(totals.items())}
