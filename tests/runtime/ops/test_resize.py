"""The resize to the model input, compared with Pillow on images that are really padded."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from runtime.ops.resize import resize_plane

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
    resize_plane(plane, (side, side), out)
    np.testing.assert_array_equal(out, expected)


@given(height=SIDES, width=SIDES, size=st.sampled_from([1, 7, 64, 160]))
def test_an_image_that_fills_its_frame(height: int, width: int, size: int) -> None:
    """Equal up to the last bit, because Pillow 13 starts with the columns of some tall images."""
    plane = np.random.default_rng(width).random((height, width), np.float32)
    out = np.empty((size, size), np.float32)
    resize_plane(plane, (height, width), out)
    expected = np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(out, expected, atol=2e-7)


def test_a_frame_beyond_all_memory() -> None:
    out = np.empty((64, 64), np.float32)
    resize_plane(np.ones((3, 2), np.float32), (10**7, 10**7), out)
    assert 0 < out[0, 0] < 1e-6
    assert not out[1:].any()
    assert not out[:, 1:].any()
