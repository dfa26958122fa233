"""How large the cells of an image are: the median diameter, measured by the detector itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from runtime.tiling import cut_tile

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

RELIABLE_PX = 12.0
"""Cells with a smaller median, model pixels, are too coarse to measure: the detector looks closer."""

VIEWS = 2
"""Views that the detector looks at, at every step closer."""


def one_view_will_do(
    diameter_px: float | None, longest_px: int, model_size: int, view_diameter_px: float, whole_view_diameter_px: float
) -> bool:
    """Whether an image is shown whole: nothing was found in it, or its cells are large enough so, and not too large.

    Args:
        diameter_px: median of its cells, image pixels.
        longest_px: its longer side.
        model_size: side of the model input, pixels.
        view_diameter_px, whole_view_diameter_px: see ``SegmentConfig``.
    """
    if diameter_px is None:
        return True
    return whole_view_diameter_px <= diameter_px * model_size / longest_px <= 2 * view_diameter_px


def measure_diameter(
    image: F32, model_size: int, find_diameters: Callable[[F32], F64], *, view_diameter_px: float
) -> float | None:
    """Measure the median cell diameter, image pixels.

    The detector looks at the whole image, then at ever smaller parts with the most contrast, until nothing is shrunk or
    one step after cells are large enough to measure. A detector misses small cells first, so that a view at a small
    scale gives too large a median; of all views, the one whose cells appear nearest to the wanted diameter counts.

    Args:
        image: (H, W, C) float32, as the detector takes it.
        model_size: side of the model input, pixels.
        find_diameters: diameters of the cells of a square image, (K) in its pixels.
        view_diameter_px: diameter at which the detector works best, model pixels.

    Returns:
        None where no cell was found.
    """
    side = max(image.shape[:2])
    views, found, confirmed = [cut_tile(image, (0, 0), side)], [], False
    while views:
        diameters = np.concatenate([find_diameters(view) for view in views])
        reliable = False
        if len(diameters):
            diameter = float(np.median(diameters))
            shown = diameter * model_size / side
            found.append((abs(np.log(shown / view_diameter_px)), diameter))
            reliable = shown >= RELIABLE_PX
        if side <= model_size or confirmed:
            break
        confirmed = reliable
        side = max(side // 2, min(side, model_size))
        views = _most_contrast(image, side)
    return min(found)[1] if found else None


def _most_contrast(image: F32, side: int) -> list[F32]:
    """The parts of the image of one side that vary most; none that is constant."""
    origins = [(y, x) for y in _starts(image.shape[0], side) for x in _starts(image.shape[1], side)]
    spread = {origin: float(cut_tile(image, origin, side)[::4, ::4].std(axis=(0, 1)).max()) for origin in origins}
    best = sorted((origin for origin in origins if spread[origin] > 0), key=lambda origin: (-spread[origin], origin))
    return [cut_tile(image, origin, side) for origin in best[:VIEWS]]


def _starts(length: int, side: int) -> list[int]:
    last = max(0, length - side)
    return sorted({*range(0, last + 1, side), last})
