"""Measurement of the size and polarity of an image's cells by the detector itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from runtime.types import F32, F64
from runtime.views.grid import Tile, cut_tile

RELIABLE_PX = 12.0
"""If the median cell is smaller, in model pixels, the image is too coarse to measure and the detector zooms in."""

VIEWS = 2
"""Number of views that the detector examines at each zoom step."""

CONFIDENT = 0.6
"""Mean score from which the cells of a view are trusted; false cells at a wrong scale score about 0.45."""

NEARLY = 0.9
"""Share of the highest mean score at which a scale may still be the right one."""

MISSED = 4.0
"""A scale is ignored if a closer one shows more than this many times as many cells per area."""

ONE_POLARITY = 0.72
"""Score of a measurement from which the other polarity of the image is not tried."""

BETTER_POLARITY = 0.05
"""Margin by which the score of the inverted image must be higher for it to be chosen."""


class CellSizes(NamedTuple):
    """Sizes and scores of the cells of one view."""

    diameters: F64
    """(K,) diameters of discs with the masks' areas, pixels of the view; a sample if there are many cells."""
    scores: F32
    """(N,) scores of all detected cells."""


class ScaleEstimate(NamedTuple):
    """The detector's findings at one scale."""

    score: float
    """Mean score of the cells and one more cell of score 0, because a few high scores are weak evidence."""
    diameter: float
    """Median diameter, in image pixels."""
    shown: float
    """Median diameter, in model pixels."""
    density: float
    """Cells per image pixel, each weighted by its score."""


class Measurement(NamedTuple):
    """The median cell diameter of an image, and the confidence in it."""

    diameter_px: float
    """Median diameter, in image pixels."""
    score: float
    """Score at the chosen scale; see ``ScaleEstimate``."""
    agreement: float
    """Smallest over largest diameter among the scales whose scores are near the highest, in (0, 1]."""

    @property
    def confidence(self) -> float:
        """``score`` times ``agreement``, in [0, 1]."""
        return self.score * self.agreement


def one_view_will_do(
    diameter_px: float | None, longest_px: int, model_size: int, view_diameter_px: float, whole_view_diameter_px: float
) -> bool:
    """Return whether to show an image whole: it has no cells, or they are large enough and not too large in it.

    Args:
        diameter_px: median diameter of its cells, in image pixels.
        longest_px: its longer side, in pixels.
        model_size: side of the model input, in pixels.
        view_diameter_px, whole_view_diameter_px: see ``SegmentConfig``.
    """
    if diameter_px is None:
        return True
    return whole_view_diameter_px <= diameter_px * model_size / longest_px <= 2 * view_diameter_px


def measure_diameter(
    image: F32, model_size: int, find_cells: Callable[[Tile], CellSizes], *, view_diameter_px: float
) -> Measurement | None:
    """Measure the median cell diameter.

    The detector examines the whole image, then ever smaller parts with the most contrast. It stops at full resolution,
    or one step after it was confident of cells large enough to measure. From afar it misses small cells, and mistakes
    groups and texture for large ones, with low scores. So a scale counts only if its mean score is near the highest
    and it does not miss most of the cells. Among these, the scale that shows cells nearest to the wanted diameter wins.

    Args:
        image: (H, W, C) float32, as prepared for the detector.
        model_size: side of the model input, in pixels.
        find_cells: finds the cells of a square part of the image.
        view_diameter_px: diameter at which the detector works best, in model pixels.

    Returns:
        The measurement; None if no cell was found.
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
    return _chosen(estimates, view_diameter_px)


def measure_at(image: F32, side: int, model_size: int, find_cells: Callable[[Tile], CellSizes]) -> Measurement | None:
    """Measure the cells at one scale, in the parts of the image with the most contrast.

    Args:
        image: (H, W, C) float32, as prepared for the detector.
        side: side of the parts, in image pixels.
        model_size: side of the model input, in pixels.
        find_cells: finds the cells of a square part of the image.

    Returns:
        The measurement; None if no cell was found.
    """
    sizes = [find_cells(view) for view in _most_contrast(image, side)]
    return measured_of(sizes, side, model_size)


def measured_of(sizes: Sequence[CellSizes], side: int, model_size: int) -> Measurement | None:
    """Measure from views of one scale, each ``side`` image pixels wide; return None if no cell was found."""
    estimate = _estimate(sizes, side, model_size) if sizes else None
    return None if estimate is None else Measurement(estimate.diameter, estimate.score, 1.0)


def inverted_is_better(measured: Measurement | None, inverted: Measurement | None) -> tuple[bool, float]:
    """Compare the measurements of both polarities of an image.

    Returns:
        Whether the inverted image is clearly better, and by how much the score of the better choice is higher.
    """
    score, other = (0.0 if one is None else one.score for one in (measured, inverted))
    better = other - score > BETTER_POLARITY
    return better, other - score if better else score - other


def _chosen(estimates: Sequence[ScaleEstimate], view_diameter_px: float) -> Measurement | None:
    """Choose among the estimates, which are ordered from the farthest scale to the closest."""
    if not estimates:
        return None
    least = NEARLY * max(one.score for one in estimates)
    likely = [one for one in estimates if one.score >= least]
    closer = [max(other.density for other in likely[place:]) for place in range(len(likely))]
    whole = [one for one, density in zip(likely, closer, strict=True) if density <= MISSED * one.density]
    nearest = min(whole, key=lambda one: abs(np.log(one.shown / view_diameter_px)))
    diameters = [one.diameter for one in likely]
    return Measurement(nearest.diameter, nearest.score, min(diameters) / max(diameters))


def _estimate(cells: Sequence[CellSizes], side: int, model_size: int) -> ScaleEstimate | None:
    """Combine the views of one scale, squares of ``side`` image pixels; return None if no cell was measured."""
    diameters, scores = (np.concatenate(values) for values in zip(*cells, strict=True))
    if not len(diameters):
        return None
    diameter, mass = float(np.median(diameters)), float(scores.sum())
    return ScaleEstimate(
        mass / (len(scores) + 1), diameter, diameter * model_size / side, mass / (len(cells) * side**2)
    )


def _most_contrast(image: F32, side: int) -> list[Tile]:
    """Return the parts of the image, of the given side, that vary most; constant parts are left out."""
    origins = [(y, x) for y in _starts(image.shape[0], side) for x in _starts(image.shape[1], side)]
    spread = {origin: _spread(cut_tile(image, origin, side)) for origin in origins}
    best = sorted((origin for origin in origins if spread[origin] > 0), key=lambda origin: (-spread[origin], origin))
    return [cut_tile(image, origin, side) for origin in best[:VIEWS]]


def _spread(tile: Tile) -> float:
    """Return the standard deviation of the most varied channel, with 0 beyond the image, from every fourth pixel."""
    few = tile.pixels[::4, ::4]
    if few.shape[:2] == (tile.side, tile.side):
        return float(few.std(axis=(0, 1)).max())
    share = few.shape[0] * few.shape[1] / (-(-tile.side // 4)) ** 2
    inside, mean = few.var(axis=(0, 1), dtype=np.float64), few.mean(axis=(0, 1), dtype=np.float64)
    return math.sqrt((share * inside + share * (1 - share) * mean**2).max())


def _starts(length: int, side: int) -> list[int]:
    last = max(0, length - side)
    return sorted({*range(0, last + 1, side), last})
