"""Run a segmenter on images with true labels and score each image."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from runtime.errors import SegmenterError
from runtime.ops.masks import MaskCrop, label_crops
from runtime.results import Instances, Segmentation
from runtime.types import F32, I32
from training.evaluation.coco_metrics import CocoAp, CocoImage, coco_ap, encode_image
from training.evaluation.dataset import Sample, read_sample
from training.evaluation.matching import check_iou, find_overlaps, matched_cells
from training.evaluation.metrics import DEFAULT_IOUS, counts_at
from training.evaluation.summary import HELD_OUT, ImageScore, RowName, SummaryRow, failed_score, summarize

PER_IMAGE_ERRORS = (SegmenterError, OSError, MemoryError, RuntimeError)
"""Errors that fail one image but not the run; PyTorch raises RuntimeError."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """Input of scoring: a label map and, for COCO, masks with scores."""

    labels: NDArray[np.integer]
    """(H, W), 0 = background."""
    masks: tuple[MaskCrop, ...]
    """N masks, before overlaps are resolved if the method has such masks."""
    scores: F32
    """(N), finite; higher means surer."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Figures of one image, and its masks for COCO (None if it failed)."""

    score: ImageScore
    coco: CocoImage | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores of all images, and the figures of every subset, dataset and group."""

    ious: tuple[float, ...]
    images: tuple[ImageScore, ...]
    rows: tuple[SummaryRow, ...]

    @property
    def failed(self) -> tuple[ImageScore, ...]:
        """Images that could not be evaluated."""
        return tuple(image for image in self.images if image.error is not None)


def from_segmentation(result: Segmentation) -> Prediction:
    """Convert a result of ``Segmenter``, with the model's box scores; hidden instances count for COCO AP."""
    every = Instances.joined([result, result.hidden])
    return Prediction(result.labels, every.masks, every.scores)


def from_labels(labels: NDArray[np.integer]) -> Prediction:
    """Convert a label map without scores: every cell gets 1, as Cellpose's cells in the paper (Appendix C.2)."""
    crops = label_crops(labels)
    return Prediction(labels, crops, np.ones(len(crops), np.float32))


def evaluate(
    segment: Callable[[NDArray[np.generic]], Prediction],
    samples: Iterable[Sample],
    *,
    ious: Sequence[float] = DEFAULT_IOUS,
    on_image: Callable[[ImageScore], None] = lambda score: None,
) -> Evaluation:
    """Segment and score every sample.

    Args:
        segment: takes an image as read (see ``read_sample``).
        samples: from ``find_samples``.
        ious: thresholds in (0, 1].
        on_image: called after each image, for progress.

    Returns:
        Figures per image and per row. An image that cannot be read, segmented or scored is recorded with its error and
        excluded from the figures.

    Raises:
        ConfigError: an IoU is outside (0, 1].
    """
    return collect(score_samples(segment, samples, ious=ious, on_image=on_image), ious)


def score_samples(
    segment: Callable[[NDArray[np.generic]], Prediction],
    samples: Iterable[Sample],
    *,
    ious: Sequence[float] = DEFAULT_IOUS,
    timed: bool = True,
    on_image: Callable[[ImageScore], None] = lambda score: None,
) -> list[Scored]:
    """Score images as ``evaluate`` does, for ``collect``, so that parts can be segmented in different ways.

    ``timed=False`` records no seconds, for label maps that are only read.
    """
    for iou in ious:
        check_iou(iou)
    scored = []
    for sample in samples:
        scored.append(_score_one(segment, sample, ious, timed=timed))
        on_image(scored[-1].score)
    return scored


def score_image(
    sample: Sample, truth: I32, prediction: Prediction, ious: Sequence[float], *, seconds: float | None = None
) -> Scored:
    """Compare one prediction with its true labels.

    Raises:
        InputError: the labels have another size or kind, or the scores do not fit the masks.
    """
    overlaps = find_overlaps(truth, prediction.labels)
    score = ImageScore(
        id=sample.id,
        dataset=sample.dataset,
        subset=sample.subset,
        group=sample.group,
        size_hw=(int(truth.shape[0]), int(truth.shape[1])),
        truth=len(overlaps.truth_ids),
        predicted=len(overlaps.predicted_ids),
        tp={key: counts.tp for key, counts in counts_at(overlaps, ious).items()},
        matched=matched_cells(overlaps),
        seconds=seconds,
    )
    return Scored(score, encode_image(truth, prediction.masks, prediction.scores))


def collect(scored: Sequence[Scored], ious: Sequence[float]) -> Evaluation:
    """Sum the figures of all images, and compute COCO AP."""
    members: dict[RowName, list[CocoImage]] = {}
    for item in scored:
        if item.coco is not None:
            for row in item.score.rows:
                members.setdefault(row, []).append(item.coco)
    # Rows with the same images, such as a dataset of one modality, share one curve.
    known: dict[tuple[int, ...], CocoAp] = {}
    coco = {}
    for row, images in members.items():
        identity = tuple(id(image) for image in images)
        if identity not in known:
            known[identity] = coco_ap(images)
        coco[row] = known[identity]
    scores = tuple(item.score for item in scored)
    return Evaluation(tuple(ious), scores, tuple(summarize(scores, ious, coco)))


def hold_out(samples: Iterable[Sample], datasets: Iterable[str]) -> list[Sample]:
    """Move datasets that the model has not seen to a separate group, outside the overall figures."""
    names = set(datasets)
    return [replace(s, group=HELD_OUT) if names & {s.dataset, s.subset} else s for s in samples]


def _score_one(
    segment: Callable[[NDArray[np.generic]], Prediction], sample: Sample, ious: Sequence[float], *, timed: bool
) -> Scored:
    try:
        image, truth = read_sample(sample)
        start = time.perf_counter()
        prediction = segment(image)
        seconds = time.perf_counter() - start if timed else None
        return score_image(sample, truth, prediction, ious, seconds=seconds)
    except PER_IMAGE_ERRORS as error:
        return Scored(failed_score(sample, error), None)
