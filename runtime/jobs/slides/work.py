"""The unit of work of a slide job: any process can read, segment and write a batch of neighbouring tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from runtime.config import SegmentConfig
from runtime.errors import RECOVERABLE_ERRORS, JobError
from runtime.files.readers import ImageReader
from runtime.jobs.failure import Failure
from runtime.jobs.slides.contrast import has_signal, read_extent
from runtime.jobs.slides.engines import EngineSource, loaded
from runtime.jobs.slides.jobs import Job
from runtime.jobs.slides.layout import read_tile
from runtime.jobs.slides.settings import SlideSettings
from runtime.types import Extent
from runtime.views.grid import Tile
from runtime.views.merge_rules import TileCells

Failures = tuple[tuple[int, Failure], ...]
"""Tiles without a result, with their failures."""


@dataclass(frozen=True, slots=True)
class BatchDone:
    """Outcome for one batch."""

    batch: int
    tiles: int
    skipped: int
    """Number of tiles without signal."""
    failed: Failures = ()


@dataclass(frozen=True, slots=True)
class TileWork:
    """Everything that a process needs to work on a job; picklable if the reader is."""

    reader: ImageReader
    engines: EngineSource
    config: SegmentConfig
    settings: SlideSettings
    job: Job

    @property
    def batches(self) -> int:
        """Number of batches."""
        return -(-len(self.job.layout.grid) // self.settings.tiles_together)

    def places(self, batch: int) -> range:
        """Return the tiles of a batch. Batches never change: tiles that share decoder calls may round differently."""
        first = batch * self.settings.tiles_together
        return range(first, min(first + self.settings.tiles_together, len(self.job.layout.grid)))

    def finished(self, batch: int) -> bool:
        """Return whether all results of a batch exist."""
        return all(self.job.finished(place) for place in self.places(batch))

    def run(self, batch: int) -> BatchDone:
        """Segment and write the tiles of a batch; if this fails, retry tile by tile.

        Raises:
            JobError: the disk is full.
        """
        places = list(self.places(batch))
        together = self._attempt(places)
        if isinstance(together, int):
            return BatchDone(batch, len(places), together)
        skipped, failed = 0, []
        for place in places:
            outcomes = (self._attempt([place]) for _ in range(1 + self.settings.retries))
            outcome: int | Failure = Failure("not tried")
            while isinstance(outcome, Failure) and (following := next(outcomes, None)) is not None:
                outcome = following
            if isinstance(outcome, int):
                skipped += outcome
            else:
                failed.append((place, outcome))
        return BatchDone(batch, len(places), skipped, tuple(failed))

    def failed(self, batch: int, error: BaseException) -> BatchDone:
        """Return the outcome of a batch that failed on a cluster: all its tiles failed.

        Raises:
            JobError: the disk is full.
        """
        if isinstance(error, JobError):
            raise error
        places, failure = self.places(batch), Failure.of(error, message=f"{type(error).__name__}: {error}")
        return BatchDone(batch, len(places), 0, tuple((place, failure) for place in places))

    def _attempt(self, places: Sequence[int]) -> int | Failure:
        """Call ``_segment``; return the failure if it raises."""
        try:
            return self._segment(places)
        except JobError:
            raise
        except RECOVERABLE_ERRORS as error:
            return Failure.of(error)

    def _segment(self, places: Sequence[int]) -> int:
        """Segment tiles and write their results; return the number of tiles without signal."""
        layout = self.job.layout
        size_hw = layout.grid.size_hw
        if layout.whole:
            raw = read_extent(self.reader, (0, 0, *size_hw))
            if not has_signal(raw, layout.contrast, self.settings.min_contrast):
                self.job.write_tile(0, no_cells((0, 0, *size_hw)))
                return 1
            config = replace(self.config, invert=layout.appearance.inverted)
            engines = loaded(self.engines)
            cells = engines.segment_whole(raw, config)
            self.job.record_engines(engines.provenance)
            self.job.write_tile(0, cells)
            return 0
        tiles: dict[int, Tile] = {}
        for place in places:
            tile = read_tile(self.reader, layout, place, self.config, self.settings)
            if tile is not None:
                tiles[place] = tile
        found: list[TileCells] = []
        if tiles:
            engines, in_view = loaded(self.engines), self.config.of_views
            found = engines.segment_tiles(list(tiles.values()), size_hw, in_view)
            self.job.record_engines(engines.provenance)
        results = dict(zip(tiles, found, strict=True))
        for place in places:
            self.job.write_tile(place, results.get(place) or no_cells(layout.extent(place)))
        return len(places) - len(tiles)


def no_cells(extent: Extent) -> TileCells:
    """Return the result of a tile without cells."""
    none = np.zeros(0, np.float32)
    labels = np.zeros((extent[2] - extent[0], extent[3] - extent[1]), np.int32)
    return TileCells(extent, labels, np.zeros((0, 4)), none, none)
