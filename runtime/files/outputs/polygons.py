"""Cell outlines along the edges of pixels. Pure functions on arrays.

The area of a polygon is the number of its pixels, and polygons of neighbouring cells share edges without gaps.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from scipy import ndimage

from runtime.types import Bool

Point = tuple[int, int]
"""Corner of a pixel, xy; the first pixel's corners are (0, 0) to (1, 1)."""

Ring = list[Point]
"""Closed ring, in which the last point repeats the first."""

Polygon = list[Ring]
"""The outer ring, counter-clockwise, then the holes, clockwise, in a frame whose y axis points up (RFC 7946)."""


def mask_polygons(mask: Bool, offset_yx: tuple[int, int] = (0, 0)) -> list[Polygon]:
    """Outline a mask.

    Args:
        mask: (h, w).
        offset_yx: image position of ``mask[0, 0]``.

    Returns:
        A polygon for each set of pixels connected by edges; empty if the mask has no pixels. Polygons are valid OGC
        simple features: no ring touches itself, and holes touch other rings at most in single points.
    """
    parts, count = ndimage.label(mask)
    polygons = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(parts), start=1):
        part = parts[rows, columns] == number if count > 1 else mask[rows, columns]
        offset = offset_yx[0] + rows.start, offset_yx[1] + columns.start
        rings = sorted(_rings(part, offset), key=_twice_area, reverse=True)
        polygons.append(rings)  # connected pixels have one outer ring, the only one with positive area
    return polygons


def _rings(part: Bool, offset_yx: tuple[int, int]) -> Iterator[Ring]:
    """Yield the rings around connected pixels."""
    after = _edges(part)
    while after:
        start = next(iter(after))
        path, place = [start], {start: 0}
        while path[-1] in after:
            options = after[path[-1]]
            following = options.pop()
            if not options:
                del after[path[-1]]
            if following not in place:
                place[following] = len(path)
                path.append(following)
                continue
            # If the path returns to one of its points, split off the loop as a ring, so that no ring touches itself.
            first = place[following]
            yield _corners(path[first:], offset_yx)
            for point in path[first + 1 :]:
                del place[point]
            del path[first + 1 :]


def _edges(part: Bool) -> dict[Point, list[Point]]:
    """Map each point to the next points along the edges between inside and outside pixels."""
    framed = np.pad(part, 1)
    above, below = framed[:-1, 1:-1], framed[1:, 1:-1]  # (h + 1, w): pixels on both sides of edges along x
    before, behind = framed[1:-1, :-1], framed[1:-1, 1:]  # (h, w + 1): pixels on both sides of edges along y
    after: dict[Point, list[Point]] = {}
    for edges, start, stop in (
        (below & ~above, (0, 0), (1, 0)),
        (above & ~below, (1, 0), (0, 0)),
        (before & ~behind, (0, 0), (0, 1)),
        (behind & ~before, (0, 1), (0, 0)),
    ):
        ys, xs = np.nonzero(edges)
        for y, x in zip(ys.tolist(), xs.tolist(), strict=True):
            after.setdefault((x + start[0], y + start[1]), []).append((x + stop[0], y + stop[1]))
    return after


def _corners(path: list[Point], offset_yx: tuple[int, int]) -> Ring:
    """Convert a path to a ring in image pixels, without points on straight lines."""
    dy, dx = offset_yx
    ring = [
        (x + dx, y + dy)
        for (x0, y0), (x, y), (x1, y1) in zip([path[-1], *path[:-1]], path, [*path[1:], path[0]], strict=True)
        if (x - x0) * (y1 - y) != (y - y0) * (x1 - x)
    ]
    return [*ring, ring[0]]


def _twice_area(ring: Ring) -> int:
    """Return twice the signed area, positive for an outer ring."""
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise(ring))
