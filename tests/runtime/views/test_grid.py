"""Tiles cover the image; stitched tiles show every cell once, whole, whatever the tiles and their order."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.measure import label, regionprops

from runtime.ops.masks import MaskCrop, relabel
from runtime.results import Segmentation
from runtime.types import I32
from runtime.views.grid import TileGrid, cut_tile, tile_grid
from runtime.views.scale import CellSizes, measure_diameter
from runtime.views.stitch import TileCells, stitch, tile_cells


@given(
    height=st.integers(1, 900), width=st.integers(1, 900), side=st.floats(40, 300), overlap_share=st.floats(0.05, 0.5)
)
def test_tiles_cover_the_image_with_the_overlap(height: int, width: int, side: float, overlap_share: float) -> None:
    overlap = side * overlap_share
    grid = tile_grid((height, width), side, overlap)
    assert side <= grid.side <= np.ceil(side * 1.15)
    assert len(grid) == len(grid.origins) == len(set(grid.origins))
    for starts, length in ((grid.tops, height), (grid.lefts, width)):
        assert starts[0] == 0
        assert starts[-1] == max(0, length - grid.side)
        assert all(after - before <= grid.side - overlap + 1 for before, after in pairwise(starts))


def test_no_more_tiles_than_needed() -> None:
    assert len(tile_grid((512, 512), 512, 90)) == 1
    assert len(tile_grid((580, 500), 512, 90)) == 1, "a little larger tile saves a row"
    assert len(tile_grid((934, 512), 512, 90)) == 2
    assert len(tile_grid((10, 10), 512, 90)) == 1


def test_a_tile_beyond_the_image_is_padded() -> None:
    image = np.arange(12, dtype=np.float32).reshape(3, 4, 1)
    tile = cut_tile(image, (1, 2), 4)
    np.testing.assert_array_equal(tile[:2, :2, 0], [[6, 7], [10, 11]])
    assert tile.shape == (4, 4, 1)
    assert tile.sum() == 34


def scene(seed: int, size: int = 240, cells: int = 40, longest: int = 16) -> I32:
    """A label map of separate ellipses, numbered in reading order of their extents."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    taken = np.zeros((size, size), np.bool_)
    labels = np.zeros((size, size), np.int32)
    for number in range(1, cells + 1):
        cy, cx = rng.uniform(0, size, 2)
        a, b = rng.uniform(4, longest, 2)
        angle = rng.uniform(0, np.pi)
        u = (y - cy) * np.cos(angle) + (x - cx) * np.sin(angle)
        v = (x - cx) * np.cos(angle) - (y - cy) * np.sin(angle)
        cell = (u / a) ** 2 + (v / b) ** 2 < 1
        if cell.sum() >= 12 and not (cell & taken).any():
            labels[cell] = number
            taken |= (u / (a + 2)) ** 2 + (v / (b + 2)) ** 2 < 1
    return in_reading_order(labels)


def in_reading_order(labels: I32) -> I32:
    """Number the cells as ``stitch`` does."""
    order = sorted(regionprops(labels), key=lambda region: region.bbox)
    lookup = np.zeros(labels.max() + 1, np.int32)
    for number, region in enumerate(order, start=1):
        lookup[region.label] = number
    return lookup[labels]


def seen(truth: I32, grid: TileGrid, origin: tuple[int, int]) -> Segmentation:
    """What a perfect model returns for one tile: pieces of one cell that are apart in it are cells of their own."""
    y, x = origin
    part = label(np.pad(truth, ((0, grid.side), (0, grid.side)))[y : y + grid.side, x : x + grid.side], connectivity=2)
    labels, ids = relabel(part.astype(np.int32), int(part.max()))
    regions = regionprops(labels)
    boxes = np.array([[r.bbox[1], r.bbox[0], r.bbox[3], r.bbox[2]] for r in regions], float).reshape(-1, 4)
    one = np.ones(len(boxes), np.float32)
    masks = tuple(MaskCrop(r.image, r.bbox[:2]) for r in regions)
    return Segmentation(labels, boxes, one, one, ids, masks)


