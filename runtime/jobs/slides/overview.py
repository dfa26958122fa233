"""A picture of a slide with its cells outlined, small enough to be looked at as a whole."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.files.outputs.overlay import write_overlay
from runtime.files.readers import ImageReader
from runtime.jobs.slides.blocks import LabelBlocks
from runtime.jobs.slides.contrast import read_extent

LARGEST_PX = 2048
"""Longer side of the picture at most, which bounds memory."""

READ_PX = 1024
"""About the side of the parts in which the slide is read."""

_log = logging.getLogger(__name__)


def write_overview(path: Path, reader: ImageReader, labels: LabelBlocks) -> None:
    """Write a PNG as ``overlay.write_overlay`` draws it; a larger slide is shrunk by a whole factor.

    Args:
        path: the file.
        reader: the slide. Parts that cannot be read stay black.
        labels: its label map.
    """
    height, width = reader.size_hw
    factor = -(-max(height, width) // LARGEST_PX)
    write_overlay(path, shrunk(reader, factor), labels.part((0, 0, height, width), factor))


def shrunk(reader: ImageReader, factor: int) -> NDArray[np.generic]:
    """The means of squares of ``factor`` pixels, read in parts; at the far borders of what there is of a square.

    Returns:
        (ceil(H / factor), ceil(W / factor), C); uint8 where the slide is, else float32.
    """
    height, width = reader.size_hw
    shape = -(-height // factor), -(-width // factor), len(reader.channels)
    out = np.zeros(shape, np.uint8 if reader.dtype == np.uint8 else np.float32)
    step = max(1, READ_PX // factor)
    for y in range(0, shape[0], step):
        for x in range(0, shape[1], step):
            top, left = y * factor, x * factor
            extent = top, left, min(top + step * factor, height), min(left + step * factor, width)
            try:
                means = _means(read_extent(reader, extent), factor)
            except InputError as error:
                _log.warning("a part of %s is left black in its picture (%s)", reader.name, error)
                continue
            means = means.round() if out.dtype == np.uint8 else means
            out[y : y + means.shape[0], x : x + means.shape[1]] = means
    return out


def _means(part: NDArray[np.generic], factor: int) -> NDArray[np.float64]:
    sums: NDArray[np.float64] = part.astype(np.float64)
    for axis in (0, 1):
        starts = np.arange(0, part.shape[axis], factor)
        sizes = np.diff(starts, append=part.shape[axis])
        sums = np.add.reduceat(sums, starts, axis=axis) / np.expand_dims(sizes, tuple({0, 1, 2} - {axis}))
    return sums
