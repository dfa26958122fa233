"""What is decided about a slide before its first tile: contrast, scale, grid."""

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
    appearance: Appearance
    """Of the whole slide."""
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


class _SlideLook(NamedTuple):
    """A slide in one polarity."""

    sample: Sample
    inverted: bool
    nuclear_alone: bool
    small: bool
    """The whole slide is measured."""
    measures: bool = False
    """Some part was measured."""
    measured: Measurement | None = None

    @property
    def sure_of_polarity(self) -> bool:
        """Whether the other polarity need not be tried."""
        return self.measured is not None and self.measured.score >= ONE_POLARITY


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
    look = _look(reader, engines, config, settings, inverted=config.invert is True)
    margin = None
    if config.invert == "auto" and config.normalize and not look.sure_of_polarity:
        other = _look(reader, engines, config, settings, inverted=True)
        better, margin = inverted_is_better(look.measured, other.measured)
        look = other if better else look
    measured = look.measured if _measures_scale(config, settings) else None
    if measured is None and _measures_scale(config, settings) and not look.small:
        _log.warning(
            "no cell was found to measure in %s; its tiles are shown at the model's own size. Give diameter_px if it "
            "has cells.",
            reader.name,
        )
    appearance = Appearance(
        diameter_px=config.diameter_px if measured is None else measured.diameter_px,
        diameter_confidence=None if measured is None else measured.confidence,
        inverted=look.inverted,
        invert_margin=margin,
        nuclear_alone=look.nuclear_alone,
    )
    log_appearance(appearance, 0)
    return _laid_out(reader, look, appearance, engines.model_size, config, settings)


def _laid_out(
    reader: ImageReader,
    look: _SlideLook,
    appearance: Appearance,
    model_size: int,
    config: SegmentConfig,
    settings: SlideSettings,
) -> SlideLayout:
    """The tiles of a slide that was looked at."""
    grid = _grid(reader, appearance.diameter_px, model_size, config, settings)
    if look.small and look.measures and _measures_scale(config, settings):
        assert config.view_diameter_px is not None, "nothing is measured without a wanted diameter"
        diameter = None if look.measured is None else look.measured.diameter_px
        if one_view_will_do(
            diameter, max(reader.size_hw), model_size, config.view_diameter_px, config.whole_view_diameter_px
        ):
            grid = tile_grid(reader.size_hw, max(reader.size_hw), 0)
    return SlideLayout(grid, look.sample.contrast, appearance, len(grid) == 1, _busiest(grid, look.sample))


def _measures_scale(config: SegmentConfig, settings: SlideSettings) -> bool:
    """Whether the diameter of the cells decides how the slide is cut, and is not given."""
    return config.diameter_px is None and settings.tile_px is None and config.view_diameter_px is not None


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


def _grid(
    reader: ImageReader, diameter: float | None, model_size: int, config: SegmentConfig, settings: SlideSettings
) -> TileGrid:
    """The tiles of a slide whose cells have this diameter.

    Raises:
        InputError: too many tiles, or as ``_tiles``.
    """
    side, overlap = _tiles(reader.size_hw, diameter, model_size, config, settings)
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
    return tile_grid(reader.size_hw, side, overlap)


def _look(
    reader: ImageReader, engines: TileSegmenter, config: SegmentConfig, settings: SlideSettings, *, inverted: bool
) -> _SlideLook:
    """Look at parts of a slide in one polarity, and measure their cells if scale or polarity depend on it."""
    sample = sample_slide(reader, normalize=config.normalize, invert=inverted)
    shown = [index for index, one in zip(channel_targets(len(sample.contrast)), sample.contrast, strict=True) if one]
    alone = shown == [NUCLEAR, WHOLE_CELL] and lacks_pairs(engines.trained_channels)
    small = is_small(reader.size_hw)
    look = _SlideLook(sample, inverted, alone, small)
    if not _measures_scale(config, settings) and config.invert != "auto":
        return look
    side = None
    if not _measures_scale(config, settings):
        side = _grid(reader, config.diameter_px, engines.model_size, config, settings).side
    found: list[Measurement | None] = []
    extents = [(0, 0, *reader.size_hw)] if small else _windows(reader, sample, WINDOW_VIEWS * engines.model_size)
    for extent in extents:
        try:
            part = read_normalized(reader, extent, look, config)
        except InputError as error:
            _log.warning("cells of %s at %s cannot be measured: %s", reader.name, extent, error)
            continue
        found.append(_measured(part, engines, config, side))
    return look._replace(measured=_median(found), measures=bool(found))


def _measured(part: F32, engines: TileSegmenter, config: SegmentConfig, side: int | None) -> Measurement | None:
    """The cells of a part of a slide, at all scales or as tiles of this side show them."""
    in_view = config.of_views

    def find_cells(tile: Tile) -> CellSizes:
        return engines.cell_sizes(tile, in_view)

    if side is not None:
        return measure_at(part, side, engines.model_size, find_cells)
    assert config.view_diameter_px is not None, "nothing is measured without a wanted diameter"
    return measure_diameter(part, engines.model_size, find_cells, view_diameter_px=config.view_diameter_px)


def _median(found: Sequence[Measurement | None]) -> Measurement | None:
    """Of the parts in which cells were found."""
    rows = [one for one in found if one is not None]
    if not rows:
        return None
    diameter, score, agreement = (float(np.median(values)) for values in zip(*rows, strict=True))
    return Measurement(diameter, score, agreement)


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


def read_normalized(reader: ImageReader, extent: Extent, look: _SlideLook, config: SegmentConfig) -> F32:
    """A part of the slide as the model takes it, (h, w, 3).

    Raises:
        InputError: it cannot be read, or holds what cannot be segmented.
    """
    if config.normalize:
        context = context_of(extent, reader.size_hw)
        raw = read_extent(reader, context)
        part = normalize_part(raw, context, extent, look.sample.contrast, invert=look.inverted)
    else:
        part = take_normalized(read_extent(reader, extent))
    return without_whole_cell(part) if look.nuclear_alone else part


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
        part = normalize_part(raw, context, extent, layout.contrast, invert=layout.appearance.inverted)
    else:
        part = take_normalized(raw)
    if layout.appearance.nuclear_alone:
        part = without_whole_cell(part)
    return Tile(part, layout.grid.side, layout.origin(place))
