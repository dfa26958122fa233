"""Conversion of mask logits to a label map: upsampling, overlaps, holes, small objects, numbering. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from runtime.config import SegmentConfig
from runtime.ops.compiled import looked_up
from runtime.ops.mask_kernels import (
    ResizeAxis,
    areas_of,
    beside_holes,
    clean_cells,
    extents,
    paint_mask,
    paint_windows,
    window_pixels,
)
from runtime.types import F32, I32, I64, Bool

Axes = tuple[ResizeAxis, ResizeAxis]
"""Resizes along y and x."""


@dataclass(frozen=True, slots=True)
class MaskCrop:
    """Mask of one instance, cropped to its pixels."""

    mask: Bool
    """(h, w); (0, 0) if the mask has no pixels."""
    offset_yx: tuple[int, int]
    """Image pixel of ``mask[0, 0]``."""

    @property
    def area_px(self) -> int:
        """Number of pixels."""
        return int(np.count_nonzero(self.mask))

    def paste(self, size_hw: tuple[int, int]) -> Bool:
        """Paste the mask into an empty image of the given size, (H, W) bool."""
        full = np.zeros(size_hw, np.bool_)
        (y, x), (h, w) = self.offset_yx, self.mask.shape
        full[y : y + h, x : x + w] = self.mask
        return full

    def in_image(self, origin_yx: tuple[int, int], size_hw: tuple[int, int]) -> MaskCrop:
        """Convert the mask of a tile to a mask of the image.

        Args:
            origin_yx: position of the tile's first pixel in the image.
            size_hw: size of the image; pixels beyond it are cut off.
        """
        y, x = self.offset_yx[0] + origin_yx[0], self.offset_yx[1] + origin_yx[1]
        if y + self.mask.shape[0] <= size_hw[0] and x + self.mask.shape[1] <= size_hw[1]:
            return MaskCrop(self.mask, (y, x))
        return cut_to_pixels(self.mask[: max(0, size_hw[0] - y), : max(0, size_hw[1] - x)], (y, x))


def label_crops(labels: NDArray[np.integer]) -> tuple[MaskCrop, ...]:
    """Extract the cells of an (H, W) label map as crops, in ascending order of labels."""
    found = enumerate(ndimage.find_objects(labels), start=1)
    return tuple(
        MaskCrop(labels[box] == label, (box[0].start, box[1].start)) for label, box in found if box is not None
    )


def cut_to_pixels(mask: Bool, offset_yx: tuple[int, int]) -> MaskCrop:
    """Remove empty rows and columns at the edges of a mask (h, w); an empty mask becomes (0, 0)."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return MaskCrop(np.zeros((0, 0), np.bool_), offset_yx)
    inside = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return MaskCrop(inside, (offset_yx[0] + int(rows[0]), offset_yx[1] + int(columns[0])))


def join_masks(crops: Sequence[MaskCrop]) -> MaskCrop:
    """Compute the union of one or more masks of the same image."""
    if len(crops) == 1:
        return crops[0]
    crops = [crop for crop in crops if crop.mask.size] or crops[:1]
    tops, lefts = zip(*(crop.offset_yx for crop in crops), strict=True)
    top, left = min(tops), min(lefts)
    bottom = max(y + crop.mask.shape[0] for y, crop in zip(tops, crops, strict=True))
    right = max(x + crop.mask.shape[1] for x, crop in zip(lefts, crops, strict=True))
    union = np.zeros((bottom - top, right - left), np.bool_)
    for y, x, crop in zip(tops, lefts, crops, strict=True):
        height, width = crop.mask.shape
        union[y - top : y - top + height, x - left : x - left + width] |= crop.mask
    return MaskCrop(union, (top, left))


def resize_axis(logits: int, model: int, frame: int, shown: int | None = None) -> ResizeAxis:
    """Build the resize of SAM's post-processing, ``logits`` -> ``model`` -> ``frame`` pixels, along one axis.

    Both steps are bilinear with half-pixel centres and no antialiasing. They are linear, and so is their product.

    Args:
        logits, model, frame: lengths of the axis.
        shown: number of pixels to compute, from the first one of the frame; default, all.
    """
    shown = frame if shown is None else shown
    return (_kept_axis if shown <= _KEPT_PX else _make_axis)(logits, model, frame, shown)


_KEPT_PX = 1 << 14
"""Longer axes are not cached between images, to save memory."""

_BLOCK_PX = 1 << 16
"""Number of pixels of an axis that are computed together."""


