"""Tests of the edit operations: what each does, and properties of all."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from runtime import InputError, MaskCrop
from runtime.correction.difference import Difference, decode_difference, difference_of
from runtime.correction.edits.base import Edit
from runtime.correction.edits.cells import Delete, Merge, Relabel, Renumber, Swap
from runtime.correction.edits.draw import Add, Erase
from runtime.correction.edits.form import FillHoles, Grow, KeepLargest, Shrink
from runtime.correction.edits.parse import EDITS, parameters_of, parse_edit
from runtime.correction.edits.shapes import MaskRuns, Shape
from runtime.correction.edits.split import SplitAlongLine, SplitAtSeeds
from runtime.correction.label_map import MAX_LABEL, LabelMap
from runtime.types import I32
from tests.runtime.correction.made import SIZE_HW, edits, label_maps, two_cells


def after(edit: Edit, labels: I32) -> I32:
    """Return the labels after an edit, and check that they were not changed by computing it."""
    cells = LabelMap(labels.copy())
    difference = edit.difference(cells)
    np.testing.assert_array_equal(cells.labels, labels)
    cells.put(difference)
    return cells.labels


def assert_measured(cells: LabelMap) -> None:
    """Check areas and boxes against a fresh measurement."""
    fresh = LabelMap(cells.labels.copy())
    assert cells.areas == fresh.areas
    assert {label: cells.box(label) for label in cells.areas} == {label: fresh.box(label) for label in fresh.areas}


def rectangle(top: int, left: int, bottom: int, right: int) -> Shape:
    return Shape.of_polygon([(left, top), (right, top), (right, bottom), (left, bottom)])


@settings(max_examples=50)
@given(label_maps, st.lists(edits(), max_size=8))
def test_every_edit_can_be_inverted_and_is_measured(labels: I32, sequence: list[Edit]) -> None:
    cells = LabelMap(labels.copy())
    done: list[tuple[I32, Difference]] = []
    for edit in sequence:
        before = cells.labels.copy()
        try:
            difference = edit.difference(cells)
        except InputError:
            np.testing.assert_array_equal(cells.labels, before)
            continue
        count = cells.count_after(difference)
        _, created, removed = cells.put(difference)
        assert len(cells) == count
        assert set(created) == set(cells.areas) - set(np.unique(before))
        assert set(removed) == set(np.unique(before[before > 0])) - set(cells.areas)
        assert_measured(cells)
        np.testing.assert_array_equal(
            difference_of(before, cells.labels).new, difference.new, err_msg="only changed pixels, in a tight box"
        )
        done.append((before, difference))
    for before, difference in reversed(done):
        cells.put(difference.inverse())
        np.testing.assert_array_equal(cells.labels, before)
        assert_measured(cells)


@given(label_maps, st.integers(0, 20), st.integers(0, 20), st.data())
def test_differences_survive_encoding(before: I32, y: int, x: int, data: st.DataObject) -> None:
    new = data.draw(st.integers(0, MAX_LABEL))
    labels = np.where(data.draw(st.booleans()), before, np.roll(before, 1, axis=0)).astype(np.int32)
    labels[0, 0] = new
    difference = difference_of(before, labels, (y, x))
    size_hw = before.shape[0] + y, before.shape[1] + x
    found = decode_difference(difference.box, difference.encode(), size_hw)
    for name in ("changed", "old", "new"):
        np.testing.assert_array_equal(getattr(found, name), getattr(difference, name))
    if len(difference):
        with pytest.raises(InputError, match="box is"):
            decode_difference(difference.box, difference.encode(), (difference.box[2] - 1, size_hw[1]))
        with pytest.raises(InputError, match=r"bytes; expected|cannot be decompressed"):
            decode_difference(difference.box, difference.encode()[:-6], size_hw)


@given(edits())
def test_edits_survive_json(edit: Edit) -> None:
    content = json.loads(json.dumps({"operation": edit.operation, **parameters_of(edit)}))
    assert parse_edit(content) == edit


@given(label_maps.filter(lambda mask: mask.any()), st.integers(0, 5), st.integers(0, 5))
def test_masks_survive_run_lengths(labels: I32, y: int, x: int) -> None:
    crop = MaskCrop(labels > 1, (y, x))
    runs = MaskRuns.of(crop)
    np.testing.assert_array_equal(runs.decode(), crop.mask)
    shape = Shape.of_mask(crop).crop((20, 20))
    np.testing.assert_array_equal(shape.paste((20, 20)), crop.paste((20, 20)))


def test_add_makes_a_cell_or_joins_one_and_keeps_others() -> None:
    labels = two_cells()
    shape = rectangle(4, 4, 8, 8)
    new = after(Add(shape=shape), labels)
    assert np.count_nonzero(new == 6) == 16 - 1 - 4, "new cells have the highest label plus one; others keep pixels"
    assert np.count_nonzero(after(Add(shape=shape, overlap="overwrite"), labels) == 6) == 16
    joined = after(Add(shape=shape, label=1), labels)
    assert np.count_nonzero(joined == 1) == 16 + 16 - 1 - 4
    with pytest.raises(InputError, match="label is 3, but no cell has this label"):
        after(Add(shape=shape, label=3), labels)
    stroke = Shape.of_stroke([(0.5, 11.5), (14.5, 11.5)], 0.5)
    np.testing.assert_array_equal(after(Add(shape=stroke), labels)[11], 6)


def test_erase_takes_pixels_of_all_or_one() -> None:
    labels = two_cells()
    shape = rectangle(3, 0, 8, 15)
    assert np.count_nonzero(after(Erase(shape=shape), labels)) == 8 + 22
    assert np.count_nonzero(after(Erase(shape=shape, label=5), labels)) == 16 + 22


def test_whole_cells() -> None:
    labels = two_cells()
    assert set(np.unique(after(Delete(labels=(5,)), labels))) == {0, 1}
    merged = after(Merge(labels=(5, 1)), labels)
    np.testing.assert_array_equal(merged, np.where(labels > 0, 5, 0))
    swapped = after(Swap(first=1, second=5), labels)
    np.testing.assert_array_equal(swapped, np.select([labels == 1, labels == 5], [5, 1]))
    np.testing.assert_array_equal(after(Relabel(label=1, to=9), labels), np.where(labels == 1, 9, labels))
    np.testing.assert_array_equal(after(Renumber(), labels), np.where(labels == 5, 2, labels))
    with pytest.raises(InputError, match="to is 5, which is the label of another cell"):
        after(Relabel(label=1, to=5), labels)
    with pytest.raises(InputError, match=r"labels are \[1, 1\]; expected 2 or more different"):
        Merge(labels=(1, 1))


def test_holes_are_filled_without_other_cells() -> None:
    labels = np.zeros((9, 9), np.int32)
    labels[1:8, 1:8] = 2
    labels[3:6, 3:6] = 0
    labels[4, 4] = 1
    kept = after(FillHoles(label=2), labels)
    assert np.count_nonzero(kept == 2) == 48
    assert kept[4, 4] == 1
    assert np.count_nonzero(after(FillHoles(label=2, overlap="overwrite"), labels) == 2) == 49


@given(label_maps, st.integers(1, 4), st.integers(1, 3))
def test_growing_takes_background_alone(labels: I32, label: int, pixels: int) -> None:
    assume((labels == label).any())
    grown = after(Grow(label=label, pixels=pixels), labels)
    np.testing.assert_array_equal(grown[labels > 0], labels[labels > 0])
    assert set(np.unique(grown[(labels == 0) & (grown > 0)])) <= {label}
    distance = ndimage.distance_transform_cdt(labels != label, "chessboard")
    assert (distance[grown == label] <= pixels).all()


def test_shrinking_keeps_the_edge_of_the_image() -> None:
    labels = np.zeros((8, 8), np.int32)
    labels[0:5, 0:5] = 1
    shrunk = after(Shrink(label=1), labels)
    np.testing.assert_array_equal(shrunk == 1, np.pad(np.ones((4, 4), np.bool_), ((0, 4), (0, 4))))
    with pytest.raises(InputError, match="would leave nothing of cell 1"):
        after(Shrink(label=1, pixels=9), labels)


def test_the_largest_part_is_kept() -> None:
    labels = np.zeros((6, 9), np.int32)
    labels[1:4, 1:4] = labels[1:3, 6:8] = labels[4, 4] = 3
    np.testing.assert_array_equal(np.argwhere(after(KeepLargest(label=3), labels)).max(axis=0), (3, 3))


def test_seeds_split_two_touching_discs() -> None:
    y, x = np.ogrid[:20, :36]
    discs = ((y - 10) ** 2 + (x - 10) ** 2 <= 64) | ((y - 10) ** 2 + (x - 24) ** 2 <= 64)
    labels = np.where(discs, 4, 0).astype(np.int32)
    split = after(SplitAtSeeds(label=4, seeds=((10.5, 10.5), (24.5, 10.5))), labels)
    np.testing.assert_array_equal(split > 0, discs)
    assert (split[discs & (x < 16)] == 4).all()
    assert (split[discs & (x > 18)] == 5).all()
    with pytest.raises(InputError, match=r"seed 2 is at \(1, 1\); expected a pixel of cell 4"):
        after(SplitAtSeeds(label=4, seeds=((10.5, 10.5), (1.0, 1.0))), labels)


@pytest.mark.parametrize("far", [3.0, 1e9])
def test_a_line_splits_a_bar_and_only_that(far: float) -> None:
    labels = two_cells()
    labels[0, 14] = 5  # a separate part of the bar
    split = after(SplitAlongLine(label=5, points=((9.5, 8.5 - far), (9.5, 8.5 + far))), labels)
    np.testing.assert_array_equal(split > 0, labels > 0)
    assert (split[7:10, 2:9] == 5).all()
    assert (split[7:10, 10:13] == 6).all()
    assert split[0, 14] == 5
    with pytest.raises(InputError, match="the line does not cut cell 5"):
        after(SplitAlongLine(label=5, points=((9.5, 5.0), (9.5, 8.0))), labels)


@settings(max_examples=50)
@given(label_maps, st.data())
def test_splits_only_renumber_the_cell(labels: I32, data: st.DataObject) -> None:
    edit = data.draw(edits().filter(lambda one: one.operation.startswith("split")))
    try:
        split = after(edit, labels)
    except InputError:
        return
    cell = labels == edit.label  # type: ignore[attr-defined]
    np.testing.assert_array_equal(split[~cell], labels[~cell])
    assert (split[cell] > 0).all()
    assert len(np.unique(split[cell])) >= 2


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "operation is None; expected one of add, erase"),
    ({"operation": "paint"}, "operation is 'paint'"),
    ({"operation": "delete"}, "field 'labels' is missing"),
    ({"operation": "delete", "labels": []}, "labels are"),
    ({"operation": "delete", "labels": [1.5]}, r"labels\[0\] is 1.5, expected int"),
    ({"operation": "grow", "label": 1, "pixel": 2}, "unknown fields pixel"),
    ({"operation": "grow", "label": 1, "pixels": 0}, "pixels is 0; expected 1 to"),
    ({"operation": "add", "shape": {}}, "shape has no content; expected one of"),
    ({"operation": "add", "shape": {"polygon": [[1, 2], [3, 4]]}}, "polygon has 2 points"),
    ({"operation": "add", "shape": {"stroke": {"points": [[1, 2]], "radius": -1}}}, "radius is -1"),
    ({"operation": "add", "shape": {"mask": {"offset_yx": [0, 0], "size_hw": [2, 2], "runs": [1]}}}, "runs have 1"),
    ({"operation": "add", "shape": {"polygon": [[0, 0], [9, 0], [9, 9]]}, "overlap": "mix"}, "overlap is 'mix'"),
    ({"operation": "relabel", "label": 1, "to": MAX_LABEL + 1}, "to is 1000001; expected 1 to"),
]


@pytest.mark.parametrize(("content", "message"), WRONG)
def test_wrong_json_is_named(content: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_edit(content)


def test_every_operation_has_a_name_of_its_own() -> None:
    assert len(EDITS) == 14
    assert all(kind.operation == name for name, kind in EDITS.items())


def test_labels_out_of_range_are_rejected() -> None:
    for labels, message in (
        (np.zeros(SIZE_HW), "dtype float64; expected"),
        (np.full(SIZE_HW, -1), "labels range from -1"),
        (np.full(SIZE_HW, MAX_LABEL + 1), "expected 0 to 1000000"),
    ):
        with pytest.raises(InputError, match=message):
            LabelMap(labels)  # type: ignore[arg-type]
    full = LabelMap(np.full((2, 2), MAX_LABEL, np.int32))
    with pytest.raises(InputError, match="Renumber the cells"):
        Add(shape=rectangle(0, 0, 1, 1)).difference(full)
