"""How large the cells of an image are: the median diameter, measured by the detector itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from runtime.types import F32, F64
from runtime.views.grid import Tile, cut_tile

RELIABLE_PX = 12.0
"""Cells with a smaller median, model pixels, are too coarse to measure: the detector looks closer."""

VIEWS = 2
"""Views that the detector looks at, at every step closer."""

CONFIDENT = 0.6
"""Mean score at which the cells of a view are cells; what is taken for cells at a wrong scale has about 0.45."""

NEARLY = 0.9
"""Share of the highest mean score at which a scale may still be the right one."""


MISSED = 4.0
"""A scale does not count where a closer one shows more than this many times as many cells per area."""


class CellSizes(NamedTuple):
    """The cells of one view."""

    diameters: F64
    """(K), of discs of the masks' areas, pixels of the view; of some cells where there are many."""
    scores: F32
    """(N), of all detected cells."""


class ScaleEstimate(NamedTuple):
    """What the detector found at one scale."""

    score: float
    diameter: float
    """Median, image pixels."""
    shown: float
    """Median, model pixels."""
    density: float
    """Cells per image pixel, each counted by its score."""


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
    image: F32, model_size: int, find_cells: Callable[[Tile], CellSizes], *, view_diameter_px: float
) -> float | None:
    """Measure the median cell diameter, image pixels.

    The detector looks at the whole image, then at ever smaller parts with the most contrast, until nothing is shrunk or
    one step after it was confident of cells large enough to measure. Far off it misses the small cells, and takes
    groups and texture for large ones, with low scores: only scales whose mean score is near the highest count, and at
    which not most of the cells are missed. Of them, the one whose cells appear nearest to the wanted diameter does.

    Args:
        image: (H, W, C) float32, as the detector takes it.
        model_size: side of the model input, pixels.
        find_cells: the cells of a square part of it.
        view_diameter_px: diameter at which the detector works best, model pixels.

    Returns:
        None where no cell was found.
    """
    side = max(image.shape[:2])
    views, estimates, confirmed = [cut_tile(image, (0, 0), side)], [], False
    while views:
        estimate = _estimate([find_cells(view) for view in views], side, model_size)
        estimates += [estimate] if estimate else []
        if side <= model_size or confirmed:
            break
        confirmed = estimate is not None and estimate.shown >= RELIABLE_PX and estimate.score >= CONFIDENT
        side = max(side // 2, min(side, model_size))
        views = _most_contrast(image, side)
    least = NEARLY * max((one.score for one in estimates), default=0.0)
    likely = [one for one in estimates if one.score >= least]
    closer = [max(other.density for other in likely[place:]) for place in range(len(likely))]
    whole = [one for one, density in zip(likely, closer, strict=True) if density <= MISSED * one.density]
    nearest = min(whole, key=lambda one: abs(np.log(one.shown / view_diameter_px)), default=None)
    return nearest.diameter if nearest else None


def _estimate(cells: list[CellSizes], side: int, model_size: int) -> ScaleEstimate | None:
    """The views of one scale, squares of ``side`` image pixels, together; None where no cell was measured."""
    diameters, scores = (np.concatenate(values) for values in zip(*cells, strict=True))
    if not len(diameters):
        return None
    diameter, mass = float(np.median(diameters)), float(scores.sum())
    # One more cell of score 0: a few high scores say little.
    return ScaleEstimate(
        mass / (len(scores) + 1), diameter, diameter * model_size / side, mass / (len(cells) * side**2)
    )


def _most_contrast(image: F32, side: int) -> list[Tile]:
    """The parts of the image of one side that vary most; none that is constant."""
    origins = [(y, x) for y in _starts(image.shape[0], side) for x in _starts(image.shape[1], side)]
    spread = {origin: _spread(cut_tile(image, origin, side)) for origin in origins}
    best = sorted((origin for origin in origins if spread[origin] > 0), key=lambda origin: (-spread[origin], origin))
    return [cut_tile(image, origin, side) for origin in best[:VIEWS]]


def _spread(tile: Tile) -> float:
    """Standard deviation of the channel that varies most, beyond the image 0; every fourth pixel counts."""
    few = tile.pixels[::4, ::4]
    if few.shape[:2] == (tile.side, tile.side):
        return float(few.std(axis=(0, 1)).max())
    share = few.shape[0] * few.shape[1] / (-(-tile.side // 4)) ** 2
    inside, mean = few.var(axis=(0, 1), dtype=np.float64), few.mean(axis=(0, 1), dtype=np.float64)
    return math.sqrt((share * inside + share * (1 - share) * mean**2).max())


def _starts(length: int, side: int) -> list[int]:
    last = max(0, length - side)
    return sorted({*range(0, last + 1, side), last})
