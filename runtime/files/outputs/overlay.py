"""Pictures of a segmentation: the image with every cell outlined."""

from __future__ import annotations

import colorsys
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime.errors import InputError
from runtime.files.outputs.shrink import shrink_factor, shrunk
from runtime.files.placing import write_whole
from runtime.ops.preprocess import check_image
from runtime.types import F32, U8, Extent

SHOWN_PERCENTILES = (0.5, 99.8)
"""Range of a channel's values that is shown from black to white."""
FILL_OPACITY = 0.15
_GOLDEN_RATIO = 0.618034
_COLOURS = 64
_LEAST_SIDE = 512
"""Smaller images are enlarged by a whole factor, so that outlines do not hide the cells."""

_Image = NDArray[np.generic]


def draw_overlay(image: ArrayLike, labels: NDArray[np.integer]) -> U8:
    """Draw the cells' outlines over an image, each cell in a colour of its own.

    Args:
        image: (H, W) or (H, W, C <= 3), real. Gray stays gray; two channels are shown as green (first) and magenta
            (second); three as red, green and blue: as they are if they have 8 bits.
        labels: (H, W), 0 background.

    Returns:
        (k H, k W, 3) uint8, k a whole number that brings small images to about 512 pixels; images of more than
        ``LARGEST_SIDE_PX`` pixels a side are shrunk by a whole factor instead.

    Raises:
        InputError: an image that cannot be used, or labels of another size.
    """
    from skimage.segmentation import find_boundaries

    checked = check_image(image)
    if labels.shape != checked.shape[:2]:
        raise InputError(
            f"labels have shape {labels.shape}; expected {checked.shape[:2]}, as the image.",
            kind="wrong_shape",
            field="labels",
        )
    checked, labels = _fitted(checked, labels)
    factor = max(1, round(_LEAST_SIDE / max(labels.shape)))
    picture = np.kron(_shown(checked), np.ones((factor, factor, 1), np.float32))
    large = np.kron(labels, np.ones((factor, factor), labels.dtype))
    colours = _palette()[large % _COLOURS]
    inside = large > 0
    outline = find_boundaries(large, mode="inner")  # type: ignore[no-untyped-call]
    picture[inside] = (1 - FILL_OPACITY) * picture[inside] + FILL_OPACITY * colours[inside]
    picture[outline] = colours[outline]
    drawn: U8 = (picture * 255).round().astype(np.uint8)
    return drawn


def write_overlay(path: Path, image: ArrayLike, labels: NDArray[np.integer]) -> None:
    """Write ``draw_overlay`` as PNG; the file appears whole."""
    from PIL import Image

    drawn = Image.fromarray(draw_overlay(image, labels))
    write_whole(path, lambda temporary: drawn.save(temporary, format="PNG", optimize=True))


def _fitted(image: _Image, labels: NDArray[np.integer]) -> tuple[_Image, NDArray[np.integer]]:
    """Shrink an (H, W, C) image and its labels to at most ``LARGEST_SIDE_PX`` a side; labels cannot be averaged."""
    height, width, channels = image.shape
    factor = shrink_factor((height, width))
    if factor == 1:
        return image, labels

    def read(extent: Extent) -> _Image:
        top, left, bottom, right = extent
        return image[top:bottom, left:right]

    return shrunk(read, (height, width, channels), image.dtype, factor), labels[::factor, ::factor]


def _shown(image: NDArray[np.generic]) -> F32:
    """(H, W, C) to (H, W, 3) in [0, 1]; each channel is stretched, but for pictures in colour."""
    if image.shape[2] == 3 and image.dtype == np.uint8:
        colours: F32 = image.astype(np.float32) / np.float32(255)
        return colours
    planes = [_stretched(image[..., channel]) for channel in range(image.shape[2])]
    if len(planes) == 1:
        planes = planes * 3
    elif len(planes) == 2:
        planes = [planes[1], planes[0], planes[1]]
    return np.stack(planes, -1)


def _stretched(plane: NDArray[np.generic]) -> F32:
    values = plane.astype(np.float64)
    low, high = np.percentile(values, SHOWN_PERCENTILES)
    if high <= low:
        low, high = values.min(), max(values.max(), values.min() + 1)
    stretched: F32 = np.clip((values - low) / (high - low), 0, 1).astype(np.float32)
    return stretched


def _palette() -> F32:
    """Bright colours, neighbours far apart in hue."""
    hues = (np.arange(_COLOURS) * _GOLDEN_RATIO) % 1.0
    return np.array([colorsys.hsv_to_rgb(hue, 0.75, 1.0) for hue in hues], np.float32)
