"""Agreement of the cells of two segmentations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime import Segmenter
from runtime.engines.builtin import sample_images
from runtime.files.plain import read_image
from training.evaluation.matching import find_overlaps


def compare_cells(pairs: Iterable[tuple[NDArray[np.int32], NDArray[np.int32]]]) -> dict[str, Any]:
    """Compare the cells of pairs of label maps.

    Args:
        pairs: reference and other label map of the same image, (H, W) int32.

    Returns:
        ``cells``, the number in all maps; ``mean_iou`` of cells that match above IoU 0.5 (None if there are none);
        ``matched``, their share: 2 matched / cells.
    """
    ious: list[float] = []
    cells = 0
    for reference, other in pairs:
        overlaps = find_overlaps(reference, other)
        ious += [iou for iou in overlaps.iou if iou > 0.5]
        cells += len(overlaps.truth_ids) + len(overlaps.predicted_ids)
    return {
        "cells": cells,
        "mean_iou": round(float(np.mean(ious)), 4) if ious else None,
        "matched": round(2 * len(ious) / max(cells, 1), 4),
    }


def measure_agreement(segmenters: Mapping[str, Segmenter]) -> list[dict[str, Any]]:
    """Compare the cells of each segmenter with those of the first, on the sample images (``compare_cells``)."""
    first, *others = segmenters
    images = [read_image(path) for path in sample_images()]
    expected = [segmenters[first](image).labels for image in images] if others else []
    records = []
    for name in others:
        found = (segmenters[name](image).labels for image in images)
        records.append({"backend": name, "against": first, **compare_cells(zip(expected, found, strict=True))})
    return records
