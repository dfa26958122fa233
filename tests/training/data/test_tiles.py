"""Tests of tile positions, padding, label filtering and contrast."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from runtime.ops.preprocess import normalize_contrast
from runtime.types import I32
from tests.training.data.sources import scene
from training.data.errors import DataError
from training.data.tiles import (
    OVERLAP,
    TILE_PX,
    crop_padded,
    cut_field,
    dense_labels,
    filter_labels,
    normalize_field,
    rescale_field,
    tile_starts,
)


def label_maps(side: int = 14) -> st.SearchStrategy[I32]:
    shapes = st.tuples(st.integers(1, side), st.integers(1, side))
    return shapes.flatmap(lambda shape: arrays(np.int32, shape, elements=st.integers(0, 6)))


@given(st.integers(1, 6000))
def test_tiles_cover_the_axis_with_a_quarter_of_overlap(length_px: int) -> None:
    starts = tile_starts(length_px)
    assert starts[0] == 0
    assert set(np.diff(starts)) <= {round(TILE_PX * (1 - OVERLAP))}
    assert starts[-1] + TILE_PX >= length_px
    # No tile lies completely inside the tile before it.
    assert all(start + TILE_PX < length_px for start in starts[:-1])


@pytest.mark.parametrize(
    ("length_px", "starts"), [(512, [0]), (513, [0, 384]), (896, [0, 384]), (1408, [0, 384, 768, 1152])]
)
def test_tile_starts_at_the_edges(length_px: int, starts: list[int]) -> None:
    assert tile_starts(length_px) == starts


def test_crop_is_padded_with_zeros_and_a_copy() -> None:
    field = np.ones((3, 600, 530), np.float32)
    tile = crop_padded(field, 384, 384)
    assert tile.shape == (3, TILE_PX, TILE_PX)
    assert tile[:, :216, :146].all()
    assert tile.sum() == 3 * 216 * 146
    tile[:] = 7
    assert field.max() == 1


@given(label_maps())
def test_dense_labels_keep_the_partition_and_are_idempotent(labels: I32) -> None:
    dense = dense_labels(labels)
    assert dense.dtype == np.int32
    np.testing.assert_array_equal(np.unique(dense[dense > 0]), np.arange(1, dense.max() + 1))
    np.testing.assert_array_equal(dense_labels(dense), dense)
    for value in np.unique(labels):
        assert len(np.unique(dense[labels == value])) == 1
    np.testing.assert_array_equal(dense == 0, labels == 0)


def test_dense_labels_of_large_unsigned_ids() -> None:
    labels = np.array([[0, 2**32 - 1], [7, 7]], np.uint32)
    np.testing.assert_array_equal(dense_labels(labels), [[0, 2], [1, 1]])


def is_valid(labels: I32, value: int) -> bool:
    """Check a label by the rules: one part, with corners as contact, and 2 px or more in both directions."""
    rows, columns = np.nonzero(labels == value)
    todo = {(int(rows[0]), int(columns[0]))}
    left = set(zip(rows.tolist(), columns.tolist(), strict=True)) - todo
    while todo:
        y, x = todo.pop()
        near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
        todo |= near
        left -= near
    return not left and np.ptp(rows) > 0 and np.ptp(columns) > 0


@given(label_maps())
def test_filter_keeps_exactly_the_valid_labels(labels: I32) -> None:
    kept = filter_labels(labels)
    valid = [value for value in np.unique(labels[labels > 0]) if is_valid(labels, value)]
    assert kept.max(initial=0) == len(valid)
    for number, value in enumerate(valid, start=1):
        np.testing.assert_array_equal(kept == number, labels == value)


@given(label_maps())
def test_filter_is_idempotent(labels: I32) -> None:
    once = filter_labels(labels)
    np.testing.assert_array_equal(filter_labels(once), once)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_contrast_is_the_runtimes(channels: int) -> None:
    image = np.stack([scene(seed)[0] for seed in range(channels)], -1)
    image = image[..., 0] if channels == 1 else image
    np.testing.assert_array_equal(normalize_field(image), np.moveaxis(normalize_contrast(image), -1, 0))
    blank = 3 - channels
    assert not normalize_field(image)[:blank].any()
    assert all(plane.any() for plane in normalize_field(image)[blank:])


def test_a_constant_image_is_refused() -> None:
    with pytest.raises(DataError, match="constant"):
        normalize_field(np.full((20, 20), 9, np.uint8))


def test_contrast_comes_before_tiling() -> None:
    image, labels = scene(3, (600, 530), cells=80)
    whole = normalize_field(image)
    tiles = cut_field(image, labels)
    assert [(t.y0, t.x0) for t in tiles] == [(0, 0), (0, 384), (384, 0), (384, 384)]
    for tile in tiles:
        np.testing.assert_array_equal(tile.image, crop_padded(whole, tile.y0, tile.x0))
        assert tile.image.dtype == np.float32
        assert tile.labels.dtype == np.int32
        assert (tile.height, tile.width) == (min(512, 600 - tile.y0), min(512, 530 - tile.x0))
        np.testing.assert_array_equal(np.unique(tile.labels), np.arange(tile.labels.max() + 1))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40))
def test_every_tile_label_is_a_label_of_the_field(seed: int, cells: int) -> None:
    image, labels = scene(seed, (520, 40), cells=cells)
    for tile in cut_field(image, labels):
        source = crop_padded(labels, tile.y0, tile.x0)
        for value in range(1, int(tile.labels.max()) + 1):
            (origin,) = np.unique(source[tile.labels == value])
            np.testing.assert_array_equal(tile.labels == value, source == origin)


def test_tiles_without_labels_are_left_out() -> None:
    image, labels = scene(1, (600, 600), cells=40)
    labels[:, 300:] = 0
    assert {(t.y0, t.x0) for t in cut_field(image, labels)} == {(0, 0), (384, 0)}
    assert cut_field(image, np.zeros_like(labels)) == []


def test_a_disjoint_label_goes_even_where_each_tile_sees_one_part() -> None:
    image, labels = scene(1, (40, 1000), cells=0)
    labels[5:15, 5:15] = labels[5:15, 960:980] = 1
    labels[20:30, 20:30] = 2
    tiles = cut_field(image, labels)
    assert [tile.labels.max() for tile in tiles] == [1]


def test_size_mismatch_names_both_sizes() -> None:
    image, labels = scene(1)
    with pytest.raises(DataError, match=r"\(60, 72\) and labels \(60, 71\)"):
        cut_field(image, labels[:, :-1])


def test_rescale_doubles_and_keeps_the_ids() -> None:
    image, labels = scene(5)
    bigger, bigger_labels = rescale_field(image, labels, 2.0)
    assert bigger.shape == bigger_labels.shape == (120, 144)
    assert image.min() <= bigger.min()
    assert bigger.max() <= image.max()
    np.testing.assert_array_equal(bigger_labels[::2, ::2], dense_labels(labels))
    np.testing.assert_array_equal(bigger_labels[1::2, 1::2], dense_labels(labels))
    two, _ = rescale_field(np.stack((image, image), -1), labels, 2.0)
    np.testing.assert_allclose(two[..., 1], bigger)
