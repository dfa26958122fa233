"""Shapes that a user draws: a polygon, a brush stroke or a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from runtime.errors import InputError
from runtime.ops.drawing import fill_rings, fill_stroke
from runtime.ops.masks import MaskCrop, cut_to_pixels
from runtime.types import Bool

Point = tuple[float, float]
"""x, y in image pixels; 0 is the corner of the first pixel."""

MAX_POINTS = 100_000
"""Largest number of points of a shape."""

MAX_RADIUS = 1000.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Stroke:
    """A brush stroke: all pixels whose centres are within a radius of a polyline.

    Raises:
        InputError: there is no point, a value is not finite, or the radius is out of range.
    """

    points: tuple[Point, ...]
    radius: float
    """Half the width, pixels."""

    def __post_init__(self) -> None:
        check_points(self.points, 1, "points")
        if not 0.0 < self.radius <= MAX_RADIUS:
            raise InputError(
                f"radius is {self.radius}; expected more than 0 and at most {MAX_RADIUS:g} pixels.",
                kind="out_of_range",
                field="radius",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskRuns:
    """A mask as lengths of runs, for JSON.

    Raises:
        InputError: the runs do not fill the size.
    """

    offset_yx: tuple[int, int]
    """Image pixel of the first pixel; the mask may extend beyond the image."""
    size_hw: tuple[int, int]
    """Height and width, pixels."""
    runs: tuple[int, ...]
    """Lengths of the runs, row by row, beginning with the background, which may have length 0."""

    def __post_init__(self) -> None:
        height, width = self.size_hw
        if min(height, width, *self.runs, 0) < 0 or sum(self.runs) != height * width:
            raise InputError(
                f"runs have {sum(self.runs)} pixels; expected {height} x {width} = {height * width}. Give the lengths "
                "of all runs, beginning with the background.",
                kind="wrong_shape",
                field="runs",
            )

    @classmethod
    def of(cls, crop: MaskCrop) -> MaskRuns:
        """Encode a mask."""
        flat = crop.mask.ravel()
        breaks = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        edges = [*([0] if flat.size and flat[0] else []), 0, *breaks.tolist(), flat.size]
        runs = tuple(stop - start for start, stop in pairwise(edges))
        return cls(offset_yx=crop.offset_yx, size_hw=(crop.mask.shape[0], crop.mask.shape[1]), runs=runs)

    def decode(self) -> Bool:
        """Return the mask, (h, w)."""
        values = np.arange(len(self.runs)) % 2 == 1
        return np.repeat(values, self.runs).reshape(self.size_hw)


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """One of a polygon, a stroke or a mask.

    Raises:
        InputError: none or several are given, or a polygon has fewer than three points.
    """

    polygon: tuple[Point, ...] | None = None
    """Corners of a closed polygon, filled by the even-odd rule."""
    stroke: Stroke | None = None
    mask: MaskRuns | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("polygon", "stroke", "mask") if getattr(self, name) is not None]
        if len(given) != 1:
            raise InputError(
                f"shape has {' and '.join(given) or 'no content'}; expected one of polygon, stroke and mask.",
                kind="conflict" if given else "missing",
                field="shape",
            )
        if self.polygon is not None:
            check_points(self.polygon, 3, "polygon")

    @classmethod
    def of_polygon(cls, points: Sequence[Point]) -> Shape:
        """Return a filled polygon."""
        return cls(polygon=tuple((float(x), float(y)) for x, y in points))

    @classmethod
    def of_stroke(cls, points: Sequence[Point], radius: float) -> Shape:
        """Return a brush stroke along a polyline."""
        return cls(stroke=Stroke(points=tuple((float(x), float(y)) for x, y in points), radius=float(radius)))

    @classmethod
    def of_mask(cls, crop: MaskCrop) -> Shape:
        """Return a mask, such as one decoded from a box."""
        return cls(mask=MaskRuns.of(crop))

    def crop(self, size_hw: tuple[int, int]) -> MaskCrop:
        """Return the pixels of the shape in an image of this size, without empty rows and columns."""
        if self.polygon is not None:
            return fill_rings([self.polygon], size_hw)
        if self.stroke is not None:
            return fill_stroke(self.stroke.points, self.stroke.radius, size_hw)
        assert self.mask is not None, "checked when built"
        y, x = self.mask.offset_yx
        inside = self.mask.decode()[max(0, -y) : max(0, size_hw[0] - y), max(0, -x) : max(0, size_hw[1] - x)]
        return cut_to_pixels(inside, (max(0, y), max(0, x)))


def check_points(points: Sequence[Point], least: int, field: str) -> None:
    """Raise an ``InputError`` unless there are enough finite points, and not too many."""
    if not least <= len(points) <= MAX_POINTS:
        raise InputError(
            f"{field} has {len(points)} points; expected {least} to {MAX_POINTS}.", kind="out_of_range", field=field
        )
    if not np.isfinite(np.asarray(points, np.float64)).all():
        raise InputError(f"{field} has a point that is not finite; expected x, y in pixels.", field=field)
