"""Layout of a slide, decided before its first tile: contrast, scale and grid."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
from runtime.ops.preprocess import channel_targets, take_normalized
from runtime.pipeline.prepare import NUCLEAR, WHOLE_CELL, lacks_pairs, without_whole_cell
from runtime.pipeline.remarks import log_appearance
from runtime.results import Appearance
from runtime.types import F32, Extent
from runtime.views.grid import OVERLAP_DIAMETERS, Tile, TileGrid, tile_counts, tile_grid, tiles_at_scale
from runtime.views.scale import (
    ONE_POLARITY,
    CellSizes,
    Measurement,
    inverted_is_better,
    measure_at,
    measure_diameter,
    one_view_will_do,
)

WINDOWS = 5
"""Number of windows in which the cells of a large slide are measured."""

WINDOW_VIEWS = 2
"""Side of a window, as a multiple of the side of the model input."""

MOST_CHANNELS = 3

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SlideLayout:
    """Tiles of a slide, and how the model sees them."""

    grid: TileGrid
    contrast: SlideContrast
    appearance: Appearance
    """How the slide is shown to the model."""
    whole: bool
    """True if the slide is not larger than a tile; it is then segmented as an image."""
    busiest: int
    """The tile around the part that varies most, for trials."""

    def extent(self, place: int) -> Extent:
        """Return the extent of a tile, clipped to the slide; tiles are numbered row by row."""
        top, left = self.origin(place)
        height, width = self.grid.size_hw
        return top, left, min(top + self.grid.side, height), min(left + self.grid.side, width)

    def origin(self, place: int) -> tuple[int, int]:
        """Return the first pixel (y, x) of a tile."""
        row, column = divmod(place, len(self.grid.lefts))
        return self.grid.tops[row], self.grid.lefts[column]


class _PolarityTrial(NamedTuple):
    """Sample and cell sizes of a slide in one polarity."""

    sample: Sample
    inverted: bool
    nuclear_alone: bool
    small: bool
    """True if the slide is measured as a whole."""
    measures: bool = False
    """True if at least one part was measured."""
    measured: Measurement | None = None

    @property
    def sure_of_polarity(self) -> bool:
        """Return whether the other polarity need not be tried."""
        return self.measured is not None and self.measured.score >= ONE_POLARITY


def check_slide(reader: ImageReader) -> None:
    """Reject a slide if none of its tiles can be segmented.

    Raises:
        InputError: the slide has no pixels, too many channels, or values that are not real numbers.
    """
    if min(reader.size_hw) < 1:
        raise InputError(f"{reader.name} has size {reader.size_hw}; expected at least one pixel.", kind="wrong_shape")
    if not 1 <= len(reader.channels) <= MOST_CHANNELS:
        raise InputError(
            f"{reader.name} has {len(reader.channels)} channels ({', '.join(reader.channels)}); expected one to three: "
            "nuclear and whole-cell, or colours. Choose the channels to segment.",
            kind="wrong_shape",
        )
    if reader.dtype.kind not in "biuf":
        raise InputError(f"{reader.name} has dtype {reader.dtype}; expected bool, integer or float.", kind="wrong_type")


def make_layout(
    reader: ImageReader, engines: TileSegmenter, config: SegmentConfig, settings: SlideSettings
) -> SlideLayout:
    """Sample the slide, measure its cells if their size is not given, and lay out the tiles.

    Raises:
        InputError: the slide cannot be read or segmented, or has too many tiles.
    """
    check_slide(reader)
    trial = _try_polarity(reader, engines, config, settings, inverted=config.invert is True)
    margin = None
    if config.invert == "auto" and config.normalize and not trial.sure_of_polarity:
        other = _try_polarity(reader, engines, config, settings, inverted=True)
        better, margin = inverted_is_better(trial.measured, other.measured)
        trial = other if better else trial
    measured = trial.measured if _measures_scale(config, settings) else None
    if measured is None and _measures_scale(config, settings) and not trial.small:
        _log.warning(
            "no cells were found to measure in %s; its tiles are shown at the size of the model input. Give "
            "diameter_px if the slide has cells.",
            reader.name,
        )
    appearance = Appearance(
        diameter_px=config.diameter_px if measured is None else measured.diameter_px,
        diameter_confidence=None if measured is None else measured.confidence,
        inverted=trial.inverted,
        invert_margin=margin,
        nuclear_alone=trial.nuclear_alone,
    )
    log_appearance(appearance, 0)
    return _laid_out(reader, trial, appearance, engines.model_size, config, settings)


def _laid_out(
    reader: ImageReader,
    trial: _PolarityTrial,
    appearance: Appearance,
    model_size: int,
    config: SegmentConfig,
    settings: SlideSettings,
) -> SlideLayout:
    """Lay out the tiles of a slide after the choice of its polarity."""
    grid = _grid(reader, appearance.diameter_px, model_size, config, settings)
    if trial.small and trial.measures and _measures_scale(config, settings):
        assert config.view_diameter_px is not None, "cells are measured only if there is a target diameter"
        diameter = None if trial.measured is None else trial.measured.diameter_px
        if one_view_will_do(
            diameter, max(reader.size_hw), model_size, config.view_diameter_px, config.whole_view_diameter_px
        ):
            grid = tile_grid(reader.size_hw, max(reader.size_hw), 0)
    return SlideLayout(grid, trial.sample.contrast, appearance, len(grid) == 1, _busiest(grid, trial.sample))


def _measures_scale(config: SegmentConfig, settings: SlideSettings) -> bool:
    """Return whether the layout depends on a cell diameter that is not given."""
    return config.diameter_px is None and settings.tile_px is None and config.view_diameter_px is not None


def _busiest(grid: TileGrid, sample: Sample) -> int:
    """Return the last tile that begins above and left of the centre of the part that varies most."""
    if not sample.parts:
        return 0
    top, left, bottom, right = sample.parts[0][1]
    row = int(np.searchsorted(grid.tops, (top + bottom) // 2, side="right")) - 1
    column = int(np.searchsorted(grid.lefts, (left + right) // 2, side="right")) - 1
    return row * len(grid.lefts) + column


def _tiles(
    size_hw: tuple[int, int], diameter: float | None, model_size: int, config: SegmentConfig, settings: SlideSettings
) -> tuple[float, float]:
    """Return the target side of the tiles and their minimum overlap, slide pixels.

    Raises:
        InputError: the slide would be shown too small for cells to be visible.
    """
    side, overlap = float(model_size), model_size / 4
    if diameter and config.view_diameter_px:
        side, overlap = tiles_at_scale(size_hw, diameter, model_size, config.view_diameter_px)
    if settings.tile_px is None and settings.overlap_px is None:
        return side, overlap
    side = math.ceil(side) if settings.tile_px is None else settings.tile_px
    overlap = side / 4 if diameter is None else OVERLAP_DIAMETERS * diameter
    return side, min(overlap if settings.overlap_px is None else settings.overlap_px, side / 2)


def _grid(
    reader: ImageReader, diameter: float | None, model_size: int, config: SegmentConfig, settings: SlideSettings
) -> TileGrid:
    """Return the tiles of a slide whose cells have this diameter.

    Raises:
        InputError: the slide has too many tiles, or as ``_tiles``.
    """
    side, overlap = _tiles(reader.size_hw, diameter, model_size, config, settings)
    rows, columns = tile_counts(reader.size_hw, side, overlap)
    if rows * columns > settings.max_tiles:
        height, width = reader.size_hw
        raise InputError(
            f"{reader.name} has {width} x {height} pixels, which makes about {rows * columns:,} tiles of {side:.0f} "
            f"pixels and a label image of {4 * height * width / 1e9:,.0f} GB; expected at most {settings.max_tiles:,} "
            f"tiles. If the size of the file is correct, pass max_tiles={rows * columns}.",
            kind="too_large",
            field="max_tiles",
        )
    return tile_grid(reader.size_hw, side, overlap)


def _try_polarity(
    reader: ImageReader, engines: TileSegmenter, config: SegmentConfig, settings: SlideSettings, *, inverted: bool
) -> _PolarityTrial:
    """Sample a slide in one polarity, and measure its cells if scale or polarity depend on their size."""
    sample = sample_slide(reader, normalize=config.normalize, invert=inverted)
    shown = [index for index, one in zip(channel_targets(len(sample.contrast)), sample.contrast, strict=True) if one]
    alone = shown == [NUCLEAR, WHOLE_CELL] and lacks_pairs(engines.trained_channels)
    small = is_small(reader.size_hw)
    trial = _PolarityTrial(sample, inverted, alone, small)
    if not _measures_scale(config, settings) and config.invert != "auto":
        return trial
    side = None
    if not _measures_scale(config, settings):
        side = _grid(reader, config.diameter_px, engines.model_size, config, settings).side
    found: list[Measurement | None] = []
    extents = [(0, 0, *reader.size_hw)] if small else _windows(reader, sample, WINDOW_VIEWS * engines.model_size)
    for extent in extents:
        try:
            part = read_normalized(reader, extent, trial, config)
        except InputError as error:
            _log.warning("cells of %s at %s cannot be measured: %s", reader.name, extent, error)
            continue
        found.append(_measured(part, engines, config, side))
    return trial._replace(measured=_median(found), measures=bool(found))


def _measured(part: F32, engines: TileSegmenter, config: SegmentConfig, side: int | None) -> Measurement | None:
    """Measure the cells of a part of a slide, at all scales or in tiles of this side."""
    in_view = config.of_views

    def find_cells(tile: Tile) -> CellSizes:
        return engines.cell_sizes(tile, in_view)

    if side is not None:
        return measure_at(part, side, engines.model_size, find_cells)
    assert config.view_diameter_px is not None, "cells are measured only if there is a target diameter"
    return measure_diameter(part, engines.model_size, find_cells, view_diameter_px=config.view_diameter_px)


def _median(found: Sequence[Measurement | None]) -> Measurement | None:
    """Return the median over the parts in which cells were found."""
    rows = [one for one in found if one is not None]
    if not rows:
        return None
    diameter, score, agreement = (float(np.median(values)) for values in zip(*rows, strict=True))
    return Measurement(diameter, score, agreement)


def _windows(reader: ImageReader, sample: Sample, side: int) -> list[Extent]:
    """Choose separate windows of a slide around the parts of the sample that vary most."""
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


def read_normalized(reader: ImageReader, extent: Extent, trial: _PolarityTrial, config: SegmentConfig) -> F32:
    """Read a part of the slide, normalised for the model, (h, w, 3).

    Raises:
        InputError: the part cannot be read, or contains values that cannot be segmented.
    """
    if config.normalize:
        context = context_of(extent, reader.size_hw)
        raw = read_extent(reader, context)
        part = normalize_part(raw, context, extent, trial.sample.contrast, invert=trial.inverted)
    else:
        part = take_normalized(read_extent(reader, extent))
    return without_whole_cell(part) if trial.nuclear_alone else part


def read_tile(
    reader: ImageReader, layout: SlideLayout, place: int, config: SegmentConfig, settings: SlideSettings
) -> Tile | None:
    """Read a tile, normalised for the model, of 3 channels; None if it has no signal.

    Raises:
        InputError: the tile cannot be read, or contains values that cannot be segmented.
    """
    extent = layout.extent(place)
    context = context_of(extent, reader.size_hw) if config.normalize else extent
    raw = read_extent(reader, context)
    top, left = context[:2]
    own = raw[extent[0] - top : extent[2] - top, extent[1] - left : extent[3] - left]
    if not has_signal(own, layout.contrast, settings.min_contrast):
        return None
    if config.normalize:
        part = normalize_part(raw, context, extent, layout.contrast, invert=layout.appearance.inverted)
    else:
        part = take_normalized(raw)
    if layout.appearance.nuclear_alone:
        part = without_whole_cell(part)
    return Tile(part, layout.grid.side, layout.origin(place))
