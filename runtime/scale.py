"""How large the cells of an image are: the median diameter, measured by the detector itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.tiling import cut_tile

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

RELIABLE_PX = 12.0
"""Boxes with a smaller median, model pixels, are too coarse to measure: the detector looks closer."""

VIEWS = 2
"""Views that the detector looks at, at every step closer."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The scale of one image."""

    diameter_px: float | None
    """Median over the cells of the root of their box's area, image pixels; None where no cell was found."""
    whole: bool
    """It was measured in the view of the whole image."""


def one_view_will_do(
    measured: Measured, longest_px: int, model_size: int, view_diameter_px: float, whole_view_diameter_px: float
) -> bool:
    """Whether an image is shown whole: nothing was found in it, or the view it was measured in has a fitting scale.

    Args:
        measured: of the image.
        longest_px: its longer side.
        model_size: side of the model input, pixels.
        view_diameter_px, whole_view_diameter_px: see ``SegmentConfig``.
    """
    if measured.diameter_px is None:
        return True
    shown_px = measured.diameter_px * model_size / longest_px
    return measured.whole and whole_view_diameter_px <= shown_px <= 2 * view_diameter_px


def measure_diameter(image: F32, model_size: int, find_boxes: Callable[[F32], F64]) -> Measured:
    """Measure the median cell diameter, first on the whole image, then on ever smaller parts with the most contrast.

    Args:
        image: (H, W, C) float32, as the detector takes it.
        model_size: side of the model input, pixels.
        find_boxes: detects the cells of a square image, (K, 4) xyxy in its pixels.
    """
    side = max(image.shape[:2])
    views = [cut_tile(image, (0, 0), side)]
    whole, rough = True, None
    while views:
        sides = [boxes[:, 2:] - boxes[:, :2] for boxes in map(find_boxes, views)]
        diameters = np.sqrt(np.concatenate(sides).prod(axis=1))
        if len(diameters):
            rough = float(np.median(diameters))
            if rough * model_size / side >= RELIABLE_PX:
                return Measured(rough, whole)
        if side <= model_size:  # nothing was shrunk
            break
        side, whole = max(side // 2, min(side, model_size)), False
        views = _most_contrast(image, side)
    return Measured(rough, whole)


def _most_contrast(image: F32, side: int) -> list[F32]:
    """The parts of the image of one side that vary most; none that is constant."""
    origins = [(y, x) for y in _starts(image.shape[0], side) for x in _starts(image.shape[1], side)]
    spread = {origin: float(cut_tile(image, origin, side)[::4, ::4].std(axis=(0, 1)).max()) for origin in origins}
    best = sorted((origin for origin in origins if spread[origin] > 0), key=lambda origin: (-spread[origin], origin))
    return [cut_tile(image, origin, side) for origin in best[:VIEWS]]


def _starts(length: int, side: int) -> list[int]:
    last = max(0, length - side)
    return sorted({*range(0, last + 1, side), last})
