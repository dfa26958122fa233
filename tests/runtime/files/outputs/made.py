"""Results made up for the tests of writers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from runtime import Instances, MaskCrop, Segmentation
from runtime.results import DETECTED
from training.evaluation.coco_metrics import label_crops


def made_result(labels: NDArray[np.int32], lost: int = 0) -> Segmentation:
    """A result with this label map, dense, and further instances of which no pixel was kept."""
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
