"""Stitched tiles show each cell once and whole, whatever the tiles and their order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from skimage.measure import label, regionprops

from benchmarks.made_slide import result_of
from runtime.ops.masks import MaskCrop, relabel
from runtime.results import Instances
from runtime.types import I32
from runtime.views.grid import TileGrid, tile_grid
from runtime.views.stitch import ViewCells, stitch, view_cells


def scene(seed: int, size: int = 240, cells: int = 40, longest: int = 16) -> I32:
    """Draw a label map of separate ellipses, numbered in reading order of their extents."""
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


def seen(truth: I32, grid: TileGrid, origin: tuple[int, int]) -> ViewCells:
    """Return the result of a perfect model for one tile; separate pieces of a cell become separate cells."""
    y, x = origin
    part = label(np.pad(truth, ((0, grid.side), (0, grid.side)))[y : y + grid.side, x : x + grid.side], connectivity=2)
    return view_cells(result_of(part.astype(np.int32)), origin, truth.shape)


def tiles_of(truth: I32, side: float, overlap: float) -> list[ViewCells]:
    grid = tile_grid(truth.shape, side, overlap)
    return [seen(truth, grid, origin) for origin in grid.origins]


@given(seed=st.integers(0, 1000), side=st.integers(70, 260), overlap=st.integers(36, 60))
def test_every_cell_comes_back_whole_and_once(seed: int, side: int, overlap: int) -> None:
    truth = scene(seed)
    result = stitch(tiles_of(truth, max(side, 2 * overlap), overlap), truth.shape)
    np.testing.assert_array_equal(result.labels, truth)
    assert len(result) == truth.max()
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
    """One tile contains the whole cell; the other cuts it at its edge and shows a false fragment."""
    whole = np.zeros((60, 60), np.int32)
    whole[20:40, 30:50] = 1
    cut = np.zeros((60, 60), np.int32)
    cut[22:38, 0:8] = 1
    cut[50:58, 0:3] = 2

    def tile(labels: I32, left: int) -> ViewCells:
        return view_cells(result_of(labels), (0, left), (60, 100))

    result = stitch([tile(whole, 0), tile(cut, 40)], (60, 100))
    assert len(result) == 1
    np.testing.assert_array_equal(result.labels[:, :60] > 0, whole > 0)
    assert not result.labels[:, 60:].any()


def test_what_two_tiles_see_cut_yields_to_the_tile_that_sees_it_whole() -> None:
    """Two of four adjacent tiles mistake the tip of a cell for the same false cell; a third shows the cell."""
    cell, tip = np.zeros((100, 100), np.int32), np.zeros((100, 100), np.int32)
    cell[42:58, 58:80] = 1
    tip[44:56, 54:60] = 1  # more than half of it lies beside the cell

    def tile(labels: I32, top: int, left: int) -> ViewCells:
        part = relabel(labels[top : top + 60, left : left + 60], 1)[0]
        return view_cells(result_of(part), (top, left), (100, 100))

    tiles = [tile(tip, 0, 0), tile(cell, 0, 40), tile(tip, 40, 0), tile(cell, 40, 40)]
    result = stitch(tiles, (100, 100))
    np.testing.assert_array_equal(result.labels, cell)


def test_small_leftovers_are_dropped() -> None:
    truth = np.zeros((40, 40), np.int32)
    truth[2:4, 2:4] = 1
    truth[10:20, 10:20] = 2
    assert stitch(tiles_of(truth, 40, 5), truth.shape, min_area_px=5).labels.max() == 1


def test_no_cells_at_all() -> None:
    result = stitch(tiles_of(np.zeros((100, 130), np.int32), 60, 10), (100, 130))
    assert result.labels.shape == (100, 130)
    assert len(result) == 0
    assert result.boxes.shape == (0, 4)
    assert result.masks == ()


def test_a_joined_cell_has_the_masks_of_its_parts_whatever_the_label_map_shows() -> None:
    """A bar crosses all tiles, and its masks contain more than each tile's label map shows."""
    truth = np.zeros((40, 200), np.int32)
    truth[10:20] = 1
    views = []
    for view in tiles_of(truth, 80, 20):
        grown = MaskCrop(np.ones((14, view.masks[0].mask.shape[1]), np.bool_), (8, view.masks[0].offset_yx[1]))
        views.append(replace(view, masks=(grown,)))
    assert len(views) > 2
    result = stitch(views, truth.shape)
    np.testing.assert_array_equal(result.labels, truth)
    expected = np.zeros(truth.shape, np.bool_)
    expected[8:22] = True
    np.testing.assert_array_equal(result.masks[0].paste(truth.shape), expected)
    assert result.prompts.tolist() == [-1]


def test_a_cell_that_is_left_too_small_is_hidden() -> None:
    truth = np.zeros((40, 40), np.int32)
    truth[2:4, 2:4] = 1
    truth[10:20, 10:20] = 2
    result = stitch(tiles_of(truth, 40, 5), truth.shape, min_area_px=5)
    assert (len(result), len(result.hidden)) == (1, 1)
    assert result.boxes.tolist() == [[10, 10, 20, 20]]
    assert result.hidden.boxes.tolist() == [[2, 2, 4, 4]]
    assert result.hidden.masks[0].area_px == 4


@given(y=st.integers(0, 99), x=st.integers(0, 129), size=st.integers(1, 12))
def test_what_every_tile_hides_is_hidden_once(y: int, x: int, size: int) -> None:
    """Tiles of 60 pixels overlap by at least 30, so one of them contains a whole cell of 12 pixels."""
    image = np.zeros((100, 130), np.int32)
    image[y : y + size, x : x + size] = 1
    region = regionprops(image)[0].bbox
    views = []
    for tile in tiles_of(image, 60, 30):
        cells = stitch([tile], image.shape)
        hidden = Instances(**{name: getattr(cells, name) for name in Instances.__slots__})
        top, left, bottom, right = tile.tile.extent
        empty = result_of(np.zeros((bottom - top, right - left), np.int32))
        views.append(replace(view_cells(empty, (top, left), image.shape), hidden=hidden))
    result = stitch(views, image.shape)
    assert (len(result), len(result.hidden)) == (0, 1)
    np.testing.assert_array_equal(result.hidden.masks[0].paste(image.shape), image > 0)
    assert result.hidden.boxes.tolist() == [[region[1], region[0], region[3], region[2]]]
