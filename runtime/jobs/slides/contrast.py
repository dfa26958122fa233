"""Seamless contrast normalisation of a slide, tile by tile.

``preprocess.normalize_contrast`` needs the whole image for three steps. This module replaces them:

- Range of each channel (lowest value, 99.9th percentile): computed once, from a sample of parts spread evenly over the
  slide.
- CLAHE: a pixel depends on up to four contextual regions of 128 pixels around it. Each tile is read together with these
  regions, on the grid of the whole slide. A pixel thus has the same level in every tile, and as in the whole image.
- Final stretch of the gray levels: uses the lowest and highest level of the same sample.

The sample of an image of at most ``SMALL_PX`` pixels is the whole image. Every tile then equals, bit for bit, its part
of the normalised image.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.files.readers import ImageReader
from runtime.ops.clahe import equalized_levels, unit_levels
from runtime.ops.preprocess import (
    CLAHE_KERNEL_PX,
    TABLED,
    Range,
    bins_within,
    blank_channels,
    channel_range,
    channel_targets,
    check_image,
    counted_range,
)
from runtime.types import F32, Extent

Raw = NDArray[np.generic]

SMALL_PX = 2048 * 2048
"""Images of up to this many pixels are sampled whole."""

PART_PX = 2 * CLAHE_KERNEL_PX
"""Side of the sampled parts of larger images."""

PARTS_PER_AXIS = 12
"""Maximum number of sampled parts along each axis; bounds time and memory."""

BLOCK_PX = 4
"""Side of the blocks whose means distinguish signal from noise; smaller than any cell that is kept."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ChannelContrast:
    """Mapping of one channel to [0, 1]."""

    range: Range
    """Values that map to the first and the last histogram bin."""
    levels: tuple[int, int]
    """Gray levels after CLAHE that map to 0 and 1."""


SlideContrast = tuple[ChannelContrast | None, ...]
"""Contrast by channel; None if the sample is constant, in which case each tile uses its own range."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Contrast of a slide and its most varied parts, found by sampling."""

    contrast: SlideContrast
    parts: tuple[tuple[float, Extent], ...]
    """Parts that are not constant, with the largest standard deviation of a channel, as a share of its range. The part
    with the largest deviation comes first."""


def sample_slide(reader: ImageReader, *, normalize: bool = True, invert: bool = False) -> Sample:
    """Sample parts of a slide, deterministically. The number of pixels read is bounded for slides of any size.

    Args:
        reader: the slide.
        normalize: False if the contrast of the slide is already normalised, to [0, 1].
        invert: as for ``preprocess.normalize_contrast``.

    Raises:
        InputError: no part can be read.
    """
    ranges = _ranges(reader) if normalize else [(0.0, 1.0)] * len(reader.channels)
    levels: list[list[int]] = [[] for _ in ranges]
    parts = []
    for extent, raw in _parts(reader):
        deviation = 0.0
        for channel, span in enumerate(ranges):
            if span is not None:
                bins = bins_within(raw[..., channel], span, invert=invert)
                deviation = max(deviation, float(bins.std()) / 255)
                found = equalized_levels(bins, CLAHE_KERNEL_PX) if normalize else bins
                levels[channel] += [int(found.min()), int(found.max())]
        if deviation > 0:
            parts.append((deviation, extent))
    contrast = tuple(
        None if span is None else ChannelContrast(span, (min(found), max(found)))
        for span, found in zip(ranges, levels, strict=True)
    )
    return Sample(contrast, tuple(sorted(parts, key=lambda part: (-part[0], part[1]))))


def _ranges(reader: ImageReader) -> list[Range | None]:
    """Return the range of each channel over all parts."""
    channels = range(len(reader.channels))
    if reader.dtype in TABLED:
        counts = np.zeros((len(channels), np.iinfo(reader.dtype).max + 1), np.intp)
        for _, raw in _parts(reader):
            for channel in channels:
                counts[channel] += np.bincount(raw[..., channel].ravel(), minlength=counts.shape[1])
        return [counted_range(of_channel) for of_channel in counts]
    # Values of other types cannot be counted; every fourth value of a large slide is enough.
    step = 1 if is_small(reader.size_hw) else 2
    values: list[list[Raw]] = [[] for _ in channels]
    for _, raw in _parts(reader):
        for channel in channels:
            values[channel].append(raw[::step, ::step, channel].ravel())
    return [channel_range(np.concatenate(of_channel)) for of_channel in values]


def is_small(size_hw: tuple[int, int]) -> bool:
    """Return whether an image is sampled whole."""
    return size_hw[0] * size_hw[1] <= SMALL_PX


def _parts(reader: ImageReader) -> Iterator[tuple[Extent, Raw]]:
    """Yield the sampled parts: the whole image if it is small, else parts on the grid of contextual regions.

    Raises:
        InputError: no part can be read.
    """
    unread: InputError | None = None
    read = 0
    for extent in part_extents(reader.size_hw):
        try:
            raw = read_extent(reader, extent)
        except InputError as error:  # the job will report its tile
            unread = error
            continue
        read += 1
        yield extent, raw
    if unread is not None:
        if not read:
            raise unread
        _log.warning("parts of %s cannot be read; the contrast is taken from the others (%s)", reader.name, unread)


