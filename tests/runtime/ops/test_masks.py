"""Upsampling and mask assembly: against torch, and by property."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from scipy import ndimage

from runtime import SegmentConfig
from runtime.ops.mask_kernels import enclosed, extents
from runtime.ops.masks import (
    LabelCanvas,
    MaskCrop,
    cut_to_pixels,
    finish_labels,
    join_masks,
    relabel,
    resize_axis,
    upsample_window,
)

ARGMAX = SegmentConfig()
LAST = SegmentConfig(overlap="last")


def torch_resize(logits: np.ndarray, model: int, size_hw: tuple[int, int]) -> np.ndarray:
    """SAM's post-processing: two bilinear resizes."""
    x = torch.from_numpy(logits)[None, None]
    for size in ((model, model), size_hw):
        x = torch.nn.functional.interpolate(x, size, mode="bilinear", align_corners=False)
    return x[0, 0].numpy()


@pytest.mark.parametrize("size_hw", [(519, 253), (1024, 1024), (100, 2000), (1, 7), (256, 256)])
def test_upsampling_equals_the_two_resizes(size_hw: tuple[int, int]) -> None:
    logits = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32) * 5
    axes = (resize_axis(256, 1024, size_hw[0]), resize_axis(256, 1024, size_hw[1]))
    found, offset = upsample_window(logits, (0, 0), axes)
    assert offset == (0, 0)
    np.testing.assert_allclose(
        found, torch_resize(logits, 1024, size_hw), atol=1e-3
    )  # torch rounds positions to float32


@given(
    origin=st.tuples(st.integers(0, 39), st.integers(0, 39)),
    length=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size_hw=st.tuples(st.integers(1, 90), st.integers(1, 90)),
)
def test_a_window_equals_the_same_pixels_of_the_whole(origin: Any, length: Any, size_hw: Any) -> None:
    logits = np.random.default_rng(1).normal(size=(40, 40)).astype(np.float32)
    axes = (resize_axis(40, 160, size_hw[0]), resize_axis(40, 160, size_hw[1]))
    whole, _ = upsample_window(logits, (0, 0), axes)
    (y, x), (h, w) = origin, (min(length[0], 40 - origin[0]), min(length[1], 40 - origin[1]))
    part, (top, left) = upsample_window(logits[y : y + h, x : x + w], origin, axes)
    np.testing.assert_allclose(part, whole[top : top + part.shape[0], left : left + part.shape[1]], atol=1e-5)
    # Only pixels next to the window's cut edges may be missing.
    if (h, w) == (40, 40):
        assert part.shape == size_hw


@given(
    seed=st.integers(0, 999),
    origin=st.tuples(st.integers(0, 30), st.integers(0, 30)),
    length=st.tuples(st.integers(1, 10), st.integers(1, 10)),
    size_hw=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    threshold=st.floats(-1, 4),
)
def test_nothing_above_the_threshold_is_left_out(
    seed: int, origin: Any, length: Any, size_hw: Any, threshold: float
) -> None:
    logits = np.random.default_rng(seed).normal(size=length).astype(np.float32)
    axes = (resize_axis(40, 160, size_hw[0]), resize_axis(40, 160, size_hw[1]))

    def above(least: float) -> np.ndarray:
        found, (top, left) = upsample_window(logits, origin, axes, least)
        full = np.full(size_hw, -np.inf, np.float32)
        full[top : top + found.shape[0], left : left + found.shape[1]] = found
        return full

    whole, part = above(-np.inf), above(threshold)
    far = np.abs(whole - threshold) > 1e-5
    np.testing.assert_array_equal((whole > threshold)[far], (part > threshold)[far])
    shown = np.isfinite(part)
    np.testing.assert_allclose(part[shown], whole[shown], atol=1e-5)


def canvas_of(masks: list[tuple[np.ndarray, tuple[int, int]]], config: SegmentConfig, order: Any = None) -> Any:
    canvas = LabelCanvas((24, 24), config)
    crops = {k: canvas.add(k, *masks[k]) for k in (range(len(masks)) if order is None else order)}
    return canvas.owner, crops


mask_lists = st.lists(
    st.tuples(
        # Few distinct values, so that ties are common.
        hnp.arrays(
            np.float32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([-3, 0, 1, 2])
        ),
        st.tuples(st.integers(0, 15), st.integers(0, 15)),
    ),
    max_size=7,
)


