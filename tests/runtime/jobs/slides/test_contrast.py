"""The contrast of tiles equals that of the whole image, bit for bit, without seams; empty tiles have no cells."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.jobs.slides import ArrayReader, contrast
from runtime.jobs.slides.contrast import (
    context_of,
    has_signal,
    normalize_part,
    part_extents,
    read_extent,
    sample_slide,
)
from runtime.ops.preprocess import normalize_contrast


def noisy(shape: tuple[int, ...], dtype: str, seed: int = 0) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    plane = (np.sin(y / 31) + np.cos(x / 17) + 2) * 50
    image = plane.reshape(*shape[:2], *[1] * (len(shape) - 2)) + rng.normal(0, 5, shape)
    return image.clip(0).astype(dtype)


def part_of(
    reader: ArrayReader, found: contrast.SlideContrast, extent: tuple[int, int, int, int], *, invert: bool = False
) -> NDArray[Any]:
    context = context_of(extent, reader.size_hw)
    top, left, bottom, right = context
    raw = reader.read(top, left, bottom - top, right - left)
    return normalize_part(raw, context, extent, found, invert=invert)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@settings(max_examples=10, deadline=None)
@given(data=st.data(), height=st.integers(1, 400), width=st.integers(1, 400), invert=st.booleans())
def test_a_part_is_that_of_the_whole_image(
    dtype: str, data: st.DataObject, height: int, width: int, invert: bool
) -> None:
    image = noisy((height, width), dtype)
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom, right = data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))
    reader = ArrayReader(image)
    found = sample_slide(reader, invert=invert).contrast
    expected = normalize_contrast(image, invert=invert)[top:bottom, left:right]
    np.testing.assert_array_equal(part_of(reader, found, (top, left, bottom, right), invert=invert), expected)


def test_parts_of_a_sampled_slide_have_no_seams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contrast, "SMALL_PX", 1)
    monkeypatch.setattr(contrast, "PARTS_PER_AXIS", 2)
    image = noisy((700, 520, 2), "uint16")
    reader = ArrayReader(image)
    found = sample_slide(reader).contrast
    assert len(part_extents(reader.size_hw)) == 4
    one = part_of(reader, found, (100, 37, 400, 300))
    other = part_of(reader, found, (250, 160, 700, 520))
    np.testing.assert_array_equal(one[150:, 123:], other[:150, :140])
    whole = normalize_contrast(image)[100:400, 37:300]
    assert np.abs(one - whole).mean() < 0.02, "close to that of the whole image"


@settings(max_examples=30, deadline=None)
@given(size=st.tuples(st.integers(1, 60_000), st.integers(1, 60_000)))
def test_the_sample_is_bounded_and_lies_in_the_slide(size: tuple[int, int]) -> None:
    extents = part_extents(size)
    assert 1 <= len(extents) <= contrast.PARTS_PER_AXIS**2
    if len(extents) > 1:
        assert max((b - t) * (r - l) for t, l, b, r in extents) <= contrast.PART_PX**2  # noqa: E741
    assert all(0 <= t < b <= size[0] and 0 <= l < r <= size[1] for t, l, b, r in extents)  # noqa: E741


def test_unreadable_parts_are_left_out(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(contrast, "SMALL_PX", 1)

    class Broken(ArrayReader):
        least = 200

        def read(self, top: int, left: int, height: int, width: int) -> NDArray[np.generic]:
            if top >= self.least:
                raise InputError("truncated")
            return super().read(top, left, height, width)

    reader = Broken(noisy((600, 300), "uint8"))
    assert sample_slide(reader).contrast[0] is not None
    assert "cannot be read" in caplog.text
    reader.least = 0
    with pytest.raises(InputError, match="truncated"):
        sample_slide(reader)


@pytest.mark.parametrize("masked", [False, True])
def test_parts_with_missing_pixels_are_named(masked: bool) -> None:
    image = noisy((40, 30), "float32")
    image[3, 4] = np.nan
    reader = ArrayReader(np.ma.masked_invalid(image) if masked else image, "slide")
    what = "1 masked of 320 values" if masked else "1 of 320 pixels with NaN"
    with pytest.raises(InputError, match=f"slide, rows 0-16, columns 0-20, has {what}"):
        read_extent(reader, (0, 0, 16, 20))


def test_faint_cells_are_signal_and_noise_is_not() -> None:
    image = noisy((400, 400), "uint16") * 100
    found = sample_slide(ArrayReader(image)).contrast
    low, high = found[0].range  # type: ignore[union-attr]
    ground = np.full((128, 128, 1), low + 100, np.uint16)
    assert not has_signal(ground, found, 2 / 256)
    grain = ground + np.random.default_rng(0).integers(0, int(0.004 * (high - low)), ground.shape, np.uint16)
    assert not has_signal(grain, found, 2 / 256)
    for y in range(3):  # at any position on the grid of blocks
        faint = grain.copy()
        faint[40 + y : 48 + y, 50:58] += np.uint16(0.012 * (high - low))
        assert has_signal(faint, found, 2 / 256), "eight pixels wide, three gray levels brighter"
    assert has_signal(grain, found, 0), "0 skips only constant tiles"


def test_signal_that_the_sample_missed_is_signal() -> None:
    part = np.zeros((128, 128, 1), np.uint16)
    part[30:40, 30:40] = 5
    assert has_signal(part, (None,), 0.5)
    out = normalize_part(part, (0, 0, 128, 128), (0, 0, 128, 128), (None,))
    assert out[35, 35, 2] > out[5, 5, 2]