def tiles_of(truth: I32, side: float, overlap: float) -> list[TileCells]:
    height, width = truth.shape
    grid = tile_grid((height, width), side, overlap)
    return [tile_cells(seen(truth, grid, origin), origin, (height, width)) for origin in grid.origins]


@given(seed=st.integers(0, 1000), side=st.integers(70, 260), overlap=st.integers(36, 60))
def test_every_cell_comes_back_whole_and_once(seed: int, side: int, overlap: int) -> None:
    truth = scene(seed)
    result = stitch(tiles_of(truth, max(side, 2 * overlap), overlap), truth.shape)
    np.testing.assert_array_equal(result.labels, truth)
    assert result.count == len(result.boxes) == len(result.scores) == len(result.masks)
    for region, box, mask in zip(regionprops(truth), result.boxes, result.masks, strict=True):
        assert box.tolist() == [region.bbox[1], region.bbox[0], region.bbox[3], region.bbox[2]]
        np.testing.assert_array_equal(mask.paste(truth.shape), truth == region.label)


@given(seed=st.integers(0, 1000), order=st.randoms(use_true_random=False))
def test_the_order_of_the_tiles_does_not_matter(seed: int, order: np.random.Generator) -> None:
    truth = scene(seed, longest=40)
    tiles = tiles_of(truth, 100, 20)
    shuffled = list(tiles)
    order.shuffle(shuffled)  # type: ignore[arg-type]
    one, other = stitch(tiles, truth.shape), stitch(shuffled, truth.shape)
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_array_equal(one.boxes, other.boxes)


def test_a_cell_larger_than_every_tile_is_put_together() -> None:
    truth = np.zeros((300, 300), np.int32)
    truth[20:40, 10:290] = 1
    truth[100:280, 100:280] = 2
    result = stitch(tiles_of(truth, 120, 30), truth.shape)
    np.testing.assert_array_equal(result.labels, truth)
    assert result.boxes.tolist() == [[10, 20, 290, 40], [100, 100, 280, 280]]


def test_the_better_view_of_a_cell_counts() -> None:
    """One tile sees the cell whole; the other, at its edge, sees less of it and a fragment that is none."""
    whole = np.zeros((60, 60), np.int32)
    whole[20:40, 30:50] = 1
    cut = np.zeros((60, 60), np.int32)
    cut[22:38, 0:8] = 1
    cut[50:58, 0:3] = 2

    def tile(labels: I32, left: int) -> TileCells:
        count = int(labels.max())
        one = np.ones(count, np.float32)
        return TileCells((0, left, 60, left + 60), labels, np.ones((count, 4)), one, one)

    result = stitch([tile(whole, 0), tile(cut, 40)], (60, 100))
    assert result.count == 1
    np.testing.assert_array_equal(result.labels[:, :60] > 0, whole > 0)
    assert not result.labels[:, 60:].any()


def test_what_two_tiles_see_cut_yields_to_the_tile_that_sees_it_whole() -> None:
    """Where four tiles meet, two of them take the tip of a cell for something else, alike; a third sees the cell."""
    cell, tip = np.zeros((100, 100), np.int32), np.zeros((100, 100), np.int32)
    cell[42:58, 58:80] = 1
    tip[44:56, 54:60] = 1  # more than half of it lies beside the cell

    def tile(labels: I32, top: int, left: int) -> TileCells:
        part = relabel(labels[top : top + 60, left : left + 60], 1)[0]
        one = np.ones(int(part.max()), np.float32)
        return TileCells((top, left, top + 60, left + 60), part, np.ones((len(one), 4)), one, one)

    tiles = [tile(tip, 0, 0), tile(cell, 0, 40), tile(tip, 40, 0), tile(cell, 40, 40)]
    result = stitch(tiles, (100, 100))
    np.testing.assert_array_equal(result.labels, cell)


