"""The engines of a slide: what every process loads for itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.config import SegmentConfig
from runtime.jobs.cluster import Engines
from runtime.jobs.segmenter_spec import SegmenterSpec, loaded_segmenter
from runtime.segmenter import Segmenter
from runtime.types import F32
from runtime.views.merge_rules import TileCells
from runtime.views.scale import CellSizes
from runtime.views.stitch import tile_cells

OriginTile = tuple[tuple[int, int], F32]
"""First pixel (y, x) of a tile in the slide, and the tile (side, side, 3), normalised."""


class TileSegmenter(Protocol):
    """What segments the tiles of a slide; a ``Segmenter`` behind ``EngineSpec``."""

    @property
    def model_size(self) -> int:
        """Side of the model input, pixels."""
        ...

    def cell_sizes(self, view: F32, config: SegmentConfig) -> CellSizes:
        """Diameters of the cells of a normalised square image (S, S, 3), (K) in its pixels."""
        ...

    def segment_tiles(
        self, tiles: Sequence[OriginTile], size_hw: tuple[int, int], config: SegmentConfig
    ) -> list[TileCells]:
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
        return _SegmenterTiles(loaded_segmenter(self))


def for_tiles(spec: SegmenterSpec) -> EngineSpec:
    """The same engines for the tiles of slides."""
    return EngineSpec(**{field.name: getattr(spec, field.name) for field in fields(spec)})


@lru_cache(maxsize=1)
def loaded(source: EngineSource) -> TileSegmenter:
    """The engines of this process, loaded once."""
    return source.load()


class _SegmenterTiles:
    """A ``Segmenter`` as a ``TileSegmenter``."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter = segmenter

    @property
    def model_size(self) -> int:
        return self._segmenter.manifest.image_size

    def cell_sizes(self, view: F32, config: SegmentConfig) -> CellSizes:
        """See ``TileSegmenter``."""
        return self._segmenter.cell_sizes(view, config=config)

    def segment_tiles(
        self, tiles: Sequence[OriginTile], size_hw: tuple[int, int], config: SegmentConfig
    ) -> list[TileCells]:
        return list(self._segmenter.cells_of_views(self._segmenter.encode_tiles(tiles), size_hw, config=config))

    def segment_whole(self, image: NDArray[np.generic], config: SegmentConfig) -> TileCells:
        result = self._segmenter(image, config=config)
        return tile_cells(result, (0, 0), (image.shape[0], image.shape[1]))
