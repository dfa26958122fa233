"""Pure functions on arrays: contrast, tile positions, padding, label filtering.

Source: CellSAM (Israel et al. 2023), Appendix A.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.ops.preprocess import normalize_contrast
from runtime.types import F32, I32
from training.data.errors import DataError

TILE_PX = 512
OVERLAP = 0.25  # share of a tile's side


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile of a field."""

    image: F32
    """(3, 512, 512) in [0, 1]: blank, nuclear, whole-cell."""
    labels: I32
    """(512, 512), 0 background, 1..n."""
    y0: int
    x0: int
    """Upper left corner in the field, pixels."""
    height: int
    width: int
    """Size of the image in the tile without padding, pixels."""


def tile_starts(length_px: int) -> list[int]:
    """Return the first pixels of the tiles along one axis, with 25 % overlap; the last tile may need padding.

    Args:
        length_px: size of the field along the axis, at least 1.

    Returns:
        Ascending starts; [0] for a field that fits into one tile.
    """
    stride = round(TILE_PX * (1 - OVERLAP))
    count = 1 + max(0, -(-(length_px - TILE_PX) // stride))
    return [index * stride for index in range(count)]


def crop_padded(array: NDArray[Any], y0: int, x0: int) -> NDArray[Any]:
    """Cut (..., 512, 512) out of (..., H, W) as a copy; pixels outside the field are 0."""
    crop = array[..., y0 : y0 + TILE_PX, x0 : x0 + TILE_PX]
    out = np.zeros((*array.shape[:-2], TILE_PX, TILE_PX), array.dtype)
    out[..., : crop.shape[-2], : crop.shape[-1]] = crop
    return out


def dense_labels(labels: NDArray[Any]) -> I32:
    """Renumber (H, W) non-negative integer labels to 1..n in ascending order of their ids; 0 stays 0."""
    if labels.max(initial=0) > 4 * labels.size:  # a lookup table would be larger than the image
        ids, inverse = np.unique(labels, return_inverse=True)
        present, position = ids != 0, inverse.reshape(labels.shape)
    else:
        present, position = np.bincount(labels.ravel().astype(np.intp), minlength=1) > 0, labels
        present[0] = False
    out: I32 = (np.cumsum(present) * present).astype(np.int32)[position]
    return out


def filter_labels(labels: NDArray[Any]) -> I32:
    """Remove invalid labels: those in several disjoint parts, and those 1 px high or wide.

    Parts that touch at a corner count as one.

    Args:
        labels: (H, W) integers, 0 background.

    Returns:
        (H, W) int32, the valid labels renumbered 1..n in ascending order of their ids.
    """
    from scipy.ndimage import find_objects
    from skimage.measure import label

    dense = dense_labels(labels)
    count = int(dense.max(initial=0))
    if count == 0:
        return dense
    parts, part_count = label(dense, background=0, connectivity=2, return_num=True)  # type: ignore[no-untyped-call]
    owner = np.zeros(part_count + 1, np.int32)
    owner[parts] = dense
    valid = np.bincount(owner[1:], minlength=count + 1) == 1
    for index, box in enumerate(find_objects(dense), start=1):
        valid[index] &= all(side.stop - side.start > 1 for side in box)
    valid[0] = False
    return dense_labels(np.where(valid[dense], dense, 0))


def normalize_field(channels: NDArray[Any]) -> F32:
    """Normalise the contrast of a whole field as the runtime does, so that training and inference see the same.

    Args:
        channels: (H, W), (H, W, 2) or (H, W, 3), right-aligned into (blank, nuclear, whole-cell).

    Returns:
        (3, H, W) float32 in [0, 1].

    Raises:
        InputError: the array is not an image (``runtime.ops.preprocess.check_image``).
        DataError: every channel is constant.
    """
    normalized = np.ascontiguousarray(np.moveaxis(normalize_contrast(channels), -1, 0))
    if not normalized.any():
        raise DataError("every channel of the image is constant; expected an image with contrast. Copy the file again.")
    return normalized


def rescale_field(channels: NDArray[Any], labels: NDArray[Any], scale: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Resize channels (H, W[, C]) with bicubic and labels (H, W) with nearest interpolation; ids are kept."""
    from skimage.transform import rescale

    axis = None if channels.ndim == 2 else -1
    image = rescale(channels, scale, order=3, preserve_range=True, channel_axis=axis)
    nearest = rescale(dense_labels(labels), scale, order=0, preserve_range=True, anti_aliasing=False)
    return image, nearest.astype(np.int32)


def cut_field(channels: NDArray[Any], labels: NDArray[Any], scale: float = 1.0) -> list[Tile]:
    """Cut a field into tiles of the common format.

    Labels are filtered twice: in the field, because a disjoint label is an annotation error, and in each tile, because
    its edge can leave slivers and pieces. Tiles without labels are dropped.

    Args:
        channels: as in ``normalize_field``.
        labels: (H, W) integers, 0 background.
        scale: resize factor, applied first.

    Returns:
        Tiles in row order; empty if the field has no valid label.

    Raises:
        InputError, DataError: as in ``normalize_field``, or channels and labels differ in size.
    """
    if channels.shape[:2] != labels.shape:
        raise DataError(
            f"image has size {channels.shape[:2]} and labels {labels.shape}; expected the same height and width. "
            "Check that the files belong together.",
            kind="wrong_shape",
        )
    if scale != 1.0:
        channels, labels = rescale_field(channels, labels, scale)
    labels = filter_labels(labels)
    if not labels.any():
        return []
    image = normalize_field(channels)
    height, width = labels.shape
    tiles = []
    for y0 in tile_starts(height):
        for x0 in tile_starts(width):
            tile_labels = filter_labels(crop_padded(labels, y0, x0))
            if tile_labels.any():
                size = min(TILE_PX, height - y0), min(TILE_PX, width - x0)
                tiles.append(Tile(crop_padded(image, y0, x0), tile_labels, y0, x0, *size))
    return tiles
