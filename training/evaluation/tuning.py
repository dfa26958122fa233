"""Choice of the classical segmenter's parameters on training images, by the F1 that reports show."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.types import I32
from training.evaluation.baseline import BaselineConfig, Channel, Threshold, segment_each
from training.evaluation.matching import Counts, count_matches, find_overlaps
from training.evaluation.metrics import PRIMARY_IOU


@dataclass(frozen=True, kw_only=True, slots=True)
class BaselineGrid:
    """Values that ``tune`` combines."""

    channel: tuple[Channel, ...] = ("intensity", "hematoxylin", "texture")
    dark: tuple[bool, ...] = (False, True)
    smoothing_px: tuple[float, ...] = (1.0, 3.0)
    threshold: tuple[Threshold, ...] = ("otsu", "local")
    threshold_scale: tuple[float, ...] = (0.5, 0.75, 1.0)
    local_window_px: tuple[float, ...] = (25.0,)
    seed_smoothing_px: tuple[float, ...] = (1.0, 3.0, 6.0)
    seed_distance_px: tuple[int, ...] = (4, 10, 24)
    min_area_px: tuple[int, ...] = (20, 100, 300)

    def configs(self, *, colour: bool) -> Iterator[BaselineConfig]:
        """Yield every combination that makes sense.

        Args:
            colour: whether the images are RGB, which stain separation needs.
        """
        names = self.__dataclass_fields__.keys()
        for values in itertools.product(*(getattr(self, name) for name in names)):
            config = BaselineConfig(**dict(zip(names, values, strict=True)))
            stain = config.channel == "hematoxylin"
            # Stain and texture are always bright at cells.
            inverted = config.dark and config.channel != "intensity"
            repeated = config.threshold == "otsu" and config.local_window_px != self.local_window_px[0]
            if not (inverted or repeated or (stain and not colour)):
                yield config


@dataclass(frozen=True, slots=True)
class Tuned:
    """Parameters with the best F1 on the training images."""

    config: BaselineConfig
    counts: Counts
    """Counts on the training images of the last round, at ``iou``."""
    iou: float
    images: int
    """Number of training images of the last round."""
    tried: int
    """Number of parameter sets of the first round."""


def tune(
    images: Sequence[NDArray[Any]],
    truths: Sequence[I32],
    grid: BaselineGrid | None = None,
    *,
    iou: float = PRIMARY_IOU,
    first_round: int = 6,
) -> Tuned:
    """Choose the parameters with the highest F1, counts summed over the training images.

    Successive halving: every set is tried on a few images, the best quarter on four times as many, and so on; the last
    few sets are tried on all images. Ties go to the first set in the grid.

    Args:
        images: training images in random order, so that the first few represent the rest.
        truths: their true labels.
        grid: values to try; by default ``BaselineGrid()``.
        iou: IoU threshold of the F1.
        first_round: number of images of the first round.

    Raises:
        InputError: there are no images, or not one label map per image.

    Source: Jamieson and Talwalkar 2016 (arXiv:1502.07943), successive halving.
    """
    if not images or len(images) != len(truths):
        raise InputError(
            f"got {len(images)} images and {len(truths)} label maps; expected one label map per image, at least one.",
            kind="mismatch",
        )
    configs = list((grid or BaselineGrid()).configs(colour=all(_is_colour(image) for image in images)))
    tried, used = len(configs), min(first_round, len(images))
    while True:
        counts = _counts(images[:used], truths[:used], configs, iou)
        order = sorted(range(len(configs)), key=lambda i: -np.nan_to_num(counts[i].f1))
        if used == len(images):
            best = order[0]
            return Tuned(configs[best], counts[best], iou, used, tried)
        keep = max(4, len(configs) // 4)
        configs = [configs[i] for i in sorted(order[:keep])]
        used = min(4 * used, len(images))


def _counts(
    images: Sequence[NDArray[Any]], truths: Sequence[I32], configs: Sequence[BaselineConfig], iou: float
) -> list[Counts]:
    """Return the counts of each parameter set, summed over the images."""
    totals = [Counts()] * len(configs)
    for image, truth in zip(images, truths, strict=True):
        for index, labels in enumerate(segment_each(image, configs)):
            totals[index] += count_matches(find_overlaps(truth, labels), iou)
    return totals


def _is_colour(image: NDArray[Any]) -> bool:
    return image.ndim == 3 and image.shape[2] == 3 and bool((image[..., :1] != image[..., 1:]).any())
