"""From mask logits to a label map: upsampling, overlaps, holes, small objects, numbering. Pure functions on arrays."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from runtime.config import SegmentConfig

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]
I64 = NDArray[np.int64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class MaskCrop:
    """One instance's mask, cut to its own pixels."""

    mask: Bool
    """(h, w); (0, 0) when the mask has no pixel."""
    offset_yx: tuple[int, int]
    """Image pixel of ``mask[0, 0]``."""

    @property
    def area_px(self) -> int:
        """Number of pixels."""
        return int(np.count_nonzero(self.mask))

    def paste(self, size_hw: tuple[int, int]) -> Bool:
        """The mask in an image of the given size, (H, W) bool."""
        full = np.zeros(size_hw, np.bool_)
        (y, x), (h, w) = self.offset_yx, self.mask.shape
        full[y : y + h, x : x + w] = self.mask
        return full


@dataclass(frozen=True, slots=True)
class ResizeAxis:
    """Two bilinear resizes along one axis, logits to model input to image, as one banded matrix."""

    weights: F32
    """(size of the image, size of the logits)."""
    first: tuple[int, ...]
    """First logit that each image pixel reads; rises with the pixel."""
    last: tuple[int, ...]
    """Last one."""
    starts: tuple[int, ...]
    """First image pixel that reads no logit before this one; one entry per logit, and one more."""
    stops: tuple[int, ...]
    """First image pixel that reads this logit or a later one; one entry per logit, and one more."""

    def inside(self, start: int, stop: int) -> slice:
        """The image pixels that read nothing but the logits in ``start:stop``."""
        return slice(self.starts[start], max(self.starts[start], self.stops[stop]))

    def reading(self, start: int, stop: int) -> slice:
        """The image pixels that read at least one of the logits in ``start:stop``."""
        return slice(self.stops[start], max(self.stops[start], self.starts[stop]))


@lru_cache(maxsize=16)
def resize_axis(logits: int, model: int, image: int) -> ResizeAxis:
    """The resize of SAM's post-processing, ``logits`` -> ``model`` -> ``image`` pixels, along one axis.

    Both steps are bilinear with half-pixel centres and no antialiasing, hence linear, and so is their product.
    """
    weights = (_bilinear(model, image) @ _bilinear(logits, model)).astype(np.float32).toarray()
    used = weights != 0
    first, last = used.argmax(axis=1), logits - 1 - used[:, ::-1].argmax(axis=1)
    borders = np.arange(logits + 1)
    return ResizeAxis(
        weights=weights,
        first=tuple(first.tolist()),
        last=tuple(last.tolist()),
        starts=tuple(np.searchsorted(first, borders).tolist()),
        stops=tuple(np.searchsorted(last, borders).tolist()),
    )


