"""Conversion of overlapping masks to one label map.

The rules are those of ``livecell_ann_to_masks`` (cellpose ``paper/2.0/datasets.py``), which the paper used for
LIVECell. They decide which labels exist, so they are kept unchanged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MOSTLY_COVERED = 0.75
"""A mask is dropped if at least this share of it lies in other masks."""


def resolve_overlaps(masks: Sequence[NDArray[np.intp]], size_hw: tuple[int, int]) -> NDArray[np.int32]:
    """Merge masks into labels.

    From the smallest to the largest, a mask is dropped if others cover three quarters of it or more. A pixel in several
    of the remaining masks goes to the mask with the nearest centroid. As in the original, that mask may not contain the
    pixel; it then has disjoint parts and is filtered later.

    Args:
        masks: flat pixel positions of each mask, without repeats.
        size_hw: image size (height, width) in pixels.

    Returns:
        (H, W) int32: the remaining masks that are not empty, numbered 1..n in their order.
    """
    from scipy.spatial import cKDTree

    claims = np.zeros(size_hw[0] * size_hw[1], np.int32)
    for mask in masks:
        claims[mask] += 1
    kept = {index: mask for index, mask in enumerate(masks) if mask.size}
    for index in sorted(kept, key=lambda i: masks[i].size):
        if np.count_nonzero(claims[masks[index]] > 1) >= MOSTLY_COVERED * masks[index].size:
            claims[masks[index]] -= 1
            del kept[index]
    labels = np.zeros(claims.size, np.int32)
    if not kept:
        return labels.reshape(size_hw)
    for number, mask in enumerate(kept.values(), start=1):
        labels[mask] = number
    contested = np.flatnonzero(claims > 1)
    centroids = [np.mean(np.unravel_index(mask, size_hw), axis=1) for mask in kept.values()]
    _, nearest = cKDTree(np.stack(centroids)).query(np.stack(np.unravel_index(contested, size_hw), axis=1))
    labels[contested] = nearest + 1
    return labels.reshape(size_hw)
