"""From scores of single images to figures per subset, dataset and group: counts are summed, then divided."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from training.evaluation.coco_metrics import CocoAp
from training.evaluation.dataset import Sample
from training.evaluation.matching import Counts
from training.evaluation.metrics import iou_key, mean_average_precision

Level = Literal["subset", "dataset", "group", "all"]
LEVELS: tuple[Level, ...] = ("subset", "dataset", "group", "all")

HELD_OUT = "Zero-shot"
"""Group of the datasets that the model has not been trained on; they count in no other group, nor in ``all``."""

RowName = tuple[Level, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageScore:
    """How one image came out. A failed image has an error and no figures; it is never an empty result."""

    id: str
    dataset: str
    subset: str
    group: str
    size_hw: tuple[int, int] = (0, 0)
    truth: int = 0
    """True cells."""
    predicted: int = 0
    """Predicted cells."""
    tp: Mapping[str, int] = field(default_factory=dict)
    """Matched cells by IoU (``iou_key``)."""
    seconds: float | None = None
    """Wall time of the segmentation alone."""
    prompt_iou_sum: float | None = None
    """Prompts made from true cells only: the sum over them of the IoU of each cell with its own prompt's mask."""
    error: str | None = None

    def counts(self, iou: float) -> Counts:
        """Counts at one of the evaluated IoUs."""
        tp = self.tp[iou_key(iou)]
        return Counts(tp, self.predicted - tp, self.truth - tp)

    @property
    def rows(self) -> list[RowName]:
        """The rows of the tables that this image counts in."""
        rows: list[RowName] = [("subset", self.subset), ("dataset", self.dataset), ("group", self.group)]
        return rows if self.group == HELD_OUT else [*rows, ("all", "all")]


def failed_score(sample: Sample, error: Exception) -> ImageScore:
    """The record of an image that could not be evaluated; folders are taken out of the message."""
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
    """Images evaluated; those that failed are not among them."""
    failed: int
    truth: int
    predicted: int
    counts: Mapping[str, Counts]
    """Summed over the images, by IoU (``iou_key``)."""
    cellpose_ap: Mapping[str, float]
    """Cellpose's average precision, mean over images, by IoU."""
    coco: CocoAp | None
    """None where the masks are not at hand: figures recomputed from a report."""
    seconds_median: float
    mean_prompt_iou: float
    """Mean over true cells; NaN unless the prompts were made from them."""


def summarize(
    scores: Sequence[ImageScore], ious: Sequence[float], coco: Mapping[RowName, CocoAp] | None = None
) -> list[SummaryRow]:
    """One row per subset, dataset and group that occurs, and one for all.

    Args:
        scores: of all images.
        ious: thresholds that they were scored at.
        coco: average precision of rows where it is known.
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
    return SummaryRow(
        level=name[0],
        name=name[1],
        images=len(done),
        failed=len(scores) - len(done),
        truth=truth,
        predicted=sum(s.predicted for s in done),
        counts={iou_key(iou): sum((s.counts(iou) for s in done), Counts()) for iou in ious},
        cellpose_ap={iou_key(iou): mean_average_precision(s.counts(iou) for s in done) for iou in ious},
        coco=coco,
        seconds_median=statistics.median(times) if times else math.nan,
        mean_prompt_iou=sum(prompt_sums) / truth if prompt_sums and truth else math.nan,
    )
