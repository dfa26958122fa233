"""Square tiles that cover an image. Pure functions on arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from runtime.errors import InputError
from runtime.types import F32

OVERLAP_DIAMETERS = 2.5
"""Overlap of neighbouring tiles in median cell diameters: most cells are whole in one of them."""

STRETCH = 0.15
"""A tile may be larger by this share where that saves a row or column of tiles."""

LARGEST_SCALE = 4.0
"""Images are not enlarged by more than this: there is nothing more to see."""

SMALLEST_VIEW_PX = 1.0
"""An image whose longer side would take up fewer pixels of the model input cannot be segmented at that scale."""


class Tile(NamedTuple):
    """A square part of an image, as far as it lies in the image."""

    pixels: F32
    """(h, w, C), part of the image's memory."""
    side: int
    """Side of the square, pixels, h and w at least; what of it lies beyond the image counts as 0."""
    origin_yx: tuple[int, int] = (0, 0)
    """Image pixel of the first pixel."""

    @property
    def frame_hw(self) -> tuple[int, int]:
        """Size of the square."""
        return self.side, self.side


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


def tile_counts(size_hw: tuple[int, int], side: float, overlap: float) -> tuple[int, int]:
    """Rows and columns of tiles in ``tile_grid``."""
    rows, columns = (max(1, math.ceil((length - overlap) / (side * (1 + STRETCH) - overlap))) for length in size_hw)
    return rows, columns


def tile_grid(size_hw: tuple[int, int], side: float, overlap: float) -> TileGrid:
    """Spread tiles evenly over an image.

    Args:
        size_hw: the image.
        side: wanted side of the tiles, pixels; they may be up to ``STRETCH`` larger.
        overlap: least overlap of neighbours, pixels, below ``side``.
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
    """Wanted side and least overlap, pixels, of tiles in which cells have the wanted diameter.

    Args:
        size_hw: the image.
        diameter_px: median cell diameter, image pixels.
        model_size: side of the model input, pixels.
        view_diameter_px: wanted median cell diameter, model pixels.

    Raises:
        InputError: the image would be shown too small for anything to be seen.
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
    """The tiles of ``tiles_at_scale``, whose arguments and errors these are."""
    return tile_grid(size_hw, *tiles_at_scale(size_hw, diameter_px, model_size, view_diameter_px))


def cut_tile(image: F32, origin_yx: tuple[int, int], side: int) -> Tile:
    """The square part of an (H, W, C) image from ``origin_yx`` on."""
    y, x = origin_yx
    return Tile(image[y : y + side, x : x + side], side, origin_yx)
