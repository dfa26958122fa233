"""Deep Zoom pyramids, which OpenSeadragon reads. Pure functions on sizes and arrays.

Level n has the full size, level n - 1 half of it, rounded up, and so on down to level 0 with one pixel. Tiles have
``TILE_PX`` pixels a side, less at the right and bottom edge, and do not overlap.

Source: Microsoft, "Deep Zoom File Format Overview"; openseadragon/openseadragon ``src/dzitilesource.js``, which keeps
the query of the descriptor's address in the addresses of the tiles.
"""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.files.outputs.pyramid import level_shape
from runtime.types import Extent

TILE_PX = 256
"""Side of a tile, pixels."""


def descriptor(size_hw: tuple[int, int]) -> str:
    """Return the XML descriptor of a pyramid."""
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" Format="png" Overlap="0" TileSize="{TILE_PX}">'
        f'<Size Width="{size_hw[1]}" Height="{size_hw[0]}"/></Image>\n'
    )


def highest_level(size_hw: tuple[int, int]) -> int:
    """Return the number of the level with the full size."""
    return (max(size_hw) - 1).bit_length()


def tile_extent(size_hw: tuple[int, int], level: int, column: int, row: int) -> tuple[int, Extent]:
    """Locate a tile.

    Args:
        size_hw: size of the image.
        level: level of the pyramid.
        column, row: position of the tile in its level.

    Returns:
        How many times the level is halved, and the tile's extent in pixels of the level.

    Raises:
        InputError: there is no such tile.
    """
    halved = highest_level(size_hw) - level
    if halved >= 0:
        height, width = level_shape(size_hw, halved)
        top, left = row * TILE_PX, column * TILE_PX
        if 0 <= top < height and 0 <= left < width and level >= 0:
            return halved, (top, left, min(top + TILE_PX, height), min(left + TILE_PX, width))
    raise InputError(
        f"tile {column}_{row} of level {level} does not exist; expected one of an image of {size_hw[1]} x "
        f"{size_hw[0]} pixels. Read the descriptor.",
        kind="not_found",
        field="tile",
    )


def halve(plane: NDArray[np.generic]) -> NDArray[np.generic]:
    """Average squares of 2 x 2 pixels of (H, W), in the plane's dtype; the last row or column may be alone."""
    padded = np.pad(plane, [(0, length % 2) for length in plane.shape], mode="edge")
    kind = plane.dtype
    wide = np.float32 if kind.itemsize <= 2 else np.float64
    corners = np.stack([padded[y::2, x::2] for y in (0, 1) for x in (0, 1)])
    mean = corners.mean(axis=0, dtype=wide)
    if kind.kind in "ui":
        mean = np.rint(mean)
    halved: NDArray[np.generic] = (mean >= 0.5 if kind.kind == "b" else mean).astype(kind)
    return halved


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Write (h, w), (h, w, 3) or (h, w, 4) as PNG, quickly rather than small."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
