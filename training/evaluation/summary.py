"""Figures per subset, dataset and group from the scores of images: counts are summed, then divided."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from training.evaluation.coco_metrics import CocoAp
from training.evaluation.dataset import NO_CELLS, Sample
from training.evaluation.matching import Counts, MatchedCells
from training.evaluation.metrics import iou_key, mean_average_precision, mean_segmentation_accuracy

Level = Literal["subset", "dataset", "group", "all"]
LEVELS: tuple[Level, ...] = ("subset", "dataset", "group", "all")

HELD_OUT = "Zero-shot"
"""Group of the datasets that the model was not trained on; they count neither in other groups nor in ``all``."""

APART = frozenset({HELD_OUT, NO_CELLS})
"""Groups that do not count in ``all``."""

RowName = tuple[Level, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageScore:
    """Scores of one image. A failed image has an error and no figures; it never counts as an empty result."""

    id: str
    dataset: str
    subset: str
    group: str
    size_hw: tuple[int, int] = (0, 0)
    truth: int = 0
    """Number of true cells."""
    predicted: int = 0
    """Number of predicted cells."""
    tp: Mapping[str, int] = field(default_factory=dict)
    """Number of matched cells by IoU (``iou_key``)."""
    matched: MatchedCells | None = None
    """None in older records, which lack these sums."""
    seconds: float | None = None
    """Wall time of the segmentation alone, seconds; None if the label map was made elsewhere."""
    prompt_iou_sum: float | None = None
    """Sum over true cells of the IoU with the mask of their prompt; None unless prompts were made from true cells."""
    error: str | None = None

    def counts(self, iou: float) -> Counts:
        """Return the counts at one of the evaluated IoUs."""
        tp = self.tp[iou_key(iou)]
        return Counts(tp, self.predicted - tp, self.truth - tp)

    @property
    def rows(self) -> list[RowName]:
        """The rows of the tables that this image counts in."""
        rows: list[RowName] = [("subset", self.subset), ("dataset", self.dataset), ("group", self.group)]
        return rows if self.group in APART else [*rows, ("all", "all")]


def failed_score(sample: Sample, error: Exception) -> ImageScore:
    """Return the record of an image that could not be evaluated; folders are removed from the message."""
    text = str(error) or type(error).__name__
    for folder in {sample.image_path.parent, sample.labels_path.parent}:
        text = text.replace(f"{folder}{os.sep}", "")
    return ImageScore(id=sample.id, dataset=sample.dataset, subset=sample.subset, group=sample.group, error=text)


@dataclass(frozen=True, kw_only=True, slots=True)
class SummaryRow:
    """Figures of one subset, dataset or group."""

    level: Level
    name: str
    images: int
    """Number of evaluated images, without failed ones."""
    failed: int
    truth: int
    predicted: int
    counts: Mapping[str, Counts]
    """Sums over the images, by IoU (``iou_key``)."""
    cellpose_ap: Mapping[str, float]
    """Cellpose's average precision, mean over images, by IoU."""
    matched: MatchedCells | None
    """Sums over the images; None if an image lacks them."""
    count_error: float
    """Sum over images of the difference between predicted and true cells, as a fraction of all true cells; NaN if there
    are no true cells."""
    without_cells: int
    """Number of images without true cells."""
    false_cells: int
    """Number of predicted cells in images without true cells."""
    coco: CocoAp | None
    """None if the masks are not available, as in figures recomputed from a report."""
    seconds_median: float
    mean_prompt_iou: float
    """Mean over true cells; NaN unless the prompts were made from them."""

    @property
    def mean_segmentation_accuracy(self) -> float:
        """Mean segmentation accuracy (``metrics.mean_segmentation_accuracy``)."""
        return mean_segmentation_accuracy(self.cellpose_ap)

    @property
    def panoptic_quality(self) -> float:
        """PQ at IoU 0.5: sum of matched IoUs / (TP + FP / 2 + FN / 2), all summed over images; NaN if unknown.

        Source: Kirillov et al. 2019 (arXiv:1801.00868); here, pairs with an IoU of exactly 0.5 match too.
        """
        cells = self.truth + self.predicted
        return 2 * self.matched.iou_sum / cells if self.matched is not None and cells else math.nan

    @property
    def area_ratio(self) -> float:
        """Area ratio (``MatchedCells.area_ratio``); NaN if unknown."""
        return math.nan if self.matched is None else self.matched.area_ratio

    @property
    def false_cells_per_image(self) -> float:
        """Mean number of predicted cells in images without true cells; NaN if there are no such images."""
        return self.false_cells / self.without_cells if self.without_cells else math.nan


def summarize(
    scores: Sequence[ImageScore], ious: Sequence[float], coco: Mapping[RowName, CocoAp] | None = None
) -> list[SummaryRow]:
    """Return one row per subset, dataset and group that occurs, and one for all images.

    Args:
        scores: scores of all images.
        ious: IoU thresholds of the scores.
        coco: average precision by row, if known.
    """
    members: dict[RowName, list[ImageScore]] = {}
    for score in scores:
        for row in score.rows:
            members.setdefault(row, []).append(score)
    ordered = sorted(members, key=lambda row: (LEVELS.index(row[0]), row[1]))
    return [_row(row, members[row], ious, (coco or {}).get(row)) for row in ordered]


def _row(name: RowName, scores: Sequence[ImageScore], ious: Sequence[float], coco: CocoAp | None) -> SummaryRow:
    done = [s for s in scores if s.error is None]
    truth = sum(s.truth for s in done)
    times = [s.seconds for s in done if s.seconds is not None]
    prompt_sums = [s.prompt_iou_sum for s in done if s.prompt_iou_sum is not None]
    matched = [s.matched for s in done if s.matched is not None]
    empty = [s.predicted for s in done if not s.truth]
    return SummaryRow(
        level=name[0],
        name=name[1],
        images=len(done),
        failed=len(scores) - len(done),
        truth=truth,
        predicted=sum(s.predicted for s in done),
        counts={iou_key(iou): sum((s.counts(iou) for s in done), Counts()) for iou in ious},
        cellpose_ap={iou_key(iou): mean_average_precision(s.counts(iou) for s in done) for iou in ious},
        matched=sum(matched, MatchedCells()) if len(matched) == len(done) else None,
        count_error=sum(abs(s.predicted - s.truth) for s in done) / truth if truth else math.nan,
        without_cells=len(empty),
        false_cells=sum(empty),
        coco=coco,
        seconds_median=statistics.median(times) if times else math.nan,
        mean_prompt_iou=sum(prompt_sums) / truth if prompt_sums and truth else math.nan,
    )