def _make_axis(logits: int, model: int, frame: int, shown: int) -> ResizeAxis:
    blocks = [
        _axis_rows(logits, model, frame, np.arange(start, min(start + _BLOCK_PX, shown)))
        for start in range(0, shown, _BLOCK_PX)
    ]
    firsts, lasts, parts = zip(*blocks, strict=True)
    first, last = np.concatenate(firsts), np.concatenate(lasts)
    taps = np.zeros((shown, max(part.shape[1] for part in parts)), np.float32)
    for start, part in zip(range(0, shown, _BLOCK_PX), parts, strict=True):
        taps[start : start + len(part), : part.shape[1]] = part
    borders = np.arange(logits + 1)
    starts, stops = np.searchsorted(first, borders), np.searchsorted(last, borders)
    return ResizeAxis(taps=taps, first=first, last=last, starts=starts, stops=stops)


_kept_axis = lru_cache(maxsize=16)(_make_axis)


def _axis_rows(logits: int, model: int, frame: int, pixels: I64) -> tuple[I32, I32, F32]:
    """Return the first and last logit that each of the given pixels reads, and the weights from the first on."""
    matrix = (_bilinear(model, frame, pixels) @ _bilinear(logits, model, np.arange(model))).astype(np.float32).tocsr()
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    first, last = matrix.indices[matrix.indptr[:-1]], matrix.indices[matrix.indptr[1:] - 1]
    rows = np.repeat(np.arange(len(pixels)), np.diff(matrix.indptr))
    taps = np.zeros((len(pixels), int((last - first).max()) + 1), np.float32)
    taps[rows, matrix.indices - first[rows]] = matrix.data
    return first.astype(np.int32), last.astype(np.int32), taps


def _bilinear(size_in: int, size_out: int, pixels: I64) -> sparse.csr_array:
    """Build a bilinear interpolation with half-pixel centres, clamped at the edges, to some of ``size_out`` pixels.

    The matrix has shape (number of pixels, size_in).
    """
    position = np.maximum((pixels + 0.5) * (size_in / size_out) - 0.5, 0.0)
    low = np.minimum(position.astype(np.int64), size_in - 1)
    high = np.minimum(low + 1, size_in - 1)
    fraction = position - low
    rows = np.arange(len(pixels))
    entries = (np.concatenate((1.0 - fraction, fraction)), (np.tile(rows, 2), np.concatenate((low, high))))
    return sparse.csr_array(entries, shape=(len(pixels), size_in))  # entries at equal positions are summed


def upsample_window(
    logits: F32, origin_yx: tuple[int, int], axes: Axes, threshold: float = -np.inf
) -> tuple[F32, tuple[int, int]]:
    """Resize the logits of one window to image pixels.

    Args:
        logits: (h, w), mask logits of the window.
        origin_yx: position of its first logit in the whole map.
        axes: resizes along y and x.
        threshold: image pixels at the edge are left out if they read no logit above it, because a mean of logits
            cannot exceed it there.

    Returns:
        Logits at the image pixels that depend on this window alone, (H', W'), and the first such pixel (y, x).
    """
    pixels, y, x = window_pixels(logits, origin_yx, axes, float(np.float32(threshold)))
    return pixels, (y, x)


class Canvas(Protocol):
    """Collects the masks of one image and decides which of them owns each pixel: ``LabelCanvas`` on the CPU."""

    @property
    def owner(self) -> I32:
        """(H, W): index + 1 of the mask that owns each pixel; 0 without an owner."""

    def add_windows(self, indices: I64, windows: F32, origins: I64, axes: Axes) -> list[MaskCrop]:
        """Resize and paint the masks of several windows; see ``LabelCanvas``."""

    def add_windows_of_view(
        self, indices: I64, windows: F32, origins: I64, axes: Axes, offset_yx: tuple[int, int]
    ) -> Iterator[MaskCrop]:
        """Resize and paint the masks of several windows of a view; see ``LabelCanvas``."""


