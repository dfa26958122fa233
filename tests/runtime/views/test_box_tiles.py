"""Tiles for the caller's boxes."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.views.box_tiles import box_tiles, innermost_view

MODEL, WANTED = 512, 52.0


@st.composite
def fields(draw: st.DrawFn) -> tuple[tuple[int, int], NDArray[np.float64]]:
    """Draw an image and boxes in it, some of them larger than any tile."""
    height, width = (draw(st.integers(1, 3000)) for _ in range(2))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    count = draw(st.integers(0, 40))
    centres = rng.uniform(0, (width, height), (count, 2))
    sides = np.exp(rng.uniform(np.log(2), np.log(max(height, width, 3)), (count, 2)))
    return (height, width), np.hstack([centres - sides / 2, centres + sides / 2])


@given(fields())
@settings(max_examples=60, deadline=None)
def test_every_box_is_in_one_tile(made: tuple[tuple[int, int], NDArray[np.float64]]) -> None:
    size_hw, boxes = made
    tiles = box_tiles(boxes, size_hw, model_size=MODEL, view_diameter_px=WANTED, whole_view_diameter_px=33.8)
    rows = np.concatenate([np.zeros(0, int), *(tile.rows for tile in tiles)])
    assert sorted(rows.tolist()) == list(range(len(boxes)))
    assert all(len(tile.rows) for tile in tiles)
    for (top, left), side, inside in tiles:
        if side == max(size_hw):
            continue
        x0, y0, x1, y1 = boxes[inside].T
        assert (x0 >= left).all()
        assert (y0 >= top).all()
        assert (x1 <= left + side).all()
        assert (y1 <= top + side).all()
        # A group of boxes spans a factor of two.
        shown = np.sqrt((x1 - x0) * (y1 - y0)) * MODEL / side
        assert (shown <= 2.01 * WANTED).all()


def test_small_and_large_boxes_get_tiles_of_their_own() -> None:
    boxes = np.array([[500, 500, 520, 520], [100, 100, 900, 900], [505, 505, 530, 520]], float)
    tiles = box_tiles(boxes, (1000, 1000), model_size=MODEL, view_diameter_px=WANTED, whole_view_diameter_px=33.8)
    assert sorted(tile.rows.tolist() for tile in tiles) == [[0, 2], [1]]
    small, large = sorted(tiles, key=lambda tile: tile.side)
    assert small.side < 250
    assert large.side > 5 * 1000, "a cell as large as the image is shown at the size that the model knows"
    assert large.origin_yx == (0, 0)


def test_boxes_go_to_the_view_that_holds_them_farthest_inside() -> None:
    views = [((0, 0), (100, 100)), ((0, 60), (100, 100))]
    boxes = np.array([[10, 10, 20, 20], [70, 40, 80, 50], [90, 40, 98, 50], [-50, 0, 5, 5]], float)
    assert innermost_view(boxes, views).tolist() == [0, 0, 1, 0]
