"""Tests of source files: npz rows, NIfTI planes, label maps, pairs of files, overlapping outlines."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.training.data import sources
from training.data import DataError, FolderOptions, find_datasets
from training.data.builders.livecell import draw_cells
from training.data.builders.nifti import read_nifti_plane
from training.data.builders.npz import NpzRows
from training.data.builders.overlaps import resolve_overlaps
from training.data.builders.pairs import Pattern, find_pairs
from training.data.builders.reading import check_labels, to_gray
from training.data.records import tile_stem


def test_npz_rows_equal_numpys_in_any_order(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(5, 7, 3, 2)).astype(np.float32)
    np.savez(tmp_path / "plain.npz", X=array)
    np.savez_compressed(tmp_path / "small.npz", X=array)
    for name in ("plain.npz", "small.npz"):
        rows = NpzRows(tmp_path / name, "X")
        for row in (0, 1, 4, 2, 0):
            np.testing.assert_array_equal(rows.read(row), array[row])
            np.testing.assert_array_equal(rows.read(row, last=1), array[row, ..., 1])


@pytest.mark.parametrize("array", [np.asfortranarray(np.ones((3, 4))), np.array([["a", None]], object), np.ones(3)])
def test_npz_arrays_of_another_kind_are_refused(array: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", X=array)
    with pytest.raises(DataError, match="expected rows of numbers"):
        NpzRows(tmp_path / "a.npz", "X")
    with pytest.raises(DataError, match="cannot be read"):
        NpzRows(tmp_path / "a.npz", "y")


def test_npz_with_a_flipped_bit_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, X=np.random.default_rng(0).normal(size=(4, 50, 50)))
    start = zipfile.ZipFile(path).infolist()[0].header_offset + 20_000
    data = bytearray(path.read_bytes())
    data[start : start + 64] = bytes(64)
    path.write_bytes(data)
    rows = NpzRows(path, "X")
    with pytest.raises(DataError, match="cannot be read"):
        [rows.read(row) for row in range(4)]


@pytest.mark.parametrize("order", ["<", ">"])
def test_nifti_planes_of_both_byte_orders(order: str, tmp_path: Path) -> None:
    plane = np.arange(12, dtype=np.float32).reshape(3, 4)
    (tmp_path / "a.nii").write_bytes(sources.nifti(plane, order=order))
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(sources.nifti(plane, order=order)))
    for name in ("a.nii", "a.nii.gz"):
        np.testing.assert_array_equal(read_nifti_plane(tmp_path / name), plane)


def test_nifti_scaling_and_damage(tmp_path: Path) -> None:
    import struct

    path = tmp_path / "a.nii"
    data = bytearray(sources.nifti(np.ones((3, 4), np.float32)))
    struct.pack_into("<2f", data, 112, 2.0, 5.0)
    path.write_bytes(data)
    assert read_nifti_plane(path).max() == 7.0
    for broken in (b"", data[:200], data[:-1], gzip.compress(bytes(data))[:-30], b"\0" * 400):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=r"a\.nii"):
            read_nifti_plane(path)
    struct.pack_into("<8h", data, 40, 3, 2, 2, 3, 1, 1, 1, 1)
    path.write_bytes(data)
    with pytest.raises(DataError, match="one plane"):
        read_nifti_plane(path)


def test_overlaps_drop_covered_masks_and_share_the_rest() -> None:
    size = (10, 20)

    def box(y0: int, y1: int, x0: int, x1: int) -> np.ndarray:
        mask = np.zeros(size, bool)
        mask[y0:y1, x0:x1] = True
        return np.flatnonzero(mask)

    labels = resolve_overlaps([box(0, 10, 0, 12), box(0, 10, 8, 20), box(4, 6, 2, 4), np.zeros(0, np.intp)], size)
    assert labels.max() == 2
    np.testing.assert_array_equal(labels[0, [0, 9, 10, 19]], [1, 1, 2, 2])
    # If two masks cover each other, the smaller one is dropped first; the larger one then remains.
    twins = resolve_overlaps([box(0, 5, 0, 5), box(0, 5, 0, 6)], size)
    assert twins.max() == 1
    assert (twins > 0).sum() == 30
    assert resolve_overlaps([], size).shape == size


def test_outlines_beyond_the_image_are_cut() -> None:
    outline = np.array([[-5, -5], [8, -5], [8, 8], [-5, 8]], np.float32)
    labels = draw_cells([(outline,)], (20, 20))
    assert labels[:8, :8].all()
    assert labels.sum() <= 81


def test_pairs_name_the_lonely_and_match_across_types(tmp_path: Path) -> None:
    for name in ("x.y_img.tif", "x.y_mask.png", "lonely_img.tif", "other_mask.png", ".hidden_img.tif"):
        (tmp_path / name).write_bytes(b"")
    pairs, alone = find_pairs(tmp_path, Pattern("*_img.*", "*_mask.*"))
    assert [(pair.key, pair.image.name, pair.mask.name) for pair in pairs] == [("x.y", "x.y_img.tif", "x.y_mask.png")]
    assert [path.name for path in alone] == ["lonely_img.tif", "other_mask.png"]


def test_image_ids_that_would_share_a_file_are_refused(tmp_path: Path) -> None:
    sources.folder(tmp_path)
    (dataset,) = find_datasets("folder", tmp_path / "nuclei", FolderOptions(groups={"": "Yeast"}))
    from dataclasses import replace

    fields = tuple(replace(f, image_id=name) for f, name in zip(dataset.fields[:2], ("a/b", "a__b"), strict=True))
    with pytest.raises(DataError, match="would both write tiles a__b_"):
        replace(dataset, fields=fields)
    assert tile_stem("a b/ü~.c") == "a~20b__~fc~7e.c"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(4), "expected a label map"),
        (np.random.default_rng(0).integers(0, 9, (4, 4, 3)), "expected a label map"),
        (np.full((4, 4), -1), "whole numbers"),
        (np.full((4, 4), 0.5), "whole numbers"),
        (np.eye(9, dtype=np.uint8)[:, ::3].repeat(3, 1) * 255, "one id per object"),
    ],
)
def test_masks_that_are_no_label_maps_are_refused(labels: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_labels(labels, "a_mask.png")


def test_labels_may_be_whole_floats_gray_colours_or_one_object() -> None:
    labels = np.array([[0, 1], [2, 2]])
    np.testing.assert_array_equal(check_labels(labels.astype(float), ""), labels)
    np.testing.assert_array_equal(check_labels(np.stack((labels,) * 3, -1), ""), labels)
    assert check_labels(np.array([[0, 255], [255, 255]]), "").max() == 255
    assert not check_labels(np.zeros((3, 3), bool), "").any()


def test_gray_keeps_values_and_colours_become_luminance() -> None:
    image, _ = sources.scene(0)
    np.testing.assert_array_equal(to_gray(np.stack((image,) * 3, -1), ""), image)
    colour = to_gray(np.stack((image, image, image // 2), -1), "")
    assert colour.shape == image.shape
    assert 0 <= colour.min() < colour.max() <= 1
    with pytest.raises(DataError, match="gray or RGB"):
        to_gray(np.zeros((4, 4, 2)), "a.png")
