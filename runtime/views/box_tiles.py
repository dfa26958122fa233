"""Tiles that show boxes of the caller at the size that suits the model best. Pure functions on arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from runtime.types import F64, I64
from runtime.views.grid import grid_at_scale
from runtime.views.scale import one_view_will_do


class BoxTile(NamedTuple):
    """A square part of an image, and the boxes to decode in it."""

    origin_yx: tuple[int, int]
    side: int
    """Side in pixels; the tile may extend beyond the image."""
    rows: I64
    """(K,), indices of the boxes among the given ones."""


def box_tiles(
    boxes: F64, size_hw: tuple[int, int], *, model_size: int, view_diameter_px: float, whole_view_diameter_px: float
) -> list[BoxTile]:
    """Give each box a tile that shows it at about the wanted size, as far as possible from the tile's edges.

    Boxes are grouped by size: within a group, the largest is at most twice as large as the smallest.

    Args:
        boxes: (K, 4) xyxy, image pixels.
        size_hw: size of the image.
        model_size: side of the model input, in pixels.
        view_diameter_px: wanted diameter of a cell, in model pixels.
        whole_view_diameter_px: see ``SegmentConfig``.

    Returns:
        Tiles with at least one box each; each box is in exactly one tile.
    """
    tiles: list[BoxTile] = []
    whole: list[I64] = []
    longest = max(size_hw)
    for rows, diameter in _by_size(boxes):
        if one_view_will_do(diameter, longest, model_size, view_diameter_px, whole_view_diameter_px):
            whole.append(rows)
            continue
        # A box may be far larger than the image; the image is then shown small, but still shown.
        grid = grid_at_scale(size_hw, min(diameter, longest * view_diameter_px / 2), model_size, view_diameter_px)
        places, margins = _innermost(boxes[rows], grid.origins, grid.side)
        whole.append(rows[margins < 0])
        for place in np.unique(places[margins >= 0]).tolist():
            inside = (places == place) & (margins >= 0)
            tiles.append(BoxTile(grid.origins[place], grid.side, rows[inside]))
    in_whole = np.sort(np.concatenate([np.zeros(0, np.int64), *whole]))
    return ([BoxTile((0, 0), longest, in_whole)] if len(in_whole) else []) + tiles


def innermost_view(boxes: F64, views: Sequence[tuple[tuple[int, int], tuple[int, int]]]) -> I64:
    """Choose the view in which each box lies farthest from the edges; a box that no view contains goes to the nearest.

    Args:
        boxes: (K, 4) xyxy, image pixels.
        views: first pixel (y, x) and size (height, width) of each view; at least one.

    Returns:
        (K,) indices of the views.
    """
    margins = np.stack([_margins(boxes, origin, size) for origin, size in views])
    places: I64 = margins.argmax(axis=0)
    return places


def _by_size(boxes: F64) -> list[tuple[I64, float]]:
    """Group the rows of boxes of similar size, each group with the geometric mean of its diameters."""
    if not len(boxes):
        return []
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    # An ellipse that fills the box has the same area as a disc of this diameter.
    octaves = np.log2(np.sqrt(np.maximum(widths * heights, 1.0)))
    groups = np.rint(octaves - np.median(octaves)).astype(np.int64)
    chosen = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    return [(rows, float(2 ** octaves[rows].mean())) for rows in chosen]


def _innermost(boxes: F64, origins: Sequence[tuple[int, int]], side: int) -> tuple[I64, F64]:
    """Return the tile of each box, and the box's distance from its edges, negative if the box extends beyond them."""
    margins = np.stack([_margins(boxes, origin, (side, side)) for origin in origins])
    places = margins.argmax(axis=0)
    return places, margins[places, np.arange(len(boxes))]


def _margins(boxes: F64, origin_yx: tuple[int, int], size_hw: tuple[int, int]) -> F64:
    """Return the distances (K,) of boxes from the nearest edge of a view."""
    (top, left), (height, width) = origin_yx, size_hw
    x0, y0, x1, y1 = boxes.T
    margins: F64 = np.min([x0 - left, y0 - top, left + width - x1, top + height - y1], axis=0)
    return margins
