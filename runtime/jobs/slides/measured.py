"""Measurements of a slide's cells, kept in a file: cells arrive block by block, but tables need them by label."""

from __future__ import annotations

import logging
import math
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.files.formats.base import distinct_names
from runtime.files.readers import ImageReader
from runtime.jobs.slides.blocks import BLOCK_PX, KEPT_BLOCKS
from runtime.jobs.slides.join import SlideJoin, mapped
from runtime.ops.measure import SHAPES, intensities, intensity_columns, shapes
from runtime.types import Bool, Extent

_log = logging.getLogger(__name__)


class SlideMeasurements:
    """Shapes and intensities of every cell of a slide."""

    def __init__(self, join: SlideJoin, reader: ImageReader, path: Path) -> None:
        """Measure all cells, with one cell and some blocks of the slide in memory at a time.

        Args:
            join: a join that has run.
            reader: the slide, with all channels to measure. Cells in parts that cannot be read get no intensities.
            path: a new file for the measurements.
        """
        self._reader = reader
        self._channels = distinct_names(reader.channels)
        self.columns = (*SHAPES, *intensity_columns(self._channels))
        """Names of the measurements."""
        self._path, self._shape = path, (join.cell_count, len(self.columns))
        self._block = lru_cache(KEPT_BLOCKS)(self._read_block)
        with mapped(path, np.float64, math.prod(self._shape)) as values:
            by_label = values[: math.prod(self._shape)].reshape(self._shape)
            for cell, mask, offset_yx in join.outlined():
                by_label[cell.label - 1] = self._measured(mask, offset_yx)

    def row(self, label: int) -> tuple[float | None, ...]:
        """Return the measurements of a cell in the order of ``columns``; None for unknown values."""
        values = np.memmap(self._path, np.float64, "r", shape=self._shape)[label - 1].tolist()
        return tuple(None if math.isnan(value) else value for value in values)

    def _measured(self, mask: Bool, offset_yx: tuple[int, int]) -> list[float]:
        labels, (top, left) = mask.astype(np.uint8), offset_yx
        part = self._part((top, left, top + mask.shape[0], left + mask.shape[1]))
        found = shapes(labels) | ({} if part is None else intensities(labels, part, self._channels))
        return [float(found[name][0]) if name in found else math.nan for name in self.columns]

    def _part(self, extent: Extent) -> NDArray[np.generic] | None:
        """Return the pixels of a part of the slide, (h, w, C); None if some cannot be read."""
        top, left, bottom, right = extent
        out = np.zeros((bottom - top, right - left, len(self._channels)), self._reader.dtype)
        for y in range(top // BLOCK_PX * BLOCK_PX, bottom, BLOCK_PX):
            for x in range(left // BLOCK_PX * BLOCK_PX, right, BLOCK_PX):
                block = self._block(y, x)
                if block is None:
                    return None
                first_y, first_x = max(top, y), max(left, x)
                found = block[first_y - y : bottom - y, first_x - x : right - x]
                rows, columns = found.shape[:2]
                out[first_y - top : first_y - top + rows, first_x - left : first_x - left + columns] = found
        return out

    def _read_block(self, top: int, left: int) -> NDArray[np.generic] | None:
        height, width = self._reader.size_hw
        try:
            return self._reader.read(top, left, min(BLOCK_PX, height - top), min(BLOCK_PX, width - left))
        except InputError as error:
            _log.warning("cells in a part of %s have no intensities (%s)", self._reader.name, error)
            return None
