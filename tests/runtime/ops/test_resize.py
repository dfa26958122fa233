"""The resize to the model input, compared with Pillow on images that are really padded."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from runtime.ops.resize import UNCHANGED, resize_plane

SIDES = st.integers(1, 300)


@given(height=SIDES, width=SIDES, beyond=st.integers(0, 400), size=st.sampled_from([1, 7, 64, 160]))
def test_the_frame_counts_as_padding(height: int, width: int, beyond: int, size: int) -> None:
    """Pixels beyond the image count as zeros, bit for bit."""
    plane = np.random.default_rng(height).random((2 * height, width), np.float32)[::2]
    side = max(height, width) + beyond
    padded = np.zeros((side, side), np.float32)
    padded[:height, :width] = plane
    expected = np.asarray(Image.fromarray(padded).resize((size, size), Image.Resampling.BILINEAR))
    out = np.full((size, size), np.nan, np.float32)
    resize_plane(plane, (side, side), out, UNCHANGED)
    np.testing.assert_array_equal(out, expected)


@given(height=SIDES, width=SIDES, size=st.sampled_from([1, 7, 64, 160]))
def test_an_image_that_fills_its_frame(height: int, width: int, size: int) -> None:
    """Equal up to the last bit, because Pillow 13 starts with the columns of some tall images."""
    plane = np.random.default_rng(width).random((height, width), np.float32)
    out = np.empty((size, size), np.float32)
    resize_plane(plane, (height, width), out, UNCHANGED)
    expected = np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(out, expected, atol=2e-7)


def test_a_frame_beyond_all_memory() -> None:
    out = np.empty((64, 64), np.float32)
    resize_plane(np.ones((3, 2), np.float32), (10**7, 10**7), out, UNCHANGED)
    assert 0 < out[0, 0] < 1e-6
    assert not out[1:].any()
    assert not out[:, 1:].any()


@given(height=SIDES, width=SIDES, beyond=st.integers(0, 400))
def test_values_are_rescaled_in_the_same_pass(height: int, width: int, beyond: int) -> None:
    plane = np.random.default_rng(width).random((height, width), np.float32)
    frame, scaling = (height + beyond, width + beyond), (np.float32(255), np.float32(103.53), np.float32(57.375))
    plain, scaled = np.empty((64, 48), np.float32), np.empty((64, 48), np.float32)
    resize_plane(plane, frame, plain, UNCHANGED)
    resize_plane(plane, frame, scaled, scaling)
    np.testing.assert_array_equal(scaled, (plain * scaling[0] - scaling[1]) / scaling[2])
    if not beyond:
        assert plane.min() <= plain.min() + 1e-6
        assert plain.max() <= plane.max() + 1e-6
