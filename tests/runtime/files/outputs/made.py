"""Synthetic results for the tests of writers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from runtime import Instances, MaskCrop, Segmentation
from runtime.ops.masks import label_crops
from runtime.results import DETECTED


def made_result(labels: NDArray[np.int32], lost: int = 0) -> Segmentation:
    """Make a result with this label map, without gaps, and further instances that have no pixels in it."""
    count = int(labels.max(initial=0))
    masks = [*label_crops(labels), *[MaskCrop(np.ones((2, 2), np.bool_), (0, 0))] * lost]
    boxes = [[x, y, x + mask.shape[1], y + mask.shape[0]] for mask, (y, x) in ((m.mask, m.offset_yx) for m in masks)]
    every = Instances(
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        scores=np.linspace(0.9, 0.5, len(masks), dtype=np.float32),
        iou_predictions=np.linspace(0.95, 0.6, len(masks), dtype=np.float32),
        masks=tuple(masks),
        prompts=np.full(len(masks), DETECTED),
    )
    return Segmentation.of(labels, every[:count], every[count:])


def awkward_labels() -> NDArray[np.int32]:
    """Make cells that are hard to write: with a hole, in two parts, along borders, one pixel, touching at a corner."""
    labels = np.zeros((24, 30), np.int32)
    labels[4:12, 5:14] = 1
    labels[6:9, 8:11] = 0
    labels[15:18, 2:6] = labels[15:18, 9:12] = 2
    labels[0:3, 20:30] = labels[0:24, 29] = 3
    labels[23, 0] = 4
    labels[10:13, 20:23] = labels[13:15, 23:25] = 5
    labels[7, 9] = 6
    return labels
