"""Fields of cells before any optics: label map, thickness, and properties of each cell."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from runtime.types import F32, I32
from training.data.synthetic import kernels

F64 = NDArray[np.float64]

LEAST_PX = 9
"""Smallest visible area of a shape, pixels; smaller ones are not placed."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """Shape in a window of the field."""

    distance: F32
    """(h, w) signed distance to the outline, pixels, positive inside."""
    y0: int
    x0: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """Field of cells."""

    labels: I32
    """(H, W), 0 background, 1..n; every label is one connected part."""
    thickness: F32
    """(H, W) thickness relative to a cell of height 1; overlapping cells add up."""
    depth: F32
    """(H, W) distance to the outline of the cell or of the background, pixels."""
    cells: F64
    """(n, 3): y, x and depth of each cell's deepest pixel."""
    diameter_px: float
    """Intended median diameter, pixels."""
    walls: F32 | None = field(default=None)
    """(H, W) share of each pixel that structures such as channel walls or posts cover."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Size of the field (height, width), pixels."""
        return self.labels.shape[0], self.labels.shape[1]

    @property
    def count(self) -> int:
        """Number of cells."""
        return len(self.cells)

    @property
    def inside(self) -> NDArray[np.bool_]:
        """(H, W) bool, True at cells."""
        return self.labels > 0

    def per_cell(self, values: NDArray[np.floating], background: float = 0.0) -> F32:
        """Return an (H, W) map of one value per cell."""
        table = np.concatenate(([background], values)).astype(np.float32)
        return table[self.labels]


def blob(centre_yx: tuple[float, float], radii: F64, size_hw: tuple[int, int]) -> Stamp | None:
    """Return a star-shaped cell; None if it lies outside the field."""
    cy, cx = centre_yx
    reach = float(radii.max())
    window = _window(cy - reach, cx - reach, cy + reach, cx + reach, size_hw)
    if window is None:
        return None
    origin, size = window
    return Stamp(kernels.blob_distance((float(cy), float(cx)), radii, origin, size), *origin)


def stroke(starts: F64, ends: F64, blend_px: float, size_hw: tuple[int, int]) -> Stamp | None:
    """Return a union of tapered capsules, (N, 3) y, x, radius at both ends; None if it lies outside the field."""
    both = np.concatenate((starts, ends))
    low_y, low_x = (both[:, :2] - both[:, 2:]).min(axis=0) - blend_px / 4
    high_y, high_x = (both[:, :2] + both[:, 2:]).max(axis=0) + blend_px / 4
    window = _window(low_y, low_x, high_y, high_x, size_hw)
    if window is None:
        return None
    origin, size = window
    return Stamp(kernels.stroke_distance(starts, ends, float(blend_px), origin, size), *origin)


def roughened(stamp: Stamp | None, relief: F32) -> Stamp | None:
    """Displace the outline of a shape by a relief of the whole field, (H, W) pixels, and keep one part."""
    if stamp is None:
        return None
    height, width = stamp.distance.shape
    window = relief[stamp.y0 : stamp.y0 + height, stamp.x0 : stamp.x0 + width]
    distance = stamp.distance + window
    inside = distance > 0
    y, x = divmod(int(distance.argmax()), width)
    if inside[y, x]:
        distance[inside & ~kernels.main_part(inside, y, x)] = -kernels.FAR_PX
    return Stamp(distance, stamp.y0, stamp.x0)


def _window(
    low_y: float, low_x: float, high_y: float, high_x: float, size_hw: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    top, left = max(0, int(low_y) - kernels.FAR_PX), max(0, int(low_x) - kernels.FAR_PX)
    bottom = min(size_hw[0], int(high_y) + kernels.FAR_PX + 2)
    right = min(size_hw[1], int(high_x) + kernels.FAR_PX + 2)
    return ((top, left), (bottom - top, right - left)) if bottom > top and right > left else None


class Canvas:
    """Field that is filled cell by cell; new cells go under existing ones, so existing cells never change."""

    def __init__(self, size_hw: tuple[int, int]) -> None:
        self.size_hw = size_hw
        self.labels: I32 = np.zeros(size_hw, np.int32)
        self.thickness: F32 = np.zeros(size_hw, np.float32)
        self.count = 0

    def taken(self, y: float, x: float) -> bool:
        """Return whether a position is taken, False outside the field; cheaper than a stamp that is not placed."""
        inside = 0 <= y < self.size_hw[0] and 0 <= x < self.size_hw[1]
        return inside and bool(self.labels[int(y), int(x)])

    def add(
        self, stamp: Stamp | None, *, height: float = 1.0, edge: float = 1.0, gap_px: float = 1.0, hidden: float = 0.0
    ) -> bool:
        """Place a cell if there is room.

        Args:
            stamp: shape of the cell; None is not placed.
            height: thickness at its centre.
            edge: share of its largest depth over which the thickness rises: 1 gives a lens, less a pancake.
            gap_px: smallest distance to other cells, at most ``kernels.FAR_PX``.
            hidden: largest share that may lie under other cells; the visible rest must be one part.

        Returns:
            True if the cell was placed.
        """
        if stamp is None:
            return False
        distance, y0, x0 = stamp.distance, stamp.y0, stamp.x0
        inside, taken, near = kernels.overlap(self.labels, distance, y0, x0, gap_px)
        if inside - taken < LEAST_PX or taken > hidden * inside or (near and not hidden):
            return False
        if not self._shows_as_one(stamp):
            return False
        self.count += 1
        reach = max(edge * float(distance.max()), 1.0)
        kernels.paint(self.labels, self.thickness, distance, y0, x0, self.count, height, reach)
        return True

    def _shows_as_one(self, stamp: Stamp) -> bool:
        height, width = stamp.distance.shape
        free = self.labels[stamp.y0 : stamp.y0 + height, stamp.x0 : stamp.x0 + width] == 0
        shown = (stamp.distance > 0) & free
        y, x = divmod(int(shown.argmax()), width)
        return np.array_equal(kernels.main_part(shown, y, x), shown)

    def scene(self, diameter_px: float, walls: F32 | None = None) -> Scene:
        """Return the field in its current state."""
        return scene_of(self.labels, self.thickness, diameter_px, walls)


def scene_of(labels: I32, thickness: F32, diameter_px: float, walls: F32 | None = None) -> Scene:
    """Build a scene from dense labels, with depths and centres."""
    depth = kernels.inner_distance(labels)
    cells = kernels.deepest(labels, depth, int(labels.max(initial=0)))
    return Scene(labels=labels, thickness=thickness, depth=depth, cells=cells, diameter_px=diameter_px, walls=walls)
