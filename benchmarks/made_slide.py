"""Slides of any size with known cells, generated when they are read, and doubles of the engines that find them.

They measure and test everything around the model: reading, tiles, stitching, writing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from runtime.config import SegmentConfig
from runtime.jobs.slides.engines import TileSegmenter
from runtime.ops.masks import label_crops, relabel
from runtime.provenance import Provenance
from runtime.results import DETECTED, Segmentation
from runtime.types import F32, F64, I32, I64
from runtime.views.grid import Tile
from runtime.views.merge_rules import TileCells
from runtime.views.scale import CellSizes
from runtime.views.stitch import tile_cells

AS_MADE = SegmentConfig(normalize=False, min_area_px=0)
"""Settings for pixels of 0 and 1, which need no normalisation."""

NOISE_PX = 509
"""Side of the noise that ``NoisySlide`` repeats."""


@dataclass(frozen=True)
class MadeSlide:
    """Slide of separate ellipses, at most one in each square of a lattice; an ``ImageReader``."""

    size_hw: tuple[int, int]
    pitch_px: int = 40
    """Side of the lattice's squares, pixels."""
    share: float = 0.7
    """Share of the squares with a cell."""
    seed: int = 0
    name: str = "made"
    channels: tuple[str, ...] = ("0",)
    pixel_size_um: float | None = None

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values, which are 0 and 1."""
        return np.dtype(np.uint8)

    @property
    def highest_label(self) -> int:
        """Number of squares of the lattice; some have no cell."""
        return int(np.prod([-(-length // self.pitch_px) for length in self.size_hw]))

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[np.generic]:
        """Return the part (height, width, 1) whose first pixel is (top, left)."""
        return (self.truth(top, left, height, width) > 0).astype(np.uint8)[..., None]

    def truth(self, top: int, left: int, height: int, width: int) -> I64:
        """Return the number of the cell at each pixel of a part, 0 at the background; all parts agree."""
        y, x = np.arange(top, top + height), np.arange(left, left + width)
        down, across = np.unique(y // self.pitch_px), np.unique(x // self.pitch_px)
        across_count = -(-self.size_hw[1] // self.pitch_px)
        square = down[:, None] * across_count + across
        uniform = self._uniform(square)
        # The ellipse fits into its square with a pixel to spare on every side, at any angle.
        radius = self.pitch_px / 2 - 2
        a, b = radius * (0.45 + 0.4 * uniform[0]), radius * (0.35 + 0.3 * uniform[1])
        reach = radius - np.maximum(a, b)
        centre_y = (down[:, None] + 0.5) * self.pitch_px + (2 * uniform[2] - 1) * reach
        centre_x = (across + 0.5) * self.pitch_px + (2 * uniform[3] - 1) * reach
        angle = np.pi * uniform[4]
        out = np.zeros((height, width), np.int64)
        for i, j in np.argwhere(uniform[5] < self.share).tolist():
            at_y, at_x = (
                slice(*np.searchsorted(axis, [n * self.pitch_px, (n + 1) * self.pitch_px]))
                for axis, n in ((y, down[i]), (x, across[j]))
            )
            dy, dx = y[at_y, None] - centre_y[i, j], x[at_x] - centre_x[i, j]
            cos, sin = np.cos(angle[i, j]), np.sin(angle[i, j])
            inside = ((dy * cos + dx * sin) / a[i, j]) ** 2 + ((dx * cos - dy * sin) / b[i, j]) ** 2 < 1
            out[at_y, at_x][inside] = square[i, j] + 1
        return out

    def _uniform(self, square: I64) -> list[F64]:
        """Return six numbers in [0, 1) for each square, by the mixing steps of SplitMix64 (Steele et al. 2014)."""
        numbers = []
        for stream in range(6):
            with np.errstate(over="ignore"):
                state = square.astype(np.uint64) * np.uint64(6) + np.uint64(stream + 7919 * self.seed)
                state = (state + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
                state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            numbers.append(((state ^ (state >> np.uint64(31))) >> np.uint64(11)) / 2.0**53)
        return numbers


@dataclass(frozen=True)
class NoisySlide(MadeSlide):
    """Slide with the same cells, bright on dark with noise, for a model to find."""

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[np.generic]:
        """Return the part (height, width, 1) whose first pixel is (top, left)."""
        noise = np.random.default_rng(self.seed).normal(0, 8, (NOISE_PX, NOISE_PX))
        at = np.ix_(np.arange(top, top + height) % NOISE_PX, np.arange(left, left + width) % NOISE_PX)
        cells = self.truth(top, left, height, width) > 0
        return (40 + 120 * cells + noise[at]).clip(0, 255).astype(np.uint8)[..., None]


@dataclass(frozen=True)
class PerfectEngines:
    """An ``EngineSource`` that finds the separate bright pieces of a tile."""

    seconds_per_tile: float = 0.0

    def load(self) -> TileSegmenter:
        """Return the segmenter; no file is needed."""
        return PerfectTiles(self.seconds_per_tile)

    def default_config(self) -> SegmentConfig:
        """Return settings for slides of 0 and 1."""
        return AS_MADE

    def identity(self) -> dict[str, str]:
        """Return a fixed identity."""
        return {"engines": "perfect"}

    def wants_own_gpu(self) -> bool:
        """Return False: nothing is computed on GPUs."""
        return False


@dataclass(frozen=True)
class PerfectTiles:
    """Tile segmenter of ``PerfectEngines``."""

    seconds_per_tile: float
    model_size: int = 256
    trained_channels: tuple[int, ...] = ()
    provenance: Provenance | None = None

    def cell_sizes(self, tile: Tile, config: SegmentConfig) -> CellSizes:
        """Return the sizes of the bright pieces."""
        areas = np.bincount(perfect_result(tile.pixels).labels.ravel())[1:]
        return CellSizes(2 * np.sqrt(areas / np.pi), np.ones(len(areas), np.float32))

    def segment_tiles(self, tiles: Sequence[Tile], size_hw: tuple[int, int], config: SegmentConfig) -> list[TileCells]:
        """Return the bright pieces of each tile."""
        time.sleep(self.seconds_per_tile * len(tiles))
        return [tile_cells(perfect_result(tile.pixels), tile.origin_yx, size_hw) for tile in tiles]

    def segment_whole(self, image: NDArray[np.generic], config: SegmentConfig) -> TileCells:
        """Return the bright pieces of an image."""
        return tile_cells(perfect_result(image.astype(np.float32)), (0, 0), (image.shape[0], image.shape[1]))


@dataclass(frozen=True)
class EdgeBlindEngines(PerfectEngines):
    """Perfect engines that fail near the edges of a tile; see ``worn_at_edges``."""

    reach_px: int = 24
    """Distance from an edge within which cells are affected, slide pixels."""

    def load(self) -> TileSegmenter:
        """Return the segmenter; no file is needed."""
        return EdgeBlindTiles(self.seconds_per_tile, reach_px=self.reach_px)

    def identity(self) -> dict[str, str]:
        """Return an identity with the reach."""
        return {"engines": "edge-blind", "reach_px": str(self.reach_px)}


@dataclass(frozen=True)
class EdgeBlindTiles(PerfectTiles):
    """Tile segmenter of ``EdgeBlindEngines``."""

    reach_px: int = 24

    def segment_tiles(self, tiles: Sequence[Tile], size_hw: tuple[int, int], config: SegmentConfig) -> list[TileCells]:
        """Return the bright pieces of each tile, damaged near its edges."""
        found = []
        for tile in tiles:
            seen = worn_at_edges(perfect_result(tile.pixels).labels, tile.origin_yx, size_hw, self.reach_px)
            found.append(tile_cells(result_of(seen), tile.origin_yx, size_hw))
        return found


def worn_at_edges(labels: I32, origin_yx: tuple[int, int], size_hw: tuple[int, int], reach_px: int) -> I32:
    """Damage labels near the edges of a tile, like a model that needs the surroundings of a cell.

    This affects cells closer than ``reach_px`` to an edge of the tile inside the slide. Such a cell is lost, truncated
    within reach, split in two, eroded or dilated by two pixels, or left unchanged, with equal probability.

    Args:
        labels: (h, w) int32, dense labels of the tile.
        origin_yx: first pixel of the tile in the slide.
        size_hw: size of the slide (height, width), pixels.
        reach_px: distance from an edge within which cells are affected, pixels.

    Returns:
        (h, w) int32, dense labels.
    """
    rng = np.random.default_rng(origin_yx)
    depths = [
        np.minimum(
            np.arange(length) if first else np.full(length, reach_px),
            np.arange(length)[::-1] if first + length < size else np.full(length, reach_px),
        )
        for length, first, size in zip(labels.shape, origin_yx, size_hw, strict=True)
    ]
    out, upto = labels.copy(), int(labels.max(initial=0))
    for n, (y, x) in enumerate(ndimage.find_objects(labels), start=1):
        # Two more pixels leave room for dilation.
        at = slice(max(0, y.start - 2), y.stop + 2), slice(max(0, x.start - 2), x.stop + 2)
        mask, depth = labels[at] == n, np.minimum(depths[0][at[0], None], depths[1][at[1]])
        if depth[mask].min() >= reach_px:
            continue
        kind, region = rng.integers(6), out[at]
        if kind < 4:
            region[mask] = 0
        if kind == 1:
            region[mask & (depth >= rng.integers(1, reach_px))] = n
        elif kind == 2:
            upto += 1
            across = np.arange(mask.shape[0])[:, None] < mask.shape[0] // 2
            region[mask & across], region[mask & ~across] = n, upto
        elif kind == 3:
            region[ndimage.binary_erosion(mask, iterations=2)] = n
        elif kind == 4:
            region[ndimage.binary_dilation(mask, iterations=2) & (region == 0)] = n
    return relabel(out, upto)[0]


def perfect_result(image: F32) -> Segmentation:
    """Segment the pieces of an (H, W, C) image that are brighter than 0.5 in its last channel."""
    labels, _ = ndimage.label(image[..., -1] > 0.5, structure=np.ones((3, 3)))
    return result_of(labels.astype(np.int32))


def result_of(labels: I32) -> Segmentation:
    """Convert dense labels to a result with score 1 for every cell."""
    extents = [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(labels)]
    count = len(extents)
    return Segmentation(
        labels=labels,
        boxes=np.array(extents, np.float64).reshape(-1, 4),
        scores=np.ones(count, np.float32),
        iou_predictions=np.ones(count, np.float32),
        masks=label_crops(labels),
        prompts=np.full(count, DETECTED),
    )
