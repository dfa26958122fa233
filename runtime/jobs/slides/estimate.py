"""Estimate of a slide job's time and memory, from one tile."""

from __future__ import annotations

import time
from dataclasses import dataclass

from runtime.config import SegmentConfig
from runtime.files.readers import ImageReader
from runtime.jobs.memory import peak_mib
from runtime.jobs.slides.contrast import is_small
from runtime.jobs.slides.engines import EngineSource, loaded
from runtime.jobs.slides.join import TILES_BYTES
from runtime.jobs.slides.layout import SlideLayout, make_layout, read_tile
from runtime.jobs.slides.settings import SlideSettings

_NORMALIZED_BYTES = 12
"""Memory of one tile pixel, bytes: three channels of float32."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Tiles, time and memory of a job in one process."""

    layout: SlideLayout
    tiles: int
    seconds_per_tile: float
    """Time to read and segment a tile with cells, without writing."""
    memory_mib: float | None
    """Peak memory of a process; None if the system does not report it."""

    @property
    def seconds(self) -> float:
        """Time for all tiles, as if no tile were empty."""
        return self.tiles * self.seconds_per_tile


def estimate(reader: ImageReader, engines: EngineSource, config: SegmentConfig, settings: SlideSettings) -> Estimate:
    """Lay out a slide and time the tile that varies most, or another one if that tile has no signal.

    Raises:
        InputError: the slide cannot be segmented, or its tile cannot be read.
    """
    segmenter = loaded(engines)
    config = config.at_pixel_size(reader.pixel_size_um, reader.name)
    layout = make_layout(reader, segmenter, config, settings)
    in_view = config.of_views
    # A small slide is sampled whole, so its busiest tile is simply the middle one.
    others = range(len(layout.grid)) if is_small(reader.size_hw) else ()
    tried = (
        place for place in (layout.busiest, *others) if read_tile(reader, layout, place, config, settings) is not None
    )
    place = next(tried, layout.busiest)
    seconds = 0.0
    for _ in range(2):  # the first run also warms up
        start = time.perf_counter()
        tile = read_tile(reader, layout, place, config, settings)
        if tile is not None:
            segmenter.segment_tiles([tile], layout.grid.size_hw, in_view)
        seconds = time.perf_counter() - start
    return Estimate(layout, len(layout.grid), seconds, _memory_mib(layout, settings))


def _memory_mib(layout: SlideLayout, settings: SlideSettings) -> float | None:
    """Add to the peak memory so far the tiles of a batch and the tiles kept for stitching."""
    peak = peak_mib()
    together = settings.tiles_together * layout.grid.side**2 * _NORMALIZED_BYTES
    return None if peak is None else peak + (together + TILES_BYTES) / (1 << 20)
