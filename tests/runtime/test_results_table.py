"""Columns of ``Segmentation.table``."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from runtime import ConfigError, InputError
from runtime.ops.measure import SHAPES, intensity_columns
from tests.runtime.files.outputs.made import awkward_labels, made_result

PLAIN = (
    *("label", "x0", "y0", "x1", "y1", "score", "iou_prediction"),
    *("mask_area_px", "label_area_px", "centroid_y", "centroid_x"),
)


def test_columns_and_their_types() -> None:
    labels = awkward_labels()
    image = np.random.default_rng(0).integers(0, 60_000, (*labels.shape, 5)).astype(np.uint16)
    result = made_result(labels, lost=2)
    table = result.table(image, 0.5)
    assert tuple(table) == (*PLAIN, "area_um2", *SHAPES, *intensity_columns("01234"))
    assert {column.shape for column in table.values()} == {(6,)}
    kinds = {name: column.dtype for name, column in table.items()}
    assert {name for name, kind in kinds.items() if kind == np.int64} == {"label", "mask_area_px", "label_area_px"}
    assert {name for name, kind in kinds.items() if kind == np.float32} == {"score", "iou_prediction"}
    assert {kind.name for kind in kinds.values()} == {"int64", "float32", "float64"}
    assert table["label"].tolist() == [1, 2, 3, 4, 5, 6]
    assert table["label_area_px"].tolist() == [63, 21, 51, 1, 13, 1]
    np.testing.assert_array_equal(table["area_um2"], table["label_area_px"] / 4)
    np.testing.assert_allclose(table["intensity_max_3"][0], image[labels == 1, 3].max())
    assert tuple(result.table()) == (*PLAIN, *SHAPES)
    assert tuple(result.table(shapes=False)) == PLAIN
    assert tuple(result.table(image[..., 0], shapes=False))[len(PLAIN) :] == intensity_columns(None)
    named = result.table(image[..., :1], channels=["DAPI"])
    np.testing.assert_array_equal(named["intensity_mean_DAPI"], table["intensity_mean_0"])


def test_boxes_are_cut_to_the_image_and_the_result_is_not_shared() -> None:
    result = made_result(np.ones((10, 20), np.int32))
    result = replace(result, boxes=np.array([[-5.5, 2.25, 25.0, 12.0]]))
    table = result.table()
    assert [table[name].tolist() for name in ("x0", "y0", "x1", "y1")] == [[0.0], [2.25], [20.0], [10.0]]
    table["score"][:] = 7
    assert result.scores[0] < 1


def test_no_cells_give_empty_columns() -> None:
    result = made_result(np.zeros((8, 9), np.int32), lost=1)
    full = made_result(np.ones((8, 9), np.int32)).table(np.zeros((8, 9, 2)), 0.3)
    table = result.table(np.zeros((8, 9, 2)), 0.3)
    assert list(table) == list(full)
    assert all(column.shape == (0,) for column in table.values())
    assert [column.dtype for column in table.values()] == [column.dtype for column in full.values()]


def test_rows_of_a_choice_of_cells() -> None:
    result = made_result(awkward_labels())
    chosen, whole = result[[2, 0]].table(), result.table()
    for name in set(chosen) - {"label"}:
        np.testing.assert_array_equal(chosen[name], whole[name][[2, 0]])


def test_what_cannot_be_measured() -> None:
    result = made_result(awkward_labels())
    with pytest.raises(InputError, match=r"image has shape \(3, 24, 30\); expected \(24, 30\) or .* Move the channel"):
        result.table(np.zeros((3, 24, 30)))
    with pytest.raises(InputError, match=r"image has shape \(30, 24\); expected .* Give the image that was segmented"):
        result.table(np.zeros((30, 24)))
    for wrong in (0, -1.0, math.nan, math.inf, "0.5"):
        with pytest.raises(ConfigError, match=r"pixel_size_um is .*; expected a positive number of micrometres"):
            result.table(pixel_size_um=wrong)  # type: ignore[arg-type]


def test_a_data_frame_is_made_of_it() -> None:
    pandas = pytest.importorskip("pandas")
    labels = awkward_labels()
    frame = pandas.DataFrame(made_result(labels).table(np.arange(labels.size).reshape(labels.shape)))
    assert len(frame) == 6
    assert frame["intensity_min"].iloc[3] == labels.size - labels.shape[1]
    assert len(pandas.DataFrame(made_result(np.zeros((3, 3), np.int32)).table())) == 0