class LabelCanvas:
    """Collects the masks of one image and decides which of them owns each pixel.

    Masks may arrive in any order and grouping; the result depends only on their indices.
    """

    def __init__(self, size_hw: tuple[int, int], config: SegmentConfig) -> None:
        """Args: size_hw: size of the image. config: the mask threshold and the rule for overlaps."""
        self._threshold = float(np.float32(config.mask_threshold_logit))
        self._argmax = config.overlap == "argmax"
        self._owner = np.zeros(size_hw, np.int32)  # index + 1 of the owner, 0 = background
        self._best = np.full(size_hw if self._argmax else (0, 0), self._threshold, np.float32)

    @property
    def owner(self) -> I32:
        """(H, W): index + 1 of the mask that owns each pixel; 0 without an owner."""
        return self._owner

    def add(self, index: int, logits: F32, offset_yx: tuple[int, int]) -> MaskCrop:
        """Paint one mask.

        Args:
            index: index of the mask among the image's masks, from 0.
            logits: (h, w) at image pixels.
            offset_yx: image pixel of ``logits[0, 0]``.

        Returns:
            The thresholded mask, before overlaps are resolved.
        """
        settled = (self._threshold, self._argmax, self._owner, self._best)
        top, bottom, left, right = paint_mask(index + 1, logits, offset_yx, *settled)
        inside = logits[top:bottom, left:right] > np.float32(self._threshold)
        return MaskCrop(inside, (offset_yx[0] + top, offset_yx[1] + left))

    def add_windows(self, indices: I64, windows: F32, origins: I64, axes: Axes) -> list[MaskCrop]:
        """Resize and paint the masks of several windows.

        Args:
            indices: (K,), as in ``add``.
            windows: (K, h, w) mask logits.
            origins: (K, 2), first logit (y, x) of each window in the whole map.
            axes: resizes along y and x.

        Returns:
            The thresholded masks, before overlaps are resolved.
        """
        settled = (self._threshold, self._argmax, self._owner, self._best)
        offsets, masks = paint_windows(indices + 1, windows, origins, axes, *settled)
        return [MaskCrop(mask, (y, x)) for mask, (y, x) in zip(masks, offsets.tolist(), strict=True)]

    def add_windows_of_view(
        self, indices: I64, windows: F32, origins: I64, axes: Axes, offset_yx: tuple[int, int]
    ) -> Iterator[MaskCrop]:
        """Resize and paint the masks of several windows of a view, one after the other.

        Args:
            indices, windows, origins: as in ``add_windows``.
            axes: resizes along y and x, to the pixels of the view.
            offset_yx: image pixel of the view's first pixel.

        Yields:
            Each thresholded mask, in image pixels, before overlaps are resolved.
        """
        for index, logits, (y, x) in zip(indices.tolist(), windows, origins.tolist(), strict=True):
            pixels, (top, left) = upsample_window(logits, (y, x), axes, self._threshold)
            yield self.add(index, pixels, (offset_yx[0] + top, offset_yx[1] + left))


def finish_labels(owner: I32, count: int, config: SegmentConfig) -> tuple[I32, I32]:
    """Remove small cells, fill holes, and number the remaining cells 1..n.

    As in the released code, a cell's area is measured before its holes are filled, and cells are processed in the order
    of their indices.

    Args:
        owner: (H, W), index + 1 of the owner of each pixel.
        count: number of masks.
        config: smallest area, holes and the rule for overlaps.

    Returns:
        Labels (H, W), dense and in the order of the masks, and the label of each mask (count,), 0 for removed masks.
    """
    areas = areas_of(owner, count)
    areas[0] = 0
    present = areas > 0
    large = present & (areas >= config.min_area_px)
    ids = np.where(large, np.cumsum(large), 0).astype(np.int32)
    labels = looked_up(owner, ids)
    holed = np.zeros(count + 1, np.bool_)
    if config.fill_holes:
        # To absorb what lies in a hole, every cell is checked; to fill background, only cells next to enclosed pixels.
        holed = present if config.overlap == "last" else beside_holes(labels, count)[ids]
    if not holed.any():
        return labels, ids[1:]
    labels = owner.copy()
    values = np.flatnonzero((present & ~large) | holed)
    clean_cells(labels, values, extents(owner, count), holed, config.min_area_px, config.overlap == "last")
    return relabel(labels, count)


def relabel(labels: I32, count: int) -> tuple[I32, I32]:
    """Renumber the occurring values as 1..n, in their order.

    Args:
        labels: (H, W) with values in 0..count; 0 is background.
        count: highest value that may occur.

    Returns:
        (H, W) dense labels, and the new number of each of 1..count, (count,); 0 for absent values.
    """
    present = areas_of(labels, count)[1:] > 0
    ids = np.where(present, np.cumsum(present), 0).astype(np.int32)
    return looked_up(labels, np.concatenate((np.zeros(1, np.int32), ids))), ids
