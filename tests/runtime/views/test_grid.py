"""Tiles cover the image with the requested overlap."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import InputError
from runtime.views.grid import cut_tile, grid_at_scale, tile_grid


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


def test_a_tile_beyond_the_image_takes_no_memory() -> None:
    image = np.arange(12, dtype=np.float32).reshape(3, 4, 1)
    tile = cut_tile(image, (1, 2), 10**9)
    np.testing.assert_array_equal(tile.pixels[..., 0], [[6, 7], [10, 11]])
    assert np.shares_memory(tile.pixels, image)
    assert (tile.frame_hw, tile.origin_yx) == ((10**9, 10**9), (1, 2))


@pytest.mark.parametrize(("diameter", "view_diameter"), [(1e300, 52.0), (1e5, 52.0), (20.0, 1e-300)])
def test_an_image_that_would_vanish_is_rejected(diameter: float, view_diameter: float) -> None:
    with pytest.raises(InputError, match=r"diameter_px is .*far more than the 20 x 500 pixels.*median diameter"):
        grid_at_scale((20, 500), diameter, 512, view_diameter)
    assert len(grid_at_scale((20, 500), 1300, 512, 52.0)) == 1
