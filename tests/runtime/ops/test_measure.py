"""Measurements, compared with values counted by hand and pixel by pixel."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from runtime import InputError
from runtime.ops.masks import relabel
from runtime.ops.measure import SHAPES, areas, intensities, intensity_columns, shapes

label_maps = arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 4)).map(
    lambda labels: relabel(labels, 4)[0]
)


@given(label_maps)
def test_areas_and_centroids_are_those_of_the_pixels(labels: Any) -> None:
    found = areas(labels)
    count = labels.max(initial=0)
    assert {name: column.shape for name, column in found.items()} == dict.fromkeys(found, (count,))
    assert found["label_area_px"].dtype == np.int64
    for n in range(1, count + 1):
        pixels = np.argwhere(labels == n)
        assert found["label_area_px"][n - 1] == len(pixels)
        centroid = found["centroid_y"][n - 1], found["centroid_x"][n - 1]
        np.testing.assert_allclose(centroid, pixels.mean(axis=0))


def test_a_label_without_pixels() -> None:
    found = areas(np.array([[0, 2, 2]], np.int32))
    assert found["label_area_px"].tolist() == [0, 2]
    np.testing.assert_array_equal(found["centroid_x"], [math.nan, 1.5])


def test_shapes_of_cells_counted_by_hand() -> None:
    labels = np.zeros((60, 60), np.int32)
    labels[2:7, 2:7] = 1  # border pixels: a square with sides of 4 pixels between centres
    labels[10, 10:30] = 2  # a line
    y, x = np.mgrid[:60, :60]
    labels[(y - 40) ** 2 + (x - 30) ** 2 <= 15**2] = 3
    labels[(y - 40) ** 2 + (x - 30) ** 2 <= 4**2] = 0
    found = shapes(labels)
    assert tuple(found) == SHAPES
    perimeter, eccentricity = found["perimeter_px"], found["eccentricity"]
    assert perimeter[0] == 16
    assert perimeter[2] == pytest.approx(2 * math.pi * (15 + 5), rel=0.05), "the hole's border counts too"
    np.testing.assert_allclose(eccentricity, [0, 1, 0], atol=0.01)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.uint16, np.float32, np.float64])
def test_intensities_of_every_channel(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    labels = np.kron(np.arange(6, dtype=np.int32).reshape(2, 3), np.ones((5, 4), np.int32))
    image = (rng.random((10, 12, 4)) * 2).astype(dtype)
    found = intensities(labels, image)
    assert tuple(found) == intensity_columns(("0", "1", "2", "3"))
    for name, function in (("mean", np.mean), ("median", np.median), ("min", np.min), ("max", np.max)):
        for channel in range(4):
            column = found[f"intensity_{name}_{channel}"]
            expected = [float(function(image[labels == n, channel].astype(float))) for n in range(1, 6)]
            np.testing.assert_allclose(column, expected, rtol=1e-6)
            assert column.dtype == np.float64
    named = intensities(labels, image[..., :2], ("DAPI", "CD3"))
    np.testing.assert_array_equal(named["intensity_median_CD3"], found["intensity_median_1"])
    assert tuple(intensities(labels, image[..., 0])) == (
        "intensity_mean",
        "intensity_median",
        "intensity_min",
        "intensity_max",
    )


def test_no_cells_are_empty_columns() -> None:
    nothing = np.zeros((5, 7), np.int32)
    found = areas(nothing) | shapes(nothing) | intensities(nothing, np.zeros((5, 7, 2), np.uint8))
    assert len(found) == 3 + 2 + 8
    for name, column in found.items():
        assert column.shape == (0,)
        assert column.dtype == (np.int64 if name == "label_area_px" else np.float64)


def test_images_that_cannot_be_measured() -> None:
    labels = np.ones((5, 7), np.int32)
    with pytest.raises(
        InputError, match=r"image has shape \(7, 5\); expected \(5, 7\) or \(5, 7, C\).* Give the image"
    ):
        intensities(labels, np.zeros((7, 5)))
    with pytest.raises(InputError, match=r"image has shape \(2, 5, 7\).*np\.moveaxis"):
        intensities(labels, np.zeros((2, 5, 7)))
    with pytest.raises(InputError, match=r"image has dtype complex128; expected real numbers.* Convert"):
        intensities(labels, np.zeros((5, 7), complex))
    with pytest.raises(InputError, match=r"1 channel names were given \(a\); expected 2 different"):
        intensities(labels, np.zeros((5, 7, 2)), ("a",))
    with pytest.raises(InputError, match=r"2 channel names were given \(a, a\); expected 2 different"):
        intensities(labels, np.zeros((5, 7, 2)), ("a", "a"))
