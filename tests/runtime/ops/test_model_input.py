"""The inputs of both branches, compared with a step-by-step computation in NumPy and Pillow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from runtime.ops.branch_kernels import values_above
from runtime.ops.model_input import (
    batch_inputs,
    box_branch_input,
    branch_inputs,
    mask_branch_input,
    paper_input,
)
from runtime.ops.preprocess import normalize_contrast
from runtime.types import F32, Profile
from tests.runtime.ops import plain_inputs

TOLERANCE = 1e-6


@dataclass(frozen=True)
class Spec:
    """Settings of a manifest."""

    image_size: int = 96
    profile: Profile = "cellsam-1.2"
    renormalize: bool = True


def smooth(height: int, width: int, seed: int = 0) -> F32:
    """Return a plane (height, width) of blobs in [0, 1], a part of it 0."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    plane = sum(np.sin(rows / rng.uniform(3, 40) + columns / rng.uniform(3, 40) + i) for i in range(5))
    return np.clip(plane / 4, 0, 1).astype(np.float32)


def shown(*planes: F32 | None) -> F32:
    """Return an image (H, W, 3) of the given planes; None is blank."""
    (blank,) = {plane.shape for plane in planes if plane is not None}
    return np.stack([np.zeros(blank, np.float32) if plane is None else plane for plane in planes], -1)


ONE = smooth(150, 130)
IMAGES = {
    "one stain": shown(None, None, ONE),
    "nuclei alone": shown(None, ONE, None),
    "two stains": shown(None, ONE[::-1], ONE),
    "three channels": shown(ONE, ONE.T[:130, :130].repeat(2, 0)[:150], ONE[:, ::-1])[:, :130],
    "two values": shown(None, None, (ONE > 0.8).astype(np.float32)),
    "no zeros": shown(None, None, ONE / 2 + np.float32(0.25)),
    "constant": shown(None, None, np.full((40, 50), 0.5, np.float32)),
    "a bright pixel": shown(None, None, np.eye(1, 9000, 777, np.float32).reshape(90, 100)),
    "two pixels": shown(None, None, np.float32([[0.2, 0.9]])),
    "a pixel": shown(None, None, np.float32([[0.2]])),
    "black": np.zeros((9, 9, 3), np.float32),
    "normalised": normalize_contrast((ONE * 255).astype(np.uint8)),
}


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("size", [96, 256])
@pytest.mark.parametrize("frame", [None, (170, 170)])
def test_inputs_equal_the_plain_computation(name: str, size: int, frame: tuple[int, int] | None) -> None:
    image = IMAGES[name]
    close = {"rtol": 0, "atol": TOLERANCE}
    np.testing.assert_allclose(paper_input(image, size, frame), plain_inputs.paper(image, size, frame), **close)
    for again in (True, False):
        mask = mask_branch_input(image, size, frame, renormalize=again)
        np.testing.assert_allclose(mask, plain_inputs.mask_branch(image, size, frame, renormalize=again), **close)
        box = box_branch_input(image, size, frame, renormalize=again)
        np.testing.assert_allclose(box, plain_inputs.box_branch(image, size, frame, renormalize=again), **close)
        assert mask.dtype == box.dtype == np.float32


@given(
    image=hnp.arrays(
        np.float32, st.tuples(st.integers(1, 40), st.integers(1, 40), st.just(3)), elements=st.floats(0, 1, width=32)
    ),
    size=st.integers(1, 64),
)
def test_any_image_equals_the_plain_computation(image: Any, size: int) -> None:
    """Values that differ by a rounding of the resize may be another 8-bit level, so the box branch is left out."""
    np.testing.assert_allclose(paper_input(image, size), plain_inputs.paper(image, size), atol=1e-5)
    for again in (True, False):
        found = mask_branch_input(image, size, renormalize=again)
        assert np.isfinite(found).all()
        assert np.isfinite(box_branch_input(image, size, renormalize=again)).all()


@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("detector", [True, False])
def test_a_batch_holds_the_inputs_of_its_images(renormalize: bool, detector: bool) -> None:
    images, frames = [IMAGES["two stains"], IMAGES["black"], IMAGES["one stain"][:50]], [(150, 150), (9, 9), (200, 200)]
    for profile in ("paper", "cellsam-1.2"):
        spec = Spec(profile=profile, renormalize=renormalize)
        both = batch_inputs(images, spec, frames_hw=frames, detector=detector)
        assert both.mask.shape == (3, 3, 96, 96)
        for index, (image, frame) in enumerate(zip(images, frames, strict=True)):
            mask, box = branch_inputs(image, spec, frame_hw=frame, detector=detector)
            np.testing.assert_array_equal(both.mask[index], mask)
            assert (both.box is None) == (box is None) == (not detector)
            if box is not None and both.box is not None:
                np.testing.assert_array_equal(both.box[index], box)


def test_a_batch_is_written_to_given_arrays() -> None:
    made: list[F32] = []

    def make(shape: tuple[int, ...]) -> F32:
        made.append(np.full(shape, np.nan, np.float32))
        return made[-1]

    for image in IMAGES.values():
        mask, box = batch_inputs([image], Spec(), make=make)
        assert made[-2] is mask
        assert made[-1] is box
        assert np.isfinite(made[-2]).all()
        assert np.isfinite(made[-1]).all()


def test_paper_profile_feeds_both_branches_with_one_array() -> None:
    image, spec = np.random.default_rng(0).random((8, 8, 3), np.float32), Spec(16, "paper")
    inputs = branch_inputs(image, spec)
    assert inputs.box is inputs.mask
    np.testing.assert_array_equal(inputs.mask, paper_input(image, 16))
    assert branch_inputs(image, spec, detector=False).box is None
    batch = batch_inputs([image, image], spec)
    assert batch.box is batch.mask
    part = batch.part(slice(1, 2))
    assert part.box is part.mask


def test_a_single_stain_fills_both_channels_of_the_box_branch() -> None:
    image = np.zeros((20, 20, 3), np.float32)
    image[5:9, 5:9, 2] = 1.0
    pixels = box_branch_input(image, 20)
    np.testing.assert_array_equal(pixels[1], pixels[2])
    assert pixels[2].max() > 0


@given(
    plane=hnp.arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 300)), elements=st.floats(0, 1, width=16)),
    bound=st.floats(0, 1, width=16),
)
def test_values_above_a_bound(plane: Any, bound: float) -> None:
    found, equal = values_above(plane, np.float32(bound))
    np.testing.assert_array_equal(found, plane[plane > bound])
    assert equal == np.count_nonzero(plane == bound)
