"""Overlapping masks as one label map.

The rules are those of ``livecell_ann_to_masks`` (cellpose ``paper/2.0/datasets.py``), which the paper used on LIVECell:
they decide which of its labels exist, so they are kept as they are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MOSTLY_COVERED = 0.75
"""A mask goes if at least this share of it lies in other masks."""


def resolve_overlaps(masks: Sequence[NDArray[np.intp]], size_hw: tuple[int, int]) -> NDArray[np.int32]:
    """Merge masks into labels.

    From the smallest to the largest, a mask that others cover by three quarters or more is dropped. Of the rest, a
    pixel of several masks goes to the mask whose centroid is nearest. As in the original, that may be a mask which does
    not claim the pixel; it then has disjoint parts and is filtered later.

    Args:
        masks: flat pixel positions of each mask, without repeats.
        size_hw: size of the image.

    Returns:
        (H, W) int32; the masks that are left, numbered 1..n in their order. Empty masks are left out.
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
