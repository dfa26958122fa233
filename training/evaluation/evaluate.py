"""Run a segmenter over images with true labels and score every one of them."""

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
"""What ends one image and not the run; RuntimeError is what PyTorch raises."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is scored: a label map and, for COCO, masks with scores."""

    labels: NDArray[np.integer]
    """(H, W), 0 = background."""
    masks: tuple[MaskCrop, ...]
    """N masks, before overlaps are settled where the method tells them apart."""
    scores: F32
    """(N), finite; higher is surer."""


@dataclass(frozen=True, slots=True)
class Scored:
    """One image: its figures, and its masks for COCO (None when it failed)."""

    score: ImageScore
    coco: CocoImage | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All images and the figures of every subset, dataset and group."""

    ious: tuple[float, ...]
    images: tuple[ImageScore, ...]
    rows: tuple[SummaryRow, ...]

    @property
    def failed(self) -> tuple[ImageScore, ...]:
        """Images that could not be evaluated."""
        return tuple(image for image in self.images if image.error is not None)


def from_segmentation(result: Segmentation) -> Prediction:
    """What ``Segmenter`` returned, with the model's own box scores; hidden instances count for COCO AP."""
    every = Instances.joined([result, result.hidden])
    return Prediction(result.labels, every.masks, every.scores)


def from_labels(labels: NDArray[np.integer]) -> Prediction:
    """A label map without scores: every cell gets 1, as the paper gives Cellpose's cells (Appendix C.2)."""
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
        Figures per image and per row. An image that cannot be read, segmented or scored keeps its error there and
        enters no figure.

    Raises:
        ConfigError: an IoU outside (0, 1].
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
    """The images of ``evaluate`` alone, for ``collect``: parts may be segmented in different ways.

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
        InputError: labels of another size or kind, or scores that do not fit the masks.
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
    """Add the figures of all images up, COCO included."""
    members: dict[RowName, list[CocoImage]] = {}
    for item in scored:
        if item.coco is not None:
            for row in item.score.rows:
                members.setdefault(row, []).append(item.coco)
    # A dataset of one modality is one subset: its curve is computed once.
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
    """Move the datasets that the model has not seen to a group of their own, outside the overall figures."""
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
