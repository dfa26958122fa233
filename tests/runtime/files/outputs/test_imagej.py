"""Tests of ImageJ ROIs, read back by roifile."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import roifile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from skimage.measure import grid_points_in_poly

from runtime import InputError
from runtime.files.formats import Plane
from runtime.files.outputs.imagej import cell_roi, write_roi_entries, write_rois
from runtime.ops.masks import MaskCrop, relabel
from tests.runtime.files.outputs.made import awkward_labels

label_maps = arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 4)).map(
    lambda labels: relabel(labels, 4)[0]
)


def filled(roi: roifile.ImagejRoi, size_hw: tuple[int, int]) -> Any:
    """Fill the pixels whose centres lie within a ROI, by the even-odd rule."""
    rings = roi.coordinates(multi=True) if roi.composite else [roi.coordinates()]
    inside = np.zeros(size_hw, np.bool_)
    for ring in rings:
        inside ^= grid_points_in_poly(size_hw, np.asarray(ring, np.float64)[:, ::-1] - 0.5)
    return inside


def read_rois(path: Path) -> list[roifile.ImagejRoi]:
    """Read the ROIs of a zip file as a list; roifile returns a single ROI without one."""
    rois = roifile.roiread(path)
    return rois if isinstance(rois, list) else [rois]


def assert_rois_show(rois: list[roifile.ImagejRoi], labels: Any) -> None:
    assert [roi.name for roi in rois] == [str(n) for n in range(1, labels.max() + 1)]
    for n, roi in enumerate(rois, start=1):
        np.testing.assert_array_equal(filled(roi, labels.shape), labels == n)


@given(label_maps.filter(lambda labels: labels.any()))
def test_rois_cover_the_pixels_of_their_cells(labels: Any) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a_rois.zip"
        write_rois(path, labels)
        assert [left.name for left in Path(folder).iterdir()] == ["a_rois.zip"]
        assert_rois_show(read_rois(path), labels)


def test_holes_parts_and_borders(tmp_path: Path) -> None:
    labels = awkward_labels()
    write_rois(tmp_path / "a.zip", labels)
    rois = read_rois(tmp_path / "a.zip")
    assert_rois_show(rois, labels)
    assert [roi.composite for roi in rois] == [True, True, False, False, True, False]
    assert {roi.roitype for roi in rois if not roi.composite} == {roifile.ROI_TYPE.TRACED}
    assert {roi.z_position for roi in rois} == {0}
    first = (tmp_path / "a.zip").read_bytes()
    write_rois(tmp_path / "a.zip", labels)
    assert (tmp_path / "a.zip").read_bytes() == first, "the same cells give the same file"


def test_rois_of_a_plane_of_a_stack(tmp_path: Path) -> None:
    write_rois(tmp_path / "a.zip", awkward_labels(), Plane(time=0, z=4))
    assert {(roi.z_position, roi.t_position) for roi in read_rois(tmp_path / "a.zip")} == {(5, 1)}


@pytest.mark.parametrize("corner", [(40_000, 50_000), (70_000, 123_456)])
@pytest.mark.parametrize("with_hole", [False, True])
def test_cells_far_out_in_a_slide(corner: tuple[int, int], with_hole: bool) -> None:
    mask = np.ones((5, 6), np.bool_)
    mask[2, 2] = not with_hole
    roi = roifile.ImagejRoi.frombytes(cell_roi(7, MaskCrop(mask, corner)).tobytes())
    rings = roi.coordinates(multi=True) if with_hole else [roi.coordinates()]
    outer = max(rings, key=len)
    assert (outer.min(axis=0).tolist(), outer.max(axis=0).tolist()) == (
        [corner[1], corner[0]],
        [corner[1] + 6, corner[0] + 5],
    )


def test_no_cells_and_more_than_65535(tmp_path: Path) -> None:
    write_rois(tmp_path / "none.zip", np.zeros((5, 5), np.int32))
    assert (tmp_path / "none.zip").stat().st_size == 22, "the end of an empty zip file"
    pixel = np.ones((1, 1), np.bool_)
    count = 65_540
    write_roi_entries(tmp_path / "many.zip", ((n, MaskCrop(pixel, (n, 3))) for n in range(1, count + 1)))
    rois = read_rois(tmp_path / "many.zip")
    assert len(rois) == count
    assert rois[-1].name == str(count)
    assert rois[-1].coordinates().min(axis=0).tolist() == [3, count]


def test_roifile_is_named_if_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "roifile", None)
    with pytest.raises(InputError, match=r"needs the package roifile.*pip install .*\[formats\]'"):
        write_rois(tmp_path / "a.zip", awkward_labels())
    assert not list(tmp_path.iterdir())
