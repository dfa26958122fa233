"""Parts of image layers that are segmented: the plane on show, or a rectangle of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.types import Extent

COLOURS = 3
"""Channels of a colour image; a fourth, opacity, is left out."""


@dataclass(frozen=True, slots=True)
class Plane:
    """Position of a plane of a layer."""

    index: tuple[int, ...]
    """Position on the leading axes of a stack; empty if the layer is a plane."""
    size_hw: tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class ImagePart:
    """A rectangle of the plane on show. Its pixels are read on demand, possibly from disk."""

    layers: tuple[Any, ...]
    """Data of the image layer, or of the nuclei and the image: arrays, possibly lazy."""
    rgb: bool
    """The last axis of the only layer is that of the colours."""
    plane: Plane
    extent: Extent
    """The rectangle, pixels of the plane."""

    @property
    def is_whole(self) -> bool:
        """Return whether the rectangle is the whole plane."""
        return self.extent == (0, 0, *self.plane.size_hw)

    def is_same(self, other: ImagePart | None) -> bool:
        """Return whether another part has the same pixels; arrays are compared by identity."""
        return (
            other is not None
            and len(self.layers) == len(other.layers)
            and all(mine is theirs for mine, theirs in zip(self.layers, other.layers, strict=True))
            and (self.rgb, self.plane, self.extent) == (other.rgb, other.plane, other.extent)
        )

    def read(self) -> NDArray[Any]:
        """Read the pixels, (h, w), (h, w, 2) with the nuclei first, or (h, w, 3)."""
        top, left, bottom, right = self.extent
        window = (*self.plane.index, slice(top, bottom), slice(left, right))
        planes = [np.asarray(data[window]) for data in self.layers]
        if len(planes) == 1:
            return planes[0][..., :COLOURS] if self.rgb else planes[0]
        return np.stack(planes, axis=-1)


def part_of(
    image: Any, nuclei: Any | None, point: Sequence[float], extent: tuple[float, float, float, float] | None = None
) -> ImagePart:
    """Choose a part of an image layer.

    Args:
        image: the image layer of napari.
        nuclei: an image layer with the nuclei, of the same shape; None if there is none.
        point: position of the viewer, data coordinates of the image layer.
        extent: top, left, bottom and right of the part, data coordinates; None for the whole plane.

    Raises:
        InputError: the layers have different shapes, the nuclei are in colour, or the extent is outside the image.
    """
    plane = plane_of(image, point)
    layers: tuple[Any, ...] = (image,)
    if nuclei is not None and nuclei is not image:
        layers = (nuclei, image)
        if image.rgb or nuclei.rgb or _full(nuclei).shape != _full(image).shape:
            raise InputError(
                f"layer {nuclei.name!r} has shape {_full(nuclei).shape} and layer {image.name!r} {_full(image).shape}; "
                "expected two layers of one channel and the same shape. Choose other nuclei, or none.",
                kind="wrong_shape",
                field="nuclei",
            )
    chosen = (0, 0, *plane.size_hw) if extent is None else _clipped(extent, plane.size_hw)
    return ImagePart(tuple(_full(layer) for layer in layers), bool(image.rgb), plane, chosen)


def plane_of(layer: Any, point: Sequence[float]) -> Plane:
    """Return the plane of an image layer at a position.

    Args:
        layer: the image layer.
        point: data coordinates; those of the last two axes are not used.
    """
    shape = tuple(int(length) for length in _full(layer).shape)
    lengths = shape[:-1] if layer.rgb else shape
    index = tuple(
        min(max(round(float(place)), 0), length - 1) for place, length in zip(point, lengths[:-2], strict=False)
    )
    return Plane(index, (lengths[-2], lengths[-1]))


def _full(layer: Any) -> Any:
    """Return the data of a layer in full resolution."""
    return layer.data[0] if layer.multiscale else layer.data


def centred(extent: Extent, most_px: int) -> Extent:
    """Shorten the sides of an extent to a maximum, around its centre."""
    (top, bottom), (left, right) = (_shortened(extent[axis], extent[axis + 2], most_px) for axis in (0, 1))
    return top, left, bottom, right


def _shortened(start: int, stop: int, most_px: int) -> tuple[int, int]:
    start += max(0, stop - start - most_px) // 2
    return start, min(stop, start + most_px)


def _clipped(extent: tuple[float, float, float, float], size_hw: tuple[int, int]) -> Extent:
    """Round an extent outwards and clip it to the image.

    Raises:
        InputError: nothing is left.
    """
    lows = [max(0, int(np.floor(extent[axis]))) for axis in (0, 1)]
    highs = [min(size_hw[axis], int(np.ceil(extent[axis + 2]))) for axis in (0, 1)]
    if lows[0] >= highs[0] or lows[1] >= highs[1]:
        raise InputError(
            f"the chosen region is outside the image of {size_hw[0]} x {size_hw[1]} pixels; expected a rectangle in "
            "it. Draw the rectangle over the image, or choose the whole image.",
            kind="out_of_range",
            field="region",
        )
    return lows[0], lows[1], highs[0], highs[1]
