"""Filling of polygons and strokes with pixels. Pure functions on arrays.

Coordinates are x, y pixels, and 0 is the corner of the first pixel. A pixel belongs to a shape if its centre does; a
centre on the edge counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from runtime.ops.masks import MaskCrop, cut_to_pixels
from runtime.types import F64, Bool, Extent


def fill_rings(rings: Iterable[ArrayLike], size_hw: tuple[int, int]) -> MaskCrop:
    """Fill the area between rings by the even-odd rule: a ring inside another one is a hole.

    Args:
        rings: (n, 2) xy corners of each ring, closed or not.
        size_hw: size of the image; pixels beyond it are left out.

    Returns:
        The pixels; an empty mask if there are none.

    Source: scikit-image, ``skimage.draw.polygon``.
    """
    from skimage.draw import polygon

    corners = [np.asarray(ring, np.float64).reshape(-1, 2) for ring in rings]
    corners = [ring for ring in corners if len(ring) > 2]
    box = _box_of(corners, 0.0, size_hw)
    mask = np.zeros((box[2] - box[0], box[3] - box[1]), np.bool_)
    for ring in corners if mask.size else ():
        filled = polygon(ring[:, 1] - box[0] - 0.5, ring[:, 0] - box[1] - 0.5, mask.shape)  # type: ignore[no-untyped-call]
        mask[filled] ^= True
    return cut_to_pixels(mask, box[:2])


def fill_stroke(points: ArrayLike, radius: float, size_hw: tuple[int, int]) -> MaskCrop:
    """Fill the pixels whose centres are within a radius of a polyline.

    Args:
        points: (n, 2) xy, one or more points.
        radius: half the width of the stroke, pixels.
        size_hw: size of the image; pixels beyond it are left out.

    Returns:
        The pixels; an empty mask if there are none.
    """
    path = np.asarray(points, np.float64).reshape(-1, 2)
    box = _box_of([path], radius, size_hw)
    mask = np.zeros((box[2] - box[0], box[3] - box[1]), np.bool_)
    path = path - (box[1], box[0])
    for start, stop in zip(path[: max(1, len(path) - 1)], path[1:] if len(path) > 1 else path, strict=True):
        _add_segment(mask, start, stop, radius)
    return cut_to_pixels(mask, box[:2])


def _add_segment(mask: Bool, start: F64, stop: F64, radius: float) -> None:
    """Set the pixels within a radius of one segment."""
    top, left, bottom, right = _box_of([np.stack((start, stop))], radius, (mask.shape[0], mask.shape[1]))
    y, x = np.ogrid[top:bottom, left:right]
    dy, dx = y + 0.5 - start[1], x + 0.5 - start[0]
    along_x, along_y = (stop - start).tolist()
    length = along_x**2 + along_y**2
    if length:
        share = np.clip((dx * along_x + dy * along_y) / length, 0.0, 1.0)
        dy, dx = dy - share * along_y, dx - share * along_x
    mask[top:bottom, left:right] |= dy**2 + dx**2 <= radius**2


def _box_of(paths: Sequence[F64], margin: float, size_hw: tuple[int, int]) -> Extent:
    """Return the part of an image that contains all points with a margin; (0, 0, 0, 0) if there is none."""
    points = np.concatenate(paths) if len(paths) else np.zeros((0, 2))
    if not len(points):
        return 0, 0, 0, 0
    # Limits that an integer can represent; points may be far away.
    low = np.clip(np.floor(points.min(axis=0) - margin), 0, (size_hw[1], size_hw[0])).astype(int)
    high = np.clip(np.ceil(points.max(axis=0) + margin), 0, (size_hw[1], size_hw[0])).astype(int)
    (left, top), (right, bottom) = low.tolist(), high.tolist()
    return (top, left, bottom, right) if top < bottom and left < right else (0, 0, 0, 0)
