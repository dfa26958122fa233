"""Rows and labels of a result stay aligned for every selection."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from runtime import InputError, Instances, Segmentation
from runtime.ops.masks import relabel
from runtime.types import I32
from tests.runtime.files.outputs.made import made_result

label_maps = arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 6)).map(
    lambda labels: relabel(labels, 6)[0]
)


def assert_equal(a: Instances, b: Instances) -> None:
    for name in ("boxes", "scores", "iou_predictions", "prompts"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for mine, other in zip(a.masks, b.masks, strict=True):
        assert mine.offset_yx == other.offset_yx
        np.testing.assert_array_equal(mine.mask, other.mask)


def assert_aligned(result: Segmentation) -> None:
    """Check that labels are dense and that ``masks[i]`` equals label ``i + 1``, because these masks do not overlap."""
    np.testing.assert_array_equal(np.unique(result.labels[result.labels > 0]), np.arange(1, len(result) + 1))
    for label, (mask, box) in enumerate(zip(result.masks, result.boxes, strict=True), start=1):
        np.testing.assert_array_equal(mask.paste(result.labels.shape), result.labels == label)
        y, x = np.nonzero(result.labels == label)
        assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


@given(label_maps, st.data())
def test_kept_cells_are_numbered_in_the_order_of_the_rows(labels: I32, data: st.DataObject) -> None:
    result = made_result(labels, lost=2)
    rows = data.draw(st.permutations(range(len(result))).flatmap(lambda p: st.integers(0, len(p)).map(lambda m: p[:m])))
    kept = result[rows]
    assert len(kept) == len(rows)
    assert_aligned(kept)
    np.testing.assert_array_equal(kept.scores, result.scores[rows])
    for label, row in enumerate(rows, start=1):
        np.testing.assert_array_equal(kept.labels == label, labels == row + 1)
    assert kept.hidden is result.hidden
    assert kept.labels.dtype == np.int32


@given(label_maps, st.data())
def test_masks_slices_and_indices_choose_alike(labels: I32, data: st.DataObject) -> None:
    result = made_result(labels)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(result), max_size=len(result))), np.bool_)
    by_mask, by_index = result[mask], result[np.flatnonzero(mask)]
    np.testing.assert_array_equal(by_mask.labels, by_index.labels)
    assert_equal(by_mask, by_index)
    part = data.draw(st.slices(len(result)))
    by_slice, by_index = result[part], result[list(range(len(result)))[part]]
    np.testing.assert_array_equal(by_slice.labels, by_index.labels)
    assert_equal(by_slice, by_index)


@given(label_maps)
def test_all_rows_change_nothing(labels: I32) -> None:
    result = made_result(labels, lost=1)
    for rows in (
        slice(None),
        np.arange(len(result)),
        np.ones(len(result), np.bool_),
        -1 - np.arange(len(result))[::-1],
    ):
        same = result[rows]
        np.testing.assert_array_equal(same.labels, labels)
        assert_equal(same, result)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (1, r"index has shape \(\) and dtype int64; expected a slice, .* result\[\[i\]\]"),
        ([0.5], "dtype float64; expected a slice"),
        ("a", "expected a slice, a boolean mask or a list of indices"),
        ([[0], [1, 2]], "index cannot be read as an array"),
        ([True, False], "mask has 2 entries; expected 3, one per cell"),
        ([0, 3], "index 3 is out of range; expected -3 to 2 for 3 cells"),
        ([-4], "index -4 is out of range"),
        ([1, 1], "occurs twice"),
        ([1, -2], "occurs twice"),
    ],
)
def test_unusable_rows(rows: Any, message: str) -> None:
    result = made_result(np.arange(4, dtype=np.int32).reshape(2, 2))
    with pytest.raises(InputError, match=message):
        result[rows]


def test_no_rows() -> None:
    empty = made_result(np.ones((2, 3), np.int32), lost=1)[[]]
    assert (len(empty), len(empty.hidden), empty.labels.any()) == (0, 1, False)
    assert empty.boxes.shape == (0, 4)


def test_repr() -> None:
    labels = np.arange(4, dtype=np.int32).reshape(2, 2)
    assert repr(made_result(labels, lost=3)) == "Segmentation(3 cells, 2 x 2 pixels, 3 hidden)"
    assert repr(made_result(labels)[:1]) == "Segmentation(1 cell, 2 x 2 pixels, 0 hidden)"
    assert repr(made_result(labels, lost=3).hidden) == "Instances(3)"


def test_a_result_is_neither_true_nor_false_nor_a_list() -> None:
    result = made_result(np.zeros((2, 2), np.int32))
    for value in (result, result.hidden):
        with pytest.raises(InputError, match=r"truth value of a \w+ is ambiguous.*len\(result\) > 0"):
            bool(value)
    with pytest.raises(TypeError, match="not iterable"):
        list(result)  # type: ignore[call-overload]


def test_arrays_must_be_aligned() -> None:
    result = made_result(np.ones((2, 2), np.int32))
    with pytest.raises(InputError, match=r"scores has shape \(2,\); expected \(1,\) for 1 masks"):
        Instances(
            boxes=result.boxes,
            scores=np.ones(2, np.float32),
            iou_predictions=result.iou_predictions,
            masks=result.masks,
            prompts=result.prompts,
        )


@given(st.lists(label_maps, max_size=3))
def test_joined_instances_keep_their_order(maps: list[I32]) -> None:
    parts = [made_result(labels) for labels in maps]
    joined = Instances.joined(parts)
    assert len(joined) == sum(map(len, parts))
    start = 0
    for part in parts:
        assert_equal(joined[start : start + len(part)], part)
        start += len(part)
