"""Pictures of a segmentation: the image with outlined cells."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime.errors import InputError
from runtime.files.outputs.shrink import shrink_factor, shrunk
from runtime.files.placing import write_whole
from runtime.files.plain import png_text
from runtime.ops.preprocess import check_image
from runtime.provenance import Provenance
from runtime.types import F32, U8, Extent

SHOWN_PERCENTILES = (0.5, 99.8)
"""Percentiles of a channel that are shown as black and white."""
FILL_OPACITY = 0.15
_GOLDEN_RATIO = 0.618034
_COLOURS = 64
_LEAST_SIDE = 512
"""Smaller images are enlarged by an integer factor, so that outlines do not hide the cells."""

_Image = NDArray[np.generic]


def draw_overlay(image: ArrayLike, labels: NDArray[np.integer]) -> U8:
    """Draw the outlines of cells over an image, in different colours.

    Args:
        image: (H, W) or (H, W, C <= 3), real. Gray stays gray. Two channels are shown as green (first) and magenta
            (second), three as red, green and blue. All channels are stretched, except 8-bit colours.
        labels: (H, W), 0 background.

    Returns:
        (k H, k W, 3) uint8, with an integer k that enlarges small images to about 512 pixels. Images of more than
        ``LARGEST_SIDE_PX`` pixels a side are shrunk by an integer factor instead.

    Raises:
        InputError: the image cannot be used, or the labels have another size.
    """
    from skimage.segmentation import find_boundaries

    checked = check_image(image)
    if labels.shape != checked.shape[:2]:
        raise InputError(
            f"labels have shape {labels.shape}; expected {checked.shape[:2]}, the size of the image. Pass the labels "
            "of this image.",
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


def write_overlay(
    path: Path, image: ArrayLike, labels: NDArray[np.integer], provenance: Sequence[Provenance] = ()
) -> None:
    """Write ``draw_overlay`` as PNG, atomically, with the provenance of the labels as text."""
    from PIL import Image

    drawn, text = Image.fromarray(draw_overlay(image, labels)), png_text(provenance)
    write_whole(path, lambda temporary: drawn.save(temporary, format="PNG", optimize=True, pnginfo=text))


def _fitted(image: _Image, labels: NDArray[np.integer]) -> tuple[_Image, NDArray[np.integer]]:
    """Shrink an (H, W, C) image by averaging, and its labels by sampling, to at most ``LARGEST_SIDE_PX`` a side."""
    height, width, channels = image.shape
    factor = shrink_factor((height, width))
    if factor == 1:
        return image, labels

    def read(extent: Extent) -> _Image:
        top, left, bottom, right = extent
        return image[top:bottom, left:right]

    return shrunk(read, (height, width, channels), image.dtype, factor), labels[::factor, ::factor]


def _shown(image: NDArray[np.generic]) -> F32:
    """Convert (H, W, C) to (H, W, 3) in [0, 1]; stretch each channel, except in colour pictures."""
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
    """Return bright colours, with consecutive ones far apart in hue."""
    hues = (np.arange(_COLOURS) * _GOLDEN_RATIO) % 1.0
    return np.array([colorsys.hsv_to_rgb(hue, 0.75, 1.0) for hue in hues], np.float32)
