"""Tests of filled polygons and strokes."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from runtime.files.outputs.polygons import mask_polygons
from runtime.ops.drawing import fill_rings, fill_stroke
from tests.runtime.correction.made import label_maps

SIZE_HW = (10, 14)


@given(label_maps)
def test_outlines_of_a_mask_fill_the_mask(labels: Any) -> None:
    mask = labels > 1
    rings = [ring for polygon in mask_polygons(mask) for ring in polygon]
    np.testing.assert_array_equal(fill_rings(rings, mask.shape).paste(mask.shape), mask)


@given(
    st.lists(st.tuples(st.floats(-30, 40), st.floats(-30, 40)), min_size=1, max_size=4),
    st.floats(0.1, 9.0),
)
def test_strokes_are_the_pixels_within_a_radius(points: list[tuple[float, float]], radius: float) -> None:
    y, x = np.mgrid[: SIZE_HW[0], : SIZE_HW[1]] + 0.5
    nearest = np.full(SIZE_HW, np.inf)
    for start, stop in zip(points, points[1:] or points, strict=False):
        for share in np.linspace(0, 1, 201):
            at = np.array(start) * (1 - share) + np.array(stop) * share
            nearest = np.minimum(nearest, np.hypot(x - at[0], y - at[1]))
    filled = fill_stroke(points, radius, SIZE_HW).paste(SIZE_HW)
    step = max(np.hypot(*(np.array(b) - a)) for a, b in zip(points, points[1:] or points, strict=False)) / 200
    assert filled[nearest <= radius - 1e-6].all()
    assert not filled[nearest > radius + step].any()


def test_shapes_outside_the_image_are_empty() -> None:
    for crop in (
        fill_rings([[(20, 20), (30, 20), (30, 30)]], SIZE_HW),
        fill_rings([[(1, 1), (2, 2)]], SIZE_HW),
        fill_rings([], SIZE_HW),
        fill_stroke([(1e12, -1e12)], 3.0, SIZE_HW),
    ):
        assert crop.mask.shape == (0, 0)