@given(masks=mask_lists, seed=st.integers(0, 999), config=st.sampled_from([ARGMAX, LAST]))
def test_assembly_does_not_depend_on_the_order_of_arrival(masks: Any, seed: int, config: SegmentConfig) -> None:
    order = np.random.default_rng(seed).permutation(len(masks)).tolist()
    first, crops = canvas_of(masks, config)
    second, again = canvas_of(masks, config, order)
    np.testing.assert_array_equal(first, second)
    for k in range(len(masks)):
        np.testing.assert_array_equal(crops[k].paste((24, 24)), again[k].paste((24, 24)))


@given(masks=mask_lists)
def test_owners_follow_their_rule(masks: Any) -> None:
    threshold = np.float32(ARGMAX.mask_threshold_logit)
    stack = np.full((len(masks), 24, 24), -np.inf, np.float32)
    for k, (logits, (y, x)) in enumerate(masks):
        stack[k, y : y + logits.shape[0], x : x + logits.shape[1]] = logits
    inside = stack > threshold
    expected_last = np.zeros((24, 24), np.int32)
    expected_best = np.zeros((24, 24), np.int32)
    if len(masks):
        claimed = inside.any(0)
        expected_best[claimed] = np.where(inside, stack, -np.inf).argmax(0)[claimed] + 1
        for k in range(len(masks)):
            expected_last[inside[k]] = k + 1
    np.testing.assert_array_equal(canvas_of(masks, ARGMAX)[0], expected_best)
    owner, crops = canvas_of(masks, LAST)
    np.testing.assert_array_equal(owner, expected_last)
    for k in range(len(masks)):
        np.testing.assert_array_equal(crops[k].paste((24, 24)), inside[k])
        assert crops[k].area_px == inside[k].sum()
        if crops[k].area_px:
            mask = crops[k].mask
            assert mask[0].any()
            assert mask[-1].any()
            assert mask[:, 0].any()
            assert mask[:, -1].any()


label_maps = hnp.arrays(np.int32, st.tuples(st.integers(1, 20), st.integers(1, 20)), elements=st.integers(0, 12))


@given(labels=label_maps)
def test_relabel_gives_dense_ids_and_is_idempotent(labels: Any) -> None:
    once, ids = relabel(labels, 12)
    np.testing.assert_array_equal(np.unique(once[once > 0]), np.arange(1, once.max() + 1))
    np.testing.assert_array_equal(relabel(once, 12)[0], once)
    np.testing.assert_array_equal(once > 0, labels > 0)
    for value in range(1, 13):
        assert (ids[value - 1] > 0) == (labels == value).any()
        assert (once[labels == value] == ids[value - 1]).all()


@settings(max_examples=60)
@given(labels=label_maps, config=st.sampled_from([ARGMAX, LAST]), least=st.integers(0, 6), fill=st.booleans())
def test_finished_labels(labels: Any, config: SegmentConfig, least: int, fill: bool) -> None:
    config = SegmentConfig(overlap=config.overlap, min_area_px=least, fill_holes=fill)
    before = labels.copy()
    out, ids = finish_labels(labels, 12, config)
    np.testing.assert_array_equal(labels, before)
    np.testing.assert_array_equal(np.unique(out[out > 0]), np.arange(1, out.max() + 1))
    assert set(ids[ids > 0].tolist()) == set(range(1, out.max() + 1))
    if not fill:
        sizes = np.bincount(out.ravel())[1:]
        assert (sizes >= least).all()
    if config.overlap == "argmax":
        for value in range(1, 13):
            if ids[value - 1]:
                assert (out[labels == value] == ids[value - 1]).all(), "a cell lost pixels to another one's hole"


def ring_with_a_cell_inside() -> np.ndarray:
    labels = np.zeros((9, 9), np.int32)
    labels[1:8, 1:8] = 1
    labels[2:7, 2:7] = 0
    labels[4, 4] = 2
    return labels


@given(free=hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=14)))
def test_enclosed_is_what_scipy_fills(free: Any) -> None:
    np.testing.assert_array_equal(enclosed(free), ndimage.binary_fill_holes(~free) & free)


@pytest.mark.parametrize("share", [0.3, 0.55, 0.6, 0.7])
def test_enclosed_in_winding_paths(share: float) -> None:
    """Paths are longest near the share at which free pixels start to connect."""
    free = np.random.default_rng(0).random((200, 170)) < share
    np.testing.assert_array_equal(enclosed(free), ndimage.binary_fill_holes(~free) & free)


@given(labels=label_maps)
def test_extents_are_those_of_the_pixels(labels: Any) -> None:
    found = extents(labels, 12)
    for label in range(13):
        y, x = np.nonzero(labels == label)
        expected = (y.min(), y.max() + 1, x.min(), x.max() + 1) if len(y) else (labels.shape[0], 0, labels.shape[1], 0)
        assert tuple(found[label]) == expected


