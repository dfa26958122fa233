"""Checks and normalisation of images: comparison with the released code, and properties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import InputError
from runtime.ops.model_input import box_branch_input, mask_branch_input
from runtime.ops.preprocess import channels_used, check_image, normalize_contrast, take_normalized
from tests.golden.cases import NAMES, assert_close, load_arrays


@pytest.mark.parametrize("name", NAMES)
def test_golden(name: str) -> None:
    arrays = load_arrays(name)
    normalized = normalize_contrast(arrays["image"])
    assert_close(normalized, arrays["normalized"], "normalised image")
    mask = mask_branch_input(normalized, 1024)
    assert_close(mask[None, :, ::16, ::16], arrays["encoder_input_s16"], "mask branch input")
    box = box_branch_input(normalized, 1024)
    assert_close(box[None, :, ::16, ::16], arrays["detector_input_s16"], "box branch input")
    assert mask.dtype == box.dtype == normalized.dtype == np.float32


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((3, 512, 512)), r"shape \(3, 512, 512\); expected \(H, W\) or.*Move the channel axis last"),
        (np.zeros((64, 64, 4)), "Drop the alpha channel"),
        (np.zeros((64, 64, 7)), "Pick up to three channels"),
        (np.zeros((2, 3, 4, 3)), "one plane at a time"),
        (np.zeros((10, 64, 64)), r"one plane of a stack: image\[z\]"),
        ([np.zeros((64, 64))] * 2, r"segmenter\.batch\(images\)"),
        ("cells.png", r"runtime\.files\.plain\.read_image\(path\)"),
        (np.zeros(12), r"shape \(12,\)"),
        (np.zeros((0, 5)), "empty"),
        (np.zeros((5, 5, 0)), "empty"),
        (np.zeros((4, 4), complex), "dtype complex128"),
        (np.full((4, 4), "a", object), "dtype object"),
        (np.full((4, 4), np.nan), "image has 16 of 16 pixels with NaN or infinite values.*Fiji.*Python"),
        (np.array([[0.0, np.inf]]), "1 of 2 pixels"),
        (np.full((4, 5, 3), [0, np.nan, np.inf]), "20 of 20 pixels"),
        (np.ma.masked_less(np.arange(12).reshape(3, 4), 5), r"5 masked of 12 values.*image\.filled"),
        ([[1, 2], [3]], "cannot be read as an array"),
    ],
)
def test_unusable_images_are_rejected(image: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_image(image)


def test_a_masked_array_without_masked_values_is_an_image() -> None:
    plane = np.arange(12).reshape(3, 4)
    checked = check_image(np.ma.masked_less(plane, 0))
    assert not isinstance(checked, np.ma.MaskedArray)
    np.testing.assert_array_equal(checked[..., 0], plane)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "uint16", "int64", "float16", "float32", "float64"])
def test_any_real_dtype(dtype: str) -> None:
    rng = np.random.default_rng(0)
    image = (rng.random((40, 50)) * 100).astype(dtype)
    out = normalize_contrast(image)
    assert out.shape == (40, 50, 3)
    assert out.dtype == np.float32
    assert 0 <= out.min() <= out.max() <= 1


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_inverted_contrast_is_that_of_the_negative(dtype: str) -> None:
    image = (np.random.default_rng(0).random((40, 50)) * 200 + 20).astype(dtype)
    image[0, 0] = 0
    found = normalize_contrast(image, invert=True)
    assert found.dtype == np.float32
    assert np.corrcoef(found[..., 2].ravel(), -image.astype(float).ravel())[0, 1] > 0.9
    assert found[0, 0, 2] == found[..., 2].max()
    assert not found[..., :2].any()
    assert not normalize_contrast(np.full((9, 9), 3), invert=True).any()


def test_channels_are_right_aligned() -> None:
    image = np.stack([np.full((2, 2), 1), np.full((2, 2), 2)], -1)
    np.testing.assert_array_equal(take_normalized(image / 2)[0, 0], [0, 0.5, 1])
    np.testing.assert_array_equal(take_normalized(image[..., 0])[0, 0], [0, 0, 1])
    bright = np.zeros((9, 9, 2))
    bright[4, 4, 0] = 1
    out = normalize_contrast(bright)
    assert out[..., 1].any()
    assert not out[..., (0, 2)].any()


@pytest.mark.parametrize("value", [2**62, -(2**60)])
def test_integers_beyond_float64_are_rejected(value: int) -> None:
    image = np.arange(16, dtype=np.int64).reshape(4, 4) + value
    with pytest.raises(InputError, match="expected values that float64 represents exactly"):
        normalize_contrast(image)
    assert normalize_contrast(image - value).any()


@pytest.mark.parametrize("low", [-1.7e308, -1e308])
def test_values_over_the_whole_range_of_float64_are_rejected(low: float) -> None:
    """Differences of these values are infinite, so nothing would be visible."""
    image = np.random.default_rng(0).random((20, 30))
    image[0, :2] = low, 1.7e308
    with pytest.raises(InputError, match=r"values from -1.*e\+308 to 1\.7e\+308, a range beyond that of float64"):
        normalize_contrast(image)


def test_normalized_images_must_be_in_range() -> None:
    with pytest.raises(InputError, match=r"values from 0\.0 to 2\.0; expected \[0, 1\]"):
        take_normalized(np.array([[0.0, 2.0]]))


@pytest.mark.parametrize("value", [0, 7, -3])
def test_constant_images_become_zero(value: int) -> None:
    assert not normalize_contrast(np.full((20, 30), value)).any()


@given(scale=st.floats(1e-3, 1e6), offset=st.sampled_from([0.0]))
def test_contrast_does_not_depend_on_the_intensity_unit(scale: float, offset: float) -> None:
    image = np.random.default_rng(1).random((32, 24))
    np.testing.assert_allclose(normalize_contrast(image * scale + offset), normalize_contrast(image), atol=2e-3)


@pytest.mark.parametrize("channels", [(), (0,), (2,), (0, 1, 2)])
def test_channels_used(channels: tuple[int, ...]) -> None:
    image = np.zeros((5, 7, 3), np.float32)
    for channel in channels:
        image[channel, 6, channel] = -0.5
    assert tuple(np.flatnonzero(channels_used(image))) == channels
    assert not channels_used(np.zeros((0, 4, 3), np.float32)).any()
