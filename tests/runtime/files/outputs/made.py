"""Results made up for the tests of writers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from runtime import MaskCrop, Segmentation


def made_result(labels: NDArray[np.int32], lost: int = 0) -> Segmentation:
    """A result with this label map, dense, and further instances of which no pixel was kept."""
    count = int(labels.max(initial=0))
    masks, boxes = [], []
    for n, region in enumerate(ndimage.find_objects(labels), start=1):
        masks.append(MaskCrop(labels[region] == n, (region[0].start, region[1].start)))
        boxes.append([region[1].start, region[0].start, region[1].stop, region[0].stop])
    masks += [MaskCrop(np.ones((2, 2), np.bool_), (0, 0))] * lost
    boxes += [[0, 0, 2, 2]] * lost
    total = count + lost
    return Segmentation(
        labels=labels,
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        scores=np.linspace(0.9, 0.5, total, dtype=np.float32),
        iou_predictions=np.linspace(0.95, 0.6, total, dtype=np.float32),
        ids=np.array([*range(1, count + 1), *[0] * lost], np.int32),
        masks=tuple(masks),
    )
