"""COCO average precision of instance masks, for the large cell counts of microscopy.

It is computed by faster-coco-eval, a C++ rewrite of pycocotools with the same results, which is imported on first use.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.extras import install_command
from runtime.ops.masks import MaskCrop, label_crops
from runtime.types import F32

MAX_DETECTIONS = 10_000
"""Largest number of detections per image that count; COCO's limit of 100 is too low for cells (paper, Appendix C.2)."""

Rle = dict[str, Any]


@dataclass(frozen=True, slots=True)
class CocoImage:
    """Run-length encoded masks of one image, small enough to keep for all images."""

    size_hw: tuple[int, int]
    truth: tuple[Rle, ...]
    detections: tuple[Rle, ...]
    scores: tuple[float, ...]
    """One per detection."""


@dataclass(frozen=True, slots=True)
class CocoAp:
    """Average precision, the area under the precision-recall curve; NaN if there are no true cells."""

    map: float
    """Mean AP over IoU 0.50, 0.55 .. 0.95."""
    ap50: float
    """AP at IoU 0.50."""
    ap75: float
    """AP at IoU 0.75."""


def require_library() -> None:
    """Raise InputError, with the install command, if faster-coco-eval is missing."""
    try:
        import faster_coco_eval  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"COCO metrics need faster-coco-eval, which cannot be imported ({error}). "
            f"Install it: {install_command('training')}.",
            kind="not_installed",
        ) from error


def encode_image(truth: NDArray[np.integer], detections: Sequence[MaskCrop], scores: F32) -> CocoImage:
    """Encode one image for ``coco_ap``.

    Args:
        truth: (H, W) labels, 0 = background.
        detections: N masks, which may overlap; empty masks count as wrong detections.
        scores: (N) float, finite.

    Raises:
        InputError: there is not one score per mask, or a score is not finite.
    """
    scores = np.asarray(scores)
    if scores.shape != (len(detections),) or not np.isfinite(scores).all():
        raise InputError(
            f"scores have shape {scores.shape} and {np.count_nonzero(~np.isfinite(scores))} values that are not "
            f"finite; COCO AP expects {len(detections)} finite scores, one per mask.",
            kind="wrong_shape",
            field="scores",
        )
    size_hw = (int(truth.shape[0]), int(truth.shape[1]))
    return CocoImage(
        size_hw=size_hw,
        truth=tuple(_encode(label_crops(truth), size_hw)),
        detections=tuple(_encode(detections, size_hw)),
        scores=tuple(float(score) for score in scores),
    )


def coco_ap(images: Sequence[CocoImage], *, max_detections: int = MAX_DETECTIONS) -> CocoAp:
    """Compute the COCO average precision of masks over a set of images, for one class and all sizes.

    Args:
        images: outputs of ``encode_image``.
        max_detections: number of best detections per image that count.

    Raises:
        InputError: faster-coco-eval is missing.

    Source: Lin et al. 2014 (COCO); the detection limit: CellSAM, Appendix C.2.
    """
    require_library()
    from faster_coco_eval import COCO, COCOeval_faster

    if not any(image.truth for image in images):
        return CocoAp(math.nan, math.nan, math.nan)
    if not any(image.detections for image in images):
        return CocoAp(0.0, 0.0, 0.0)
    header = {"images": [_header(i, image) for i, image in enumerate(images)], "categories": [{"id": 1}]}
    truth, found = COCO(), COCO()
    truth.dataset = {**header, "annotations": list(_annotations(images, truth=True))}
    found.dataset = {**header, "annotations": list(_annotations(images, truth=False))}
    truth.createIndex()
    found.createIndex()
    evaluation = COCOeval_faster(truth, found, iouType="segm", print_function=lambda *_: None)
    evaluation.params.maxDets = [max_detections]
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluation.evaluate()
    evaluation.accumulate()
    # Precision by IoU, recall level, class, area range and detection limit. The library's own summary looks for the
    # limit 100 and would find nothing.
    precision = np.asarray(evaluation.eval["precision"])[:, :, 0, 0, 0]
    by_iou = precision.mean(axis=1)
    return CocoAp(float(by_iou.mean()), float(by_iou[0]), float(by_iou[5]))


def _encode(masks: Sequence[MaskCrop], size_hw: tuple[int, int]) -> Iterator[Rle]:
    require_library()
    from faster_coco_eval import mask as library

    for crop in masks:
        yield library.encode(np.asfortranarray(crop.paste(size_hw), dtype=np.uint8))


def _header(index: int, image: CocoImage) -> dict[str, Any]:
    return {"id": index + 1, "height": image.size_hw[0], "width": image.size_hw[1]}


def _annotations(images: Sequence[CocoImage], *, truth: bool) -> Iterator[dict[str, Any]]:
    from faster_coco_eval import mask as library

    number = 0
    for index, image in enumerate(images):
        masks = image.truth if truth else image.detections
        for place, rle in enumerate(masks):
            number += 1  # from 1: for the library, annotation 0 means "unmatched"
            common = {"id": number, "image_id": index + 1, "category_id": 1, "segmentation": rle, "iscrowd": 0}
            score = {} if truth else {"score": image.scores[place]}
            yield {**common, **score, "area": float(library.area(rle))}