def test_argmax_keeps_a_cell_inside_a_hole() -> None:
    out, ids = finish_labels(ring_with_a_cell_inside(), 2, SegmentConfig(min_area_px=0))
    assert out[4, 4] == 2
    assert out[3, 3] == 1
    assert ids.tolist() == [1, 2]


def test_last_gives_a_hole_with_all_in_it_to_the_cell_around() -> None:
    """The cell around takes the hole, as in the released code."""
    out, ids = finish_labels(ring_with_a_cell_inside(), 2, SegmentConfig(min_area_px=0, overlap="last"))
    assert (out[1:8, 1:8] == 1).all()
    assert ids.tolist() == [1, 0]


def test_area_is_taken_before_holes_are_filled() -> None:
    labels = ring_with_a_cell_inside()
    labels[4, 4] = 0
    out, ids = finish_labels(labels, 1, SegmentConfig(min_area_px=25))
    assert out.max() == 0
    assert ids.tolist() == [0]
    assert finish_labels(labels, 1, SegmentConfig(min_area_px=24))[0].sum() == 49


def cell_by_cell(owner: Any, count: int, config: SegmentConfig) -> tuple[Any, Any]:
    """Compute ``finish_labels`` without first finding the cells that can have holes."""
    labels = owner.copy()
    for value, crop in enumerate(ndimage.find_objects(owner, max_label=count), start=1):
        if crop is not None:
            region = labels[crop]
            cell = region == value
            area = np.count_nonzero(cell)
            if area < config.min_area_px:
                region[cell] = 0
            elif area and config.fill_holes:
                filled = ndimage.binary_fill_holes(cell)
                region[filled if config.overlap == "last" else filled & (region == 0)] = value
    return relabel(labels, count)


@pytest.mark.parametrize("overlap", ["argmax", "last"])
@pytest.mark.parametrize("min_area_px", [0, 5, 20])
@pytest.mark.parametrize("fill_holes", [True, False])
def test_finishing_equals_cell_by_cell(overlap: Any, min_area_px: int, fill_holes: bool) -> None:
    """Random nested rectangles give holes, cells in holes, split cells and small ones."""
    config = SegmentConfig(overlap=overlap, min_area_px=min_area_px, fill_holes=fill_holes)
    rng = np.random.default_rng(0)
    for _ in range(300):
        count = int(rng.integers(1, 7))
        owner = np.zeros(rng.integers(1, 24, 2), np.int32)
        for _ in range(rng.integers(0, 12)):
            (y, x), (h, w) = rng.integers(0, owner.shape), rng.integers(1, 12, 2)
            owner[y : y + h, x : x + w] = rng.integers(0, count + 1)
            if rng.random() < 0.6:
                owner[y + 1 : y + h - 1, x + 1 : x + w - 1] = rng.integers(0, count + 1) * rng.integers(0, 2)
        found, expected = finish_labels(owner, count, config), cell_by_cell(owner, count, config)
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


@given(
    masks=st.lists(
        st.tuples(
            hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=5)),
            st.tuples(st.integers(0, 7), st.integers(0, 7)),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_joined_masks_are_the_union(masks: list[tuple[NDArray[np.bool_], tuple[int, int]]]) -> None:
    crops = [cut_to_pixels(mask, offset) for mask, offset in masks]
    for (mask, offset), crop in zip(masks, crops, strict=True):
        np.testing.assert_array_equal(crop.paste((12, 12)), MaskCrop(mask, offset).paste((12, 12)))
        assert not crop.mask.size or (crop.mask.any(0)[[0, -1]].all() and crop.mask.any(1)[[0, -1]].all())
    union = np.any([crop.paste((12, 12)) for crop in crops], axis=0)
    np.testing.assert_array_equal(join_masks(crops).paste((12, 12)), union)


@given(
    mask=hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=5)),
    offset=st.tuples(st.integers(0, 7), st.integers(0, 7)),
    origin=st.tuples(st.integers(0, 5), st.integers(0, 5)),
)
def test_a_mask_of_a_tile_in_the_image(
    mask: NDArray[np.bool_], offset: tuple[int, int], origin: tuple[int, int]
) -> None:
    """A tile of 12 x 12 pixels in an image of 10 x 9."""
    expected = np.pad(MaskCrop(mask, offset).paste((12, 12)), ((origin[0], 0), (origin[1], 0)))[:10, :9]
    found = cut_to_pixels(mask, offset).in_image(origin, (10, 9))
    assert found.area_px == expected.sum()
    if found.area_px:
        np.testing.assert_array_equal(found.paste((10, 9)), expected)
