"""Contrast normalisation equals scikit-image's, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from skimage.exposure import equalize_adapthist

from runtime.ops.clahe import equalize, gray_bins
from runtime.ops.preprocess import CLAHE_KERNEL_PX, normalize_contrast


def unit_image(height: int, width: int, sigma: float, power: float, seed: int) -> NDArray[np.float64]:
    image = np.random.default_rng(seed).random((height, width)) ** power
    image = ndimage.gaussian_filter(image, sigma)
    return (image - image.min()) / max(image.max() - image.min(), 1e-12)


@given(
    height=st.integers(2, 300),
    width=st.integers(2, 300),
    kernel=st.sampled_from([7, 32, 128]),
    sigma=st.sampled_from([0.0, 2.0, 8.0]),
    power=st.sampled_from([1.0, 5.0, 20.0]),
    clip_limit=st.sampled_from([0.003, 0.01, 0.3]),
    seed=st.integers(0, 50),
)
def test_equal_to_scikit_image(
    height: int, width: int, kernel: int, sigma: float, power: float, clip_limit: float, seed: int
) -> None:
    image = unit_image(height, width, sigma, power, seed)
    expected = equalize_adapthist(image, kernel_size=kernel, clip_limit=clip_limit).astype(np.float32)
    np.testing.assert_array_equal(equalize(gray_bins(image), kernel, clip_limit), expected)


def reference(plane: NDArray[Any]) -> NDArray[np.float32]:
    """Normalise as in the paper's Appendix A, with numpy and scikit-image."""
    channel = plane.astype(np.float64)
    values = channel[channel != 0]
    channel = np.minimum(channel, np.percentile(values, 99.9))
    unit = (channel - channel.min()) / (channel.max() - channel.min())
    return equalize_adapthist(unit, kernel_size=CLAHE_KERNEL_PX).astype(np.float32)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.float32])
@pytest.mark.parametrize("seed", range(4))
def test_every_type_is_normalised_alike(dtype: type, seed: int) -> None:
    high = 255 if dtype is np.uint8 else 3000
    image = (unit_image(150, 201, 3.0 * (seed % 2), 8.0, seed) * high + 5 * (seed > 1)).astype(dtype)
    np.testing.assert_array_equal(normalize_contrast(image)[..., 2], reference(image))


@given(values=st.lists(st.integers(0, 9), min_size=2, max_size=40), wide=st.booleans())
def test_tables_agree_with_arithmetic(values: list[int], wide: bool) -> None:
    image = np.array(values)[None] * (400 if wide else 1)
    by_table = normalize_contrast(image.astype(np.uint16))
    np.testing.assert_array_equal(by_table, normalize_contrast(image.astype(np.float64)))
