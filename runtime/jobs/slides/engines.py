"""The engines of a slide: what every process loads for itself."""

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
from runtime.segmenter import Segmenter
from runtime.views.grid import Tile
from runtime.views.merge_rules import TileCells
from runtime.views.scale import CellSizes
from runtime.views.stitch import tile_cells


class TileSegmenter(Protocol):
    """What segments the tiles of a slide; a ``Segmenter`` behind ``EngineSpec``."""

    @property
    def model_size(self) -> int:
        """Side of the model input, pixels."""
        ...

    @property
    def trained_channels(self) -> tuple[int, ...]:
        """See ``Manifest``."""
        ...

    def cell_sizes(self, tile: Tile, config: SegmentConfig) -> CellSizes:
        """Diameters of the cells of a normalised tile of 3 channels, (K) in its pixels."""
        ...

    def segment_tiles(self, tiles: Sequence[Tile], size_hw: tuple[int, int], config: SegmentConfig) -> list[TileCells]:
        """Cells of tiles of a slide of this size, one result per tile. Must depend on the tiles given alone."""
        ...

    def segment_whole(self, image: NDArray[np.generic], config: SegmentConfig) -> TileCells:
        """Cells of a raw image that is no larger than a tile."""
        ...


class EngineSource(Engines, Protocol):
    """Engines that every process loads for itself; can be pickled, and be compared as a key of a cache."""

    def load(self) -> TileSegmenter:
        """The engines; a process asks once."""
        ...

    def default_config(self) -> SegmentConfig:
        """Settings where the caller gives none."""
        ...

    def identity(self) -> dict[str, str]:
        """What its results depend on; a job is not gone on with by other engines."""
        ...

    def __hash__(self) -> int:
        """Of what ``load`` depends on."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSpec(SegmenterSpec):
    """The arguments of a ``Segmenter`` for tiles."""

    def load(self) -> TileSegmenter:
        """Load the engines.

        Raises:
            EngineError, BackendError, ConfigError: as ``Segmenter``.
        """
        # As the plain specification: a process that segments images and slides loads the engines once.
        return _SegmenterTiles(loaded_segmenter(SegmenterSpec(**_arguments(self))))


def for_tiles(spec: SegmenterSpec) -> EngineSpec:
    """The same engines for the tiles of slides."""
    return EngineSpec(**_arguments(spec))


def _arguments(spec: SegmenterSpec) -> dict[str, Any]:
    return {field.name: getattr(spec, field.name) for field in fields(spec)}


@lru_cache(maxsize=1)
def loaded(source: EngineSource) -> TileSegmenter:
    """The engines of this process, loaded once."""
    return source.load()


class _SegmenterTiles:
    """A ``Segmenter`` as a ``TileSegmenter``."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter, self._pipeline = segmenter, segmenter.pipeline

    @property
    def model_size(self) -> int:
        return self._pipeline.manifest.image_size

    @property
    def trained_channels(self) -> tuple[int, ...]:
        return self._pipeline.manifest.trained_channels

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
