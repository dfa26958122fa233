"""Square tiles that cover an image. Pure functions on arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from runtime.types import F32

OVERLAP_DIAMETERS = 2.5
"""Overlap of neighbouring tiles in median cell diameters: most cells are whole in one of them."""

STRETCH = 0.15
"""A tile may be larger by this share where that saves a row or column of tiles."""

LARGEST_SCALE = 4.0
"""Images are not enlarged by more than this: there is nothing more to see."""


@dataclass(frozen=True, slots=True)
class TileGrid:
    """Square tiles of one side that cover an image; rows of tiles from top to bottom."""

    size_hw: tuple[int, int]
    """The image."""
    side: int
    """Of every tile, pixels; a tile may reach beyond an image that is smaller."""
    tops: tuple[int, ...]
    lefts: tuple[int, ...]

    @property
    def origins(self) -> tuple[tuple[int, int], ...]:
        """First pixel (y, x) of every tile."""
        return tuple((top, left) for top in self.tops for left in self.lefts)

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)


def tile_grid(size_hw: tuple[int, int], side: float, overlap: float) -> TileGrid:
    """Spread tiles evenly over an image.

    Args:
        size_hw: the image.
        side: wanted side of the tiles, pixels; they may be up to ``STRETCH`` larger.
        overlap: least overlap of neighbours, pixels, below ``side``.
    """
    counts = [max(1, math.ceil((length - overlap) / (side * (1 + STRETCH) - overlap))) for length in size_hw]
    needed = [(length + (count - 1) * overlap) / count for length, count in zip(size_hw, counts, strict=True)]
    whole_side = math.ceil(max(side, *needed))
    tops, lefts = (
        tuple(round(first) for first in np.linspace(0, max(0, length - whole_side), count).tolist())
        for length, count in zip(size_hw, counts, strict=True)
    )
    return TileGrid(size_hw, whole_side, tops, lefts)


def grid_at_scale(size_hw: tuple[int, int], diameter_px: float, model_size: int, view_diameter_px: float) -> TileGrid:
    """Tiles in which cells have the wanted diameter.

    Args:
        size_hw: the image.
        diameter_px: median cell diameter, image pixels.
        model_size: side of the model input, pixels.
        view_diameter_px: wanted median cell diameter, model pixels.
    """
    side = max(model_size * diameter_px / view_diameter_px, model_size / LARGEST_SCALE)
    return tile_grid(size_hw, side, min(OVERLAP_DIAMETERS * diameter_px, side / 2))


def cut_tile(image: F32, origin_yx: tuple[int, int], side: int) -> F32:
    """The (side, side, C) part of an (H, W, C) image from ``origin_yx`` on; what lies beyond the image is 0."""
    y, x = origin_yx
    part = image[y : y + side, x : x + side]
    missing = (side - part.shape[0], side - part.shape[1])
    if any(missing):
        part = np.pad(part, ((0, missing[0]), (0, missing[1]), (0, 0)))
    return part