def part_extents(size_hw: tuple[int, int]) -> list[Extent]:
    """Return the extents of the sampled parts of a slide."""
    if is_small(size_hw):
        return [(0, 0, *size_hw)]
    tops, lefts = (
        sorted({round(first / CLAHE_KERNEL_PX) * CLAHE_KERNEL_PX for first in np.linspace(0, last, count)})
        for last, count in (
            (max(0, length - PART_PX), min(PARTS_PER_AXIS, -(-length // PART_PX))) for length in size_hw
        )
    )
    extents = [
        (top, left, min(top + PART_PX, size_hw[0]), min(left + PART_PX, size_hw[1])) for top in tops for left in lefts
    ]
    return [extent for extent in extents if extent[0] < extent[2] and extent[1] < extent[3]]


_READING = threading.Lock()
"""Lock for reading, since file readers need not be thread-safe."""


def read_extent(reader: ImageReader, extent: Extent) -> Raw:
    """Read and check a part (h, w, C).

    Raises:
        InputError: the part cannot be read, or contains values that cannot be segmented.
    """
    top, left, bottom, right = extent
    with _READING:
        part = reader.read(top, left, bottom - top, right - left)
    raw = check_image(part, f"{reader.name}, rows {top}-{bottom}, columns {left}-{right},")
    expected = (bottom - top, right - left, len(reader.channels))
    if raw.shape != expected:
        raise InputError(
            f"{reader.name} returned a part of shape {raw.shape}; expected {expected}. The file is damaged.",
            kind="damaged",
        )
    return raw


def context_of(extent: Extent, size_hw: tuple[int, int]) -> Extent:
    """Return the extent of the contextual regions that determine the equalised pixels of ``extent``."""
    kernel, half = CLAHE_KERNEL_PX, CLAHE_KERNEL_PX // 2
    first = [((start + half) // kernel - 1) * kernel for start in extent[:2]]
    last = [((stop - 1 + half) // kernel + 1) * kernel for stop in extent[2:]]
    top, left = (max(0, start) for start in first)
    bottom, right = (min(stop, length) for stop, length in zip(last, size_hw, strict=True))
    return top, left, bottom, right


def normalize_part(raw: Raw, context: Extent, extent: Extent, contrast: SlideContrast, *, invert: bool = False) -> F32:
    """Equalise the contrast of a part of a slide.

    Args:
        raw: (h, w, C), the pixels of ``context``.
        context: from ``context_of``.
        extent: the part.
        contrast: the contrast of the slide.
        invert: as for ``preprocess.normalize_contrast``.

    Returns:
        (h, w, 3) float32 in [0, 1].
    """
    inside = _inside(context, extent)
    height, width = extent[2] - extent[0], extent[3] - extent[1]
    out = blank_channels(height, width)
    for channel, target in enumerate(channel_targets(raw.shape[2])):
        plane, known = raw[..., channel], contrast[channel]
        span = channel_range(plane) if known is None else known.range
        if span is None:
            continue
        levels = equalized_levels(bins_within(plane, span, invert=invert), CLAHE_KERNEL_PX)
        low, high = (int(levels.min()), int(levels.max())) if known is None else known.levels
        out[..., target] = unit_levels(levels[inside], low, high)
    return out


def _inside(context: Extent, extent: Extent) -> tuple[slice, slice]:
    top, left = context[:2]
    return slice(extent[0] - top, extent[2] - top), slice(extent[1] - left, extent[3] - left)


def has_signal(raw: Raw, contrast: SlideContrast, min_contrast: float) -> bool:
    """Return whether a channel of a part (h, w, C) varies by the share ``min_contrast`` of the slide's range.

    The function compares means of small blocks, so that noise of single pixels does not count as signal. If a channel
    is constant in the sample, any variation of it counts.
    """
    for channel, known in enumerate(contrast):
        plane = raw[..., channel]
        if plane.min() == plane.max():
            continue
        if known is None or min_contrast == 0:
            return True
        low, high = known.range
        unit = (np.clip(plane.astype(np.float32), low, high) - np.float32(low)) / np.float32(high - low)
        means = _block_means(unit)
        if means.max() - means.min() >= min_contrast:
            return True
    return False


def _block_means(plane: F32) -> F32:
    sums: NDArray[Any] = plane
    sizes = []
    for axis in (0, 1):
        starts = np.arange(0, plane.shape[axis], BLOCK_PX)
        sums = np.add.reduceat(sums, starts, axis=axis)
        sizes.append(np.diff(starts, append=plane.shape[axis]))
    means: F32 = (sums / np.outer(*sizes)).astype(np.float32)
    return means