def _bilinear(size_in: int, size_out: int) -> sparse.csr_array:
    """(size_out, size_in) bilinear interpolation with half-pixel centres, clamped at the edges."""
    position = np.maximum((np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5, 0.0)
    low = np.minimum(position.astype(np.int64), size_in - 1)
    high = np.minimum(low + 1, size_in - 1)
    fraction = position - low
    rows = np.arange(size_out)
    entries = (np.concatenate((1.0 - fraction, fraction)), (np.tile(rows, 2), np.concatenate((low, high))))
    return sparse.csr_array(entries, shape=(size_out, size_in))  # equal places are added up


def upsample_window(
    logits: F32, origin_yx: tuple[int, int], axes: tuple[ResizeAxis, ResizeAxis], threshold: float = -np.inf
) -> tuple[F32, tuple[int, int]]:
    """Resize the logits of one window to image pixels.

    Args:
        logits: (h, w), mask logits of the window.
        origin_yx: its first logit in the whole map.
        axes: the resizes along y and x.
        threshold: image pixels that read no logit above it are left out where they are at the edge: a mean of
            logits cannot exceed it there.

    Returns:
        Logits at the image pixels that depend on this window alone, (H', W'), and the first such pixel (y, x).
    """
    bounds = _bounds(logits > threshold)
    if bounds is None:
        return np.zeros((0, 0), np.float32), (0, 0)
    pixels, matrices, parts = [], [], []
    for axis, start, size, active in zip(axes, origin_yx, logits.shape, bounds, strict=True):
        inner = axis.inside(start, start + size)
        near = axis.reading(start + active.start, start + active.stop)
        low = min(max(inner.start, near.start), inner.stop)
        high = max(low, min(inner.stop, near.stop))
        read = slice(axis.first[low], axis.last[high - 1] + 1) if high > low else slice(start, start)
        pixels.append(low)
        matrices.append(axis.weights[low:high, read])
        parts.append(slice(read.start - start, read.stop - start))
    rows, columns = matrices
    return (rows @ logits[parts[0], parts[1]] @ columns.T).astype(np.float32, copy=False), (pixels[0], pixels[1])


class LabelCanvas:
    """Collects the masks of one image and settles who owns each pixel.

    Masks may come in any order and in any grouping; the result depends on their indices alone.
    """

    def __init__(self, size_hw: tuple[int, int], config: SegmentConfig) -> None:
        """Args: size_hw: the image's size. config: the mask threshold and the rule for overlaps."""
        self._threshold = np.float32(config.mask_threshold_logit)
        self._argmax = config.overlap == "argmax"
        self._owner = np.zeros(size_hw, np.int32)  # index + 1 of the owner, 0 = background
        self._best = np.full(size_hw if self._argmax else (0, 0), self._threshold, np.float32)

    @property
    def owner(self) -> I32:
        """(H, W): index + 1 of the mask that owns each pixel, 0 where none does."""
        return self._owner

    def add(self, index: int, logits: F32, offset_yx: tuple[int, int]) -> MaskCrop:
        """Enter one mask.

        Args:
            index: its place among the image's masks, from 0.
            logits: (h, w) at image pixels.
            offset_yx: image pixel of ``logits[0, 0]``.

        Returns:
            The thresholded mask, before overlaps.
        """
        inside = logits > self._threshold
        crop = _bounds(inside)
        if crop is None:
            return MaskCrop(np.zeros((0, 0), np.bool_), offset_yx)
        (top, left), inside, logits = (crop[0].start, crop[1].start), inside[crop], logits[crop]
        top, left = top + offset_yx[0], left + offset_yx[1]
        region = (slice(top, top + inside.shape[0]), slice(left, left + inside.shape[1]))
        owner = self._owner[region]
        if self._argmax:
            best = self._best[region]
            # Equal logits go to the lower index, whatever the order of arrival.
            wins = (logits > best) | ((logits == best) & (index + 1 < owner))
            best[wins] = logits[wins]
        else:
            wins = inside & (owner < index + 1)
        owner[wins] = index + 1
        return MaskCrop(inside.copy(), (top, left))


def _bounds(mask: Bool) -> tuple[slice, slice] | None:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def finish_labels(owner: I32, count: int, config: SegmentConfig) -> tuple[I32, I32]:
    """Remove small cells, fill holes, number the cells that are left 1..n.

    A cell's area is taken before its holes are filled, and cells are treated from low to high index, as the released
    code does.

    Args:
        owner: (H, W), index + 1 of the owner of each pixel.
        count: number of masks.

    Returns:
        Labels (H, W), dense and in the order of the masks, and the label of each mask (count), 0 where none is left.
    """
    labels = owner.copy()
    areas = np.bincount(owner.ravel(), minlength=count + 1)[: count + 1]
    small = (areas > 0) & (areas < config.min_area_px)
    small[0] = False
    holed = np.zeros(count + 1, np.bool_)
    if config.fill_holes:
        # Taking over what lies in a hole needs a look at every cell; filling background, only at those around some.
        holed = areas > 0 if config.overlap == "last" else _around_holes(np.where(small[owner], 0, owner), count)
        holed[0] = False
    values = np.flatnonzero(small | holed)
    if not values.size:
        return relabel(labels, count)
    crops = ndimage.find_objects(owner, max_label=int(values[-1]))
    for value in values:
        region = labels[crops[value - 1]]
        cell = region == value
        # A cell of an earlier index may have taken pixels of this one.
        area = np.count_nonzero(cell)
        if area < config.min_area_px:
            region[cell] = 0
        elif area and holed[value]:
            filled = ndimage.binary_fill_holes(cell)
            region[filled if config.overlap == "last" else filled & (region == 0)] = value
    return relabel(labels, count)


def _around_holes(labels: I32, count: int) -> Bool:
    """(count + 1): cells beside a piece of background that does not reach the image's border; others have no holes."""
    pieces, number = ndimage.label(labels == 0)
    open_pieces = np.zeros(number + 1, np.bool_)
    for edge in (pieces[0], pieces[-1], pieces[:, 0], pieces[:, -1]):
        open_pieces[edge] = True
    open_pieces[0] = True  # the cells themselves
    beside = np.zeros(count + 1, np.bool_)
    if not open_pieces.all():
        beside[labels[ndimage.binary_dilation(~open_pieces[pieces])]] = True
    return beside


def relabel(labels: I32, count: int) -> tuple[I32, I32]:
    """Number the values that occur 1..n in their order.

    Args:
        labels: (H, W) with values in 0..count, 0 being background.
        count: the highest value that may occur.

    Returns:
        (H, W) dense labels, and the new number of each of 1..count (count), 0 for those that do not occur.
    """
    present = np.bincount(labels.ravel(), minlength=count + 1)[1:] > 0
    ids = np.where(present, np.cumsum(present), 0).astype(np.int32)
    lookup = np.concatenate((np.zeros(1, np.int32), ids))
    return lookup[labels], ids
