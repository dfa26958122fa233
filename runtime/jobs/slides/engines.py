"""Engines for slides, which each process of a job loads for itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.config import SegmentConfig
from runtime.jobs.cluster import Engines
from runtime.jobs.segmenter_spec import SegmenterSpec, loaded_segmenter
from runtime.pipeline.choose_views import encode_tiles
from runtime.pipeline.view_tasks import ShownImage, ViewTask, segment_views
from runtime.provenance import Provenance
from runtime.segmenter import Segmenter
from runtime.views.grid import Tile
from runtime.views.merge_rules import TileCells
from runtime.views.scale import CellSizes
from runtime.views.stitch import tile_cells


class TileSegmenter(Protocol):
    """Segmenter of the tiles of a slide; ``EngineSpec`` loads a ``Segmenter`` for this."""

    @property
    def model_size(self) -> int:
        """Side of the model input, pixels."""
        ...

    @property
    def trained_channels(self) -> tuple[int, ...]:
        """Numbers of channels of the training images; see ``Manifest``."""
        ...

    @property
    def provenance(self) -> Provenance | None:
        """Origin of the results, as the loaded engines report it; None if unknown."""
        ...

    def cell_sizes(self, tile: Tile, config: SegmentConfig) -> CellSizes:
        """Measure the cells of a normalised tile of 3 channels: (K) diameters in pixels of the tile."""
        ...

    def segment_tiles(self, tiles: Sequence[Tile], size_hw: tuple[int, int], config: SegmentConfig) -> list[TileCells]:
        """Segment tiles of a slide of this size, one result for each. Results must depend only on these tiles."""
        ...

    def segment_whole(self, image: NDArray[np.generic], config: SegmentConfig) -> TileCells:
        """Segment a raw image that is no larger than a tile."""
        ...


class EngineSource(Engines, Protocol):
    """Engines that each process loads for itself; picklable and hashable."""

    def load(self) -> TileSegmenter:
        """Load the engines; each process calls this once."""
        ...

    def default_config(self) -> SegmentConfig:
        """Return the settings to use if the caller gives none."""
        ...

    def identity(self) -> dict[str, str]:
        """Return what results depend on; a job can be resumed only by engines of the same identity."""
        ...

    def __hash__(self) -> int:
        """Hash everything that ``load`` depends on."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSpec(SegmenterSpec):
    """The arguments of a ``Segmenter`` for tiles."""

    def load(self) -> TileSegmenter:
        """Load the engines.

        Raises:
            EngineError, BackendError, ConfigError: as ``Segmenter``.
        """
        # Keyed by the plain specification: a process that segments both images and slides loads the engines once.
        return _SegmenterTiles(loaded_segmenter(SegmenterSpec(**_arguments(self))))


def for_tiles(spec: SegmenterSpec) -> EngineSpec:
    """Return the same engines for the tiles of slides."""
    return EngineSpec(**_arguments(spec))


def _arguments(spec: SegmenterSpec) -> dict[str, Any]:
    return {field.name: getattr(spec, field.name) for field in fields(spec)}


@lru_cache(maxsize=1)
def loaded(source: EngineSource) -> TileSegmenter:
    """Return the engines of this process, loaded once."""
    return source.load()


class _SegmenterTiles:
    """``TileSegmenter`` that uses a ``Segmenter``."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter, self._pipeline = segmenter, segmenter.pipeline

    @property
    def model_size(self) -> int:
        return self._pipeline.manifest.image_size

    @property
    def trained_channels(self) -> tuple[int, ...]:
        return self._pipeline.manifest.trained_channels

    @property
    def provenance(self) -> Provenance | None:
        return self._segmenter.provenance

    def cell_sizes(self, tile: Tile, config: SegmentConfig) -> CellSizes:
        """See ``TileSegmenter``."""
        (encoded,) = encode_tiles(self._pipeline, [tile])
        return self._pipeline.cell_sizes(encoded, config)

    def segment_tiles(self, tiles: Sequence[Tile], size_hw: tuple[int, int], config: SegmentConfig) -> list[TileCells]:
        views = enumerate(encode_tiles(self._pipeline, tiles))
        tasks = (ViewTask(ShownImage(number, view.size_hw, stitched=True), view) for number, view in views)
        found = segment_views(self._pipeline, tasks, config)
        return [tile_cells(one.cells, one.origin_yx, size_hw) for one in found]

    def segment_whole(self, image: NDArray[np.generic], config: SegmentConfig) -> TileCells:
        result = self._segmenter(image, config=config)
        return tile_cells(result, (0, 0), (image.shape[0], image.shape[1]))
