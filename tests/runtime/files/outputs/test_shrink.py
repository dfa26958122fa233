"""Tests of shrinking large images."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.files.outputs import shrink
from runtime.types import Extent


@pytest.mark.parametrize(
    ("size", "factor"), [((1, 1), 1), ((4096, 10), 1), ((10, 4097), 2), ((8192, 8193), 3), ((100_000, 5), 25)]
)
def test_the_longer_side_fits(size: tuple[int, int], factor: int) -> None:
    assert shrink.shrink_factor(size) == factor


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float64])
def test_squares_are_averaged_part_by_part(monkeypatch: pytest.MonkeyPatch, dtype: type[np.generic]) -> None:
    monkeypatch.setattr(shrink, "READ_PX", 9)
    image = np.random.default_rng(0).integers(0, 200, (35, 27, 2)).astype(dtype)
    sizes = []

    def read(extent: Extent) -> NDArray[np.generic]:
        top, left, bottom, right = extent
        sizes.append((bottom - top, right - left))
        return image[top:bottom, left:right]

    means = shrink.shrunk(read, (35, 27, 2), image.dtype, 4)
    assert (means.shape, means.dtype) == ((9, 7, 2), np.uint8 if dtype == np.uint8 else np.float32)
    assert max(max(size) for size in sizes) == 8
    tolerance = 0.5 if dtype == np.uint8 else 1e-4
    for y, x in ((0, 0), (1, 2), (8, 6)):
        square = image[4 * y : 4 * y + 4, 4 * x : 4 * x + 4].astype(np.float64)
        np.testing.assert_allclose(means[y, x].astype(np.float64), square.mean(axis=(0, 1)), atol=tolerance)
