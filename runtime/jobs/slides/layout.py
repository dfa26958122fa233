"""What is decided about a slide before its first tile: contrast, scale, grid."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np

from runtime.config import SegmentConfig
from runtime.errors import InputError
from runtime.files.readers import ImageReader
from runtime.jobs.slides.contrast import (
    Sample,
    SlideContrast,
    context_of,
    has_signal,
    is_small,
    normalize_part,
    read_extent,
    sample_slide,
)
from runtime.jobs.slides.engines import TileSegmenter
from runtime.jobs.slides.settings import SlideSettings
from runtime.ops.preprocess import take_normalized
from runtime.types import F32, Extent
from runtime.views.grid import OVERLAP_DIAMETERS, Tile, TileGrid, tile_counts, tile_grid, tiles_at_scale
from runtime.views.scale import CellSizes, measure_diameter, one_view_will_do

WINDOWS = 5
"""Parts of a large slide in which cells are measured."""

WINDOW_VIEWS = 2
"""Side of such a part in sides of the model input."""

MOST_CHANNELS = 3

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SlideLayout:
    """How a slide is cut and shown."""

    grid: TileGrid
    contrast: SlideContrast
    diameter_px: float | None
    """Median cell diameter, slide pixels; None where it was neither given nor could be measured."""
    whole: bool
    """The slide is no larger than a tile and is segmented as an image."""
    busiest: int
    """The tile around the part that varies most: one to try."""

    def extent(self, place: int) -> Extent:
        """Of a tile, as far as it lies in the slide; tiles are counted row by row."""
        top, left = self.origin(place)
        height, width = self.grid.size_hw
        return top, left, min(top + self.grid.side, height), min(left + self.grid.side, width)

    def origin(self, place: int) -> tuple[int, int]:
        """First pixel (y, x) of a tile."""
        row, column = divmod(place, len(self.grid.lefts))
        return self.grid.tops[row], self.grid.lefts[column]


def check_slide(reader: ImageReader) -> None:
    """Refuse what no tile of which could be segmented.

    Raises:
        InputError: no pixel, too many channels, or values that are no real numbers.
    """
    if min(reader.size_hw) < 1:
        raise InputError(f"{reader.name} has size {reader.size_hw}; expected at least one pixel.", kind="wrong_shape")
    if not 1 <= len(reader.channels) <= MOST_CHANNELS:
        raise InputError(
            f"{reader.name} has {len(reader.channels)} channels ({', '.join(reader.channels)}); expected up to three: "
            "nuclear and whole-cell, or colours. Choose those to segment.",
            kind="wrong_shape",
        )
    if reader.dtype.kind not in "biuf":
        raise InputError(f"{reader.name} has dtype {reader.dtype}; expected bool, integer or float.", kind="wrong_type")


def make_layout(
    reader: ImageReader, engines: TileSegmenter, config: SegmentConfig, settings: SlideSettings
) -> SlideLayout:
    """Look at parts of the slide, measure its cells where their size is not given, and lay out the tiles.

    Raises:
        InputError: a slide that cannot be read or segmented, or has too many tiles.
    """
    check_slide(reader)
    sample = sample_slide(reader, normalize=config.normalize, invert=config.invert)
    diameter, whole = config.diameter_px, False
    if diameter is None and settings.tile_px is None and config.view_diameter_px is not None:
        diameter, whole = _measured(reader, sample, engines, config)
    if whole:
        grid = tile_grid(reader.size_hw, max(reader.size_hw), 0)
    else:
        side, overlap = _tiles(reader.size_hw, diameter, engines.model_size, config, settings)
        _check_count(reader, side, overlap, settings)
        grid = tile_grid(reader.size_hw, side, overlap)
    return SlideLayout(grid, sample.contrast, diameter, len(grid) == 1, _busiest(grid, sample))


def _busiest(grid: TileGrid, sample: Sample) -> int:
    """Place of the last tile that begins above and left of the middle of the part that varies most."""
    if not sample.parts:
        return 0
    top, left, bottom, right = sample.parts[0][1]
    row = int(np.searchsorted(grid.tops, (top + bottom) // 2, side="right")) - 1
    column = int(np.searchsorted(grid.lefts, (left + right) // 2, side="right")) - 1
    return row * len(grid.lefts) + column


def _tiles(
    size_hw: tuple[int, int], diameter: float | None, model_size: int, config: SegmentConfig, settings: SlideSettings
) -> tuple[float, float]:
    """Wanted side of the tiles and their least overlap, slide pixels.

    Raises:
        InputError: the slide would be shown too small for anything to be seen.
    """
    side, overlap = float(model_size), model_size / 4
    if diameter and config.view_diameter_px:
        side, overlap = tiles_at_scale(size_hw, diameter, model_size, config.view_diameter_px)
    if settings.tile_px is None and settings.overlap_px is None:
        return side, overlap
    side = math.ceil(side) if settings.tile_px is None else settings.tile_px
    overlap = side / 4 if diameter is None else OVERLAP_DIAMETERS * diameter
    return side, min(overlap if settings.overlap_px is None else settings.overlap_px, side / 2)


def _check_count(reader: ImageReader, side: float, overlap: float, settings: SlideSettings) -> None:
    """Raises:
    InputError: a slide of too many tiles.
    """
    rows, columns = tile_counts(reader.size_hw, side, overlap)
    if rows * columns > settings.max_tiles:
        height, width = reader.size_hw
        raise InputError(
            f"{reader.name} has {width} x {height} pixels, which makes about {rows * columns:,} tiles of {side:.0f} "
            f"pixels and a label image of {4 * height * width / 1e9:,.0f} GB; expected at most {settings.max_tiles:,} "
            f"tiles. Check that the file is of this size; if so, pass max_tiles={rows * columns}.",
            kind="too_large",
            field="max_tiles",
        )


def _measured(
    reader: ImageReader, sample: Sample, engines: TileSegmenter, config: SegmentConfig
) -> tuple[float | None, bool]:
    """Median cell diameter, and whether one view of the whole slide will do."""
    assert config.view_diameter_px is not None, "nothing is measured without a wanted diameter"
    in_view = config.of_views

    def find_cells(tile: Tile) -> CellSizes:
        return engines.cell_sizes(tile, in_view)

    found: list[float | None] = []
    small = is_small(reader.size_hw)
    extents = [(0, 0, *reader.size_hw)] if small else _windows(reader, sample, WINDOW_VIEWS * engines.model_size)
    for extent in extents:
        try:
            part = read_normalized(reader, extent, sample.contrast, config)
        except InputError as error:
            _log.warning("cells of %s at %s cannot be measured: %s", reader.name, extent, error)
            continue
        wanted_px = config.view_diameter_px
        found.append(measure_diameter(part, engines.model_size, find_cells, view_diameter_px=wanted_px))
    diameters = [diameter for diameter in found if diameter is not None]
    if small and found:
        one_view = one_view_will_do(
            found[0],
            max(reader.size_hw),
            engines.model_size,
            config.view_diameter_px,
            config.whole_view_diameter_px,
        )
        return found[0], one_view
    if not diameters:
        _log.warning(
            "no cell was found to measure in %s; its tiles are shown at the model's own size. Give diameter_px if it "
            "has cells.",
            reader.name,
        )
        return None, False
    return float(np.median(diameters)), False


def _windows(reader: ImageReader, sample: Sample, side: int) -> list[Extent]:
    """Separate parts of a slide around those of the sample that vary most."""
    chosen: list[Extent] = []
    for _, extent in sample.parts:
        centre = [(low + high) // 2 for low, high in ((extent[0], extent[2]), (extent[1], extent[3]))]
        first = [
            max(0, min(middle - side // 2, length - side))
            for middle, length in zip(centre, reader.size_hw, strict=True)
        ]
        last = [min(start + side, length) for start, length in zip(first, reader.size_hw, strict=True)]
        window = (first[0], first[1], last[0], last[1])
        apart = all(
            window[0] >= other[2] or window[2] <= other[0] or window[1] >= other[3] or window[3] <= other[1]
            for other in chosen
        )
        if apart:
            chosen.append(window)
        if len(chosen) == WINDOWS:
            break
    return chosen


def read_normalized(reader: ImageReader, extent: Extent, contrast: SlideContrast, config: SegmentConfig) -> F32:
    """A part of the slide as the model takes it, (h, w, 3).

    Raises:
        InputError: it cannot be read, or holds what cannot be segmented.
    """
    if not config.normalize:
        return take_normalized(read_extent(reader, extent))
    context = context_of(extent, reader.size_hw)
    return normalize_part(read_extent(reader, context), context, extent, contrast, invert=config.invert)


def read_tile(
    reader: ImageReader, layout: SlideLayout, place: int, config: SegmentConfig, settings: SlideSettings
) -> Tile | None:
    """A tile as the model takes it, of 3 channels; None for one without signal.

    Raises:
        InputError: it cannot be read, or holds what cannot be segmented.
    """
    extent = layout.extent(place)
    context = context_of(extent, reader.size_hw) if config.normalize else extent
    raw = read_extent(reader, context)
    top, left = context[:2]
    own = raw[extent[0] - top : extent[2] - top, extent[1] - left : extent[3] - left]
    if not has_signal(own, layout.contrast, settings.min_contrast):
        return None
    if config.normalize:
        part = normalize_part(raw, context, extent, layout.contrast, invert=config.invert)
    else:
        part = take_normalized(raw)
    return Tile(part, layout.grid.side, layout.origin(place))
