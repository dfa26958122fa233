"""Square tiles that cover an image. Pure functions on arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from runtime.errors import InputError
from runtime.types import F32

OVERLAP_DIAMETERS = 2.5
"""Overlap of neighbouring tiles in median cell diameters, so that most cells lie whole in one tile."""

STRETCH = 0.15
"""Tiles may be larger by this share if that saves a row or column of tiles."""

LARGEST_SCALE = 4.0
"""Largest magnification of an image; beyond it, no more detail becomes visible."""

SMALLEST_VIEW_PX = 1.0
"""An image cannot be segmented at a scale at which its longer side covers fewer pixels of the model input."""


class Tile(NamedTuple):
    """A square part of an image, clipped to the image."""

    pixels: F32
    """(h, w, C), a view of the image's memory."""
    side: int
    """Side of the square in pixels, at least h and w; pixels beyond the image count as 0."""
    origin_yx: tuple[int, int] = (0, 0)
    """Position of the first pixel in the image."""

    @property
    def frame_hw(self) -> tuple[int, int]:
        """Size of the square (height, width), in pixels."""
        return self.side, self.side


@dataclass(frozen=True, slots=True)
class TileGrid:
    """Square tiles of equal side that cover an image, in rows from top to bottom."""

    size_hw: tuple[int, int]
    """Size of the image (height, width), in pixels."""
    side: int
    """Side of each tile, in pixels; a tile may extend beyond a smaller image."""
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    @property
    def origins(self) -> tuple[tuple[int, int], ...]:
        """First pixel (y, x) of each tile."""
        return tuple((top, left) for top in self.tops for left in self.lefts)

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)


def tile_counts(size_hw: tuple[int, int], side: float, overlap: float) -> tuple[int, int]:
    """Count the rows and columns of tiles in ``tile_grid``."""
    rows, columns = (max(1, math.ceil((length - overlap) / (side * (1 + STRETCH) - overlap))) for length in size_hw)
    return rows, columns


def tile_grid(size_hw: tuple[int, int], side: float, overlap: float) -> TileGrid:
    """Distribute tiles evenly over an image.

    Args:
        size_hw: size of the image.
        side: wanted side of the tiles, in pixels; they may be up to ``STRETCH`` larger.
        overlap: smallest overlap of neighbours, in pixels, below ``side``.
    """
    counts = tile_counts(size_hw, side, overlap)
    needed = [(length + (count - 1) * overlap) / count for length, count in zip(size_hw, counts, strict=True)]
    whole_side = math.ceil(max(side, *needed))
    tops, lefts = (
        tuple(round(first) for first in np.linspace(0, max(0, length - whole_side), count).tolist())
        for length, count in zip(size_hw, counts, strict=True)
    )
    return TileGrid(size_hw, whole_side, tops, lefts)


def tiles_at_scale(
    size_hw: tuple[int, int], diameter_px: float, model_size: int, view_diameter_px: float
) -> tuple[float, float]:
    """Compute the wanted side and smallest overlap, in pixels, of tiles that show cells at the wanted diameter.

    Args:
        size_hw: size of the image.
        diameter_px: median cell diameter, in image pixels.
        model_size: side of the model input, in pixels.
        view_diameter_px: wanted median cell diameter, in model pixels.

    Raises:
        InputError: at this scale the image would be too small to segment.
    """
    side = max(model_size * diameter_px / view_diameter_px, model_size / LARGEST_SCALE)
    if max(size_hw) * model_size < SMALLEST_VIEW_PX * side:
        raise InputError(
            f"diameter_px is {diameter_px:g}, far more than the {size_hw[0]} x {size_hw[1]} pixels of the image; "
            "expected the median diameter of its cells in image pixels.",
            kind="out_of_range",
            field="diameter_px",
        )
    return side, min(OVERLAP_DIAMETERS * diameter_px, side / 2)


def grid_at_scale(size_hw: tuple[int, int], diameter_px: float, model_size: int, view_diameter_px: float) -> TileGrid:
    """Build the grid for ``tiles_at_scale``, with the same arguments and errors."""
    return tile_grid(size_hw, *tiles_at_scale(size_hw, diameter_px, model_size, view_diameter_px))


def cut_tile(image: F32, origin_yx: tuple[int, int], side: int) -> Tile:
    """Cut the square part of an (H, W, C) image that begins at ``origin_yx``."""
    y, x = origin_yx
    return Tile(image[y : y + side, x : x + side], side, origin_yx)
