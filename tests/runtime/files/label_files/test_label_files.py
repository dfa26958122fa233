"""Tests of the readers of label files: round trips with the writers, and files of other programs."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import roifile
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from runtime import InputError
from runtime.files.label_files.coco import decode_runs, expand_counts, read_coco
from runtime.files.label_files.deepcell_label import read_deepcell_label
from runtime.files.label_files.geojson import read_geojson
from runtime.files.label_files.imagej import read_rois
from runtime.files.label_files.label_image import read_label_image
from runtime.files.outputs.coco import annotations_of, compress_counts, run_lengths, write_coco
from runtime.files.outputs.deepcell_label import write_deepcell_label
from runtime.files.outputs.geojson import write_geojson
from runtime.files.outputs.imagej import write_rois
from runtime.types import I32
from tests.runtime.correction.made import label_maps
from tests.runtime.files.outputs.made import awkward_labels, made_result

SIZE_HW = (24, 30)


def test_geojson_and_rois_of_awkward_cells_come_back(tmp_path: Path) -> None:
    labels = awkward_labels()
    write_geojson(tmp_path / "a.geojson", made_result(labels, lost=2))
    np.testing.assert_array_equal(read_geojson(tmp_path / "a.geojson", SIZE_HW), labels)
    write_rois(tmp_path / "a.zip", labels)
    np.testing.assert_array_equal(read_rois(tmp_path / "a.zip", SIZE_HW), labels)


@settings(max_examples=30)
@given(label_maps)
def test_coco_keeps_labels_with_gaps(labels: I32) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "coco.json"
        write_coco(path, [("sub/a.png", labels), ("b.png", labels.T.copy())], "made")
        first, second = read_coco(path)
        assert (first.file_name, first.size_hw) == ("sub/a.png", labels.shape)
        np.testing.assert_array_equal(first.labels(first.size_hw), labels)
        np.testing.assert_array_equal(second.labels(second.size_hw), labels.T)


@given(label_maps.filter(lambda labels: (labels == 1).any()))
def test_run_lengths_come_back(labels: I32) -> None:
    mask, size_hw = labels == 1, (labels.shape[0], labels.shape[1])
    counts = run_lengths(mask, (0, 0), size_hw)
    np.testing.assert_array_equal(decode_runs(counts, size_hw).paste(size_hw), mask)


@given(st.lists(st.integers(0, 300_000), min_size=1, max_size=20))
def test_compressed_counts_come_back(counts: list[int]) -> None:
    assert expand_counts(compress_counts(counts)) == counts


def coco(tmp_path: Path, *annotations: dict[str, Any]) -> Path:
    path = tmp_path / "coco.json"
    image = {"id": 3, "file_name": "a.png", "width": 30, "height": 24}
    path.write_text(json.dumps({"images": [image], "annotations": [{"image_id": 3, **one} for one in annotations]}))
    return path


def test_coco_of_other_programs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    square, other = [2, 2, 6, 2, 6, 6, 2, 6], [10, 2, 12, 2, 12, 4, 10, 4]
    runs = {"size": [24, 30], "counts": [5 * 24 + 1, 3, 24 * 30 - 5 * 24 - 4]}
    (found,) = read_coco(
        coco(
            tmp_path,
            {"segmentation": [square, other]},
            {"segmentation": runs, "iscrowd": 0},
            {"segmentation": runs, "iscrowd": 1},
            {"bbox": [0, 0, 3, 3]},
        )
    )
    labels = found.labels(SIZE_HW)
    assert (labels == 1).sum() == 16 + 4
    assert np.argwhere(labels == 2).tolist() == [[1, 5]], "the earlier cell keeps pixels"
    assert "2 annotations of crowds, or without a mask" in caplog.text
    assert "1 cells overlap earlier ones" in caplog.text
    with pytest.raises(InputError, match="has 24 x 30 pixels; expected 30 x 24"):
        found.labels((30, 24))


@pytest.mark.parametrize(
    "segmentation",
    [{"size": [24, 30], "counts": [0, 9999]}, {"size": [24, 30], "counts": [-1, 3]}, {"size": [9, 9], "counts": "0"}],
)
def test_wrong_run_lengths_are_errors(tmp_path: Path, segmentation: Any) -> None:
    (found,) = read_coco(coco(tmp_path, {"segmentation": segmentation}))
    with pytest.raises(InputError, match=r"coco\.json cannot be read \(ValueError: run lengths"):
        found.labels(SIZE_HW)


def test_geojson_of_other_programs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def feature(kind: str, coordinates: Any, **properties: Any) -> dict[str, Any]:
        return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": properties}

    ring = [[1.0, 1.0, 0.0], [9.4, 1.0, 0.0], [9.4, 6.0, 0.0], [1.0, 6.0, 0.0], [1.0, 1.0, 0.0]]
    hole = [[3, 3], [3, 5], [5, 5], [5, 3], [3, 3]]
    features = [
        feature("Polygon", [ring, hole], name="tumour"),
        feature("Point", [3, 3]),
        feature("MultiPolygon", [[[[20, 1], [22, 1], [22, 3], [20, 3]]], [[[40, 40], [50, 40], [50, 50]]]], name="7"),
        feature("Polygon", [[[100, 100], [120, 100], [120, 120]]]),
    ]
    path = tmp_path / "a.geojson"
    for content in (features, {"type": "FeatureCollection", "features": features}):
        path.write_text(json.dumps(content))
        labels = read_geojson(path, SIZE_HW)
        assert (labels == 1).sum() == 8 * 5 - 4
        assert (labels == 2).sum() == 4
        assert labels.max() == 2
    assert "1 features without an area" in caplog.text
    assert "1 cells have no pixel of their own" in caplog.text
    for text, message in (("{", "cannot be read"), ('{"type": "Topology"}', "is not a list of GeoJSON features")):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_geojson(path, SIZE_HW)


def test_rois_of_other_types(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rectangle = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.RECT, left=2, top=3, right=6, bottom=5, name="a")
    oval = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.OVAL, left=10, top=3, right=20, bottom=13, name="b")
    polygon = roifile.ImagejRoi.frompoints(np.array([[22, 1], [26, 1], [26, 4], [22, 4]], np.float32), name="c")
    point = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.POINT, name="d")
    roifile.roiwrite(tmp_path / "a.zip", [rectangle, oval, polygon, point])
    labels = read_rois(tmp_path / "a.zip", SIZE_HW)
    assert (labels == 1).sum() == 8
    assert abs(int((labels == 2).sum()) - np.pi * 25) < 8
    assert (labels == 3).sum() == 12
    assert "1 ROIs without an area" in caplog.text
    (tmp_path / "b.zip").write_bytes(b"PK nothing")
    with pytest.raises(InputError, match=r"b\.zip cannot be read"):
        read_rois(tmp_path / "b.zip", SIZE_HW)


@settings(max_examples=15)
@given(label_maps, st.sampled_from([(), (1,), (3,)]))
def test_deepcell_label_files_come_back(labels: I32, channels: tuple[int, ...]) -> None:
    image = np.arange(labels.size * (channels or (1,))[0], dtype=np.uint16).reshape(*labels.shape, *channels)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.zip"
        write_deepcell_label(path, labels, image)
        np.testing.assert_array_equal(read_deepcell_label(path, (labels.shape[0], labels.shape[1])), labels)
        with zipfile.ZipFile(path) as file:
            assert sorted(file.namelist()) == ["X.ome.tiff", "cells.json", "y.ome.tiff"]
            with tifffile.TiffFile(io.BytesIO(file.read("y.ome.tiff"))) as tiff:
                assert tiff.is_ome
                assert (tiff.series[0].axes[-2:], tiff.asarray().dtype) == ("YX", np.int32)
            found = tifffile.imread(io.BytesIO(file.read("X.ome.tiff")))
            np.testing.assert_array_equal(found.reshape(-1, *labels.shape), np.atleast_3d(image).transpose(2, 0, 1))
        first = path.read_bytes()
        write_deepcell_label(path, labels, image)
        assert path.read_bytes() == first, "the same labels give the same file"


def deepcell(path: Path, values: Any, cells: Any) -> Path:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, ome=True, metadata={"axes": "CZYX"})
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("y.ome.tiff", buffer.getvalue())
        if cells is not None:
            file.writestr("cells.json", json.dumps(cells))
    return path


def test_deepcell_label_files_of_other_programs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = np.zeros((2, 3, 4, 5), np.int32)
    values[0, 0, :, :3] = [1, 2, 3]
    values[1:] = 9
    cells = [{"value": 1, "cell": 4, "t": 0, "c": 0}, {"value": 1, "cell": 9, "t": 1, "c": 0}]
    cells += [{"value": 2, "cell": 4, "t": 0}, {"value": 2, "cell": 5, "t": 0}]
    labels = read_deepcell_label(deepcell(tmp_path / "a.zip", values, cells), (4, 5))
    np.testing.assert_array_equal(labels, np.tile([4, 4, 0, 0, 0], (4, 1)))
    assert "5 further planes of labels are left out" in caplog.text
    assert "cells overlap in 1 places" in caplog.text
    labels = read_deepcell_label(deepcell(tmp_path / "b.zip", values, None), (4, 5))
    np.testing.assert_array_equal(labels, values[0, 0])
    with pytest.raises(InputError, match="expected integers of 5 x 4 pixels"):
        read_deepcell_label(tmp_path / "b.zip", (5, 4))
    with zipfile.ZipFile(tmp_path / "c.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("y.ome.tiff", bytes(1 << 22))
    with pytest.raises(InputError, match=r"entry y\.ome\.tiff has 4,194,304 bytes; expected at most"):
        read_deepcell_label(tmp_path / "c.zip", (4, 5))
    with pytest.raises(InputError, match=r"has no entry y\.ome\.tiff"):
        read_deepcell_label(_zip(tmp_path / "d.zip"), (4, 5))


def _zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("X.ome.tiff", b"")
    return path


def test_label_images(tmp_path: Path) -> None:
    labels = awkward_labels()
    Image.fromarray(labels.astype(np.uint8)).save(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", labels.astype(np.float64))
    tifffile.imwrite(tmp_path / "c.tif", labels.astype(np.uint32))
    for name in ("a.png", "b.npy", "c.tif"):
        found = read_label_image(tmp_path / name)
        assert found.dtype == np.int32
        np.testing.assert_array_equal(found, labels)
    far = np.where(labels > 0, labels.astype(np.int64) * 10**9, 0)
    np.save(tmp_path / "d.npy", far)
    np.testing.assert_array_equal(read_label_image(tmp_path / "d.npy"), labels)
    for wrong, message in (
        (labels - 1, "expected whole numbers from 0"),
        (labels + 0.5, "expected whole numbers from 0"),
        ((labels > 0) * 255, "contains one value, 255, in .* separate parts"),
        (np.stack([labels, labels + 1], axis=-1), "expected a label map"),
    ):
        np.save(tmp_path / "e.npy", wrong)
        with pytest.raises(InputError, match=message):
            read_label_image(tmp_path / "e.npy")
    np.save(tmp_path / "f.npy", np.array({"masks": labels}, dtype=object))
    with pytest.raises(InputError, match=r"f\.npy cannot be read"):
        read_label_image(tmp_path / "f.npy")


def test_annotations_are_in_the_order_of_labels() -> None:
    assert [one["area"] for one in annotations_of(np.array([[3, 0, 3, 8]], np.int32))] == [2, 1]