def test_small_leftovers_are_dropped() -> None:
    truth = np.zeros((40, 40), np.int32)
    truth[2:4, 2:4] = 1
    truth[10:20, 10:20] = 2
    assert stitch(tiles_of(truth, 40, 5), truth.shape, min_area_px=5).count == 1


def test_no_cells_at_all() -> None:
    result = stitch(tiles_of(np.zeros((100, 130), np.int32), 60, 10), (100, 130))
    assert result.labels.shape == (100, 130)
    assert result.count == 0
    assert result.boxes.shape == (0, 4)
    assert result.masks == ()


def sure(diameters: NDArray[np.float64]) -> CellSizes:
    """Of cells that the detector is sure of."""
    return CellSizes(diameters, np.full(len(diameters), 0.9, np.float32))


@pytest.mark.parametrize(("size", "radius"), [((200, 300), 8), ((512, 512), 5), ((900, 400), 20)])
def test_measured_diameter(size: tuple[int, int], radius: int) -> None:
    """A detector that sees only what is at least 8 model pixels wide finds the scale by looking closer."""
    image = np.zeros((*size, 3), np.float32)
    y, x = np.mgrid[: size[0], : size[1]]
    for cy in range(radius + 2, size[0] - radius, 3 * radius):
        for cx in range(radius + 2, size[1] - radius, 3 * radius):
            image[(y - cy) ** 2 + (x - cx) ** 2 <= radius**2] = 1.0
    looks = []

    def find_cells(view: NDArray[np.float32]) -> CellSizes:
        side = view.shape[0]
        assert view.shape == (side, side, 3)
        looks.append(side)
        found = np.array([r.equivalent_diameter_area for r in regionprops(label(view[..., 0] > 0.5))])
        return sure(found[found * 128 / side >= 8])

    measured = measure_diameter(image, 128, find_cells, view_diameter_px=20)
    assert measured == pytest.approx(2 * radius + 1, rel=0.1)
    assert looks[0] == max(size)


def test_the_view_nearest_to_the_wanted_scale_counts() -> None:
    """Half of the cells are small and seen from close by only; far off, the large ones alone would be the median."""
    image = np.zeros((512, 512, 3), np.float32)
    y, x = np.mgrid[:512, :512]
    for number, (cy, cx) in enumerate((cy, cx) for cy in range(40, 500, 64) for cx in range(40, 500, 64)):
        image[(y - cy) ** 2 + (x - cx) ** 2 <= (30 if number % 3 == 0 else 10) ** 2] = 1.0

    def find_cells(view: NDArray[np.float32]) -> CellSizes:
        found = np.array([r.equivalent_diameter_area for r in regionprops(label(view[..., 0] > 0.5))])
        return sure(found[found * 128 / view.shape[0] >= 8])

    assert measure_diameter(image, 128, find_cells, view_diameter_px=12) == pytest.approx(21, abs=1)


def test_what_is_seen_with_low_scores_does_not_count() -> None:
    """Far off, the detector takes texture for cells of just the wanted diameter."""

    def find_cells(view: NDArray[np.float32]) -> CellSizes:
        if view.shape[0] > 256:
            return CellSizes(np.full(9, view.shape[0] * 20 / 128), np.full(9, 0.45, np.float32))
        return CellSizes(np.full(30, 12.0), np.full(200, 0.75, np.float32))

    image = np.random.default_rng(0).random((1024, 1024, 3)).astype(np.float32)
    assert measure_diameter(image, 128, find_cells, view_diameter_px=20) == 12


def test_nothing_to_measure() -> None:
    looks = []

    def find_cells(view: NDArray[np.float32]) -> CellSizes:
        looks.append(view.shape[0])
        return sure(np.zeros(0))

    assert measure_diameter(np.zeros((500, 500, 3), np.float32), 128, find_cells, view_diameter_px=20) is None
    assert looks == [500], "nothing but ground is looked at once"
