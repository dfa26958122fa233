"""Label maps as OME-TIFF and OME-Zarr, and tables, are read back by the libraries that users read them with."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from runtime import ConfigError, InputError
from runtime.files.formats import open_image
from runtime.files.outputs.formats import OUTPUT_FORMATS, check_packages, parse_formats
from runtime.files.outputs.label_images import write_ome_tiff, write_ome_zarr
from runtime.files.outputs.parquet import write_parquet
from runtime.files.outputs.pyramid import label_levels, level_count
from runtime.files.outputs.tables import TABLE_COLUMNS, table_rows, write_table
from runtime.files.placing import write_whole
from tests.runtime.files.outputs.made import made_result

SMALL = np.zeros((30, 40), np.int32)
SMALL[3:9, 5:8] = 1
SMALL[20:22, 30:39] = 2
LARGE = (np.arange(2100 * 1300, dtype=np.int32) // 7 % 70000).reshape(2100, 1300)
"""More labels than 16 bits can number, in three levels."""


@pytest.mark.parametrize(("labels", "dtype", "levels"), [(SMALL, np.uint16, 1), (LARGE, np.uint32, 3)])
def test_ome_tiff(tmp_path: Path, labels: Any, dtype: Any, levels: int) -> None:
    path = tmp_path / "a_labels.ome.tif"
    write_ome_tiff(path, labels, 0.325)
    assert [left.name for left in tmp_path.iterdir()] == [path.name]
    with tifffile.TiffFile(path) as tiff:
        (series,) = tiff.series
        assert tiff.is_ome
        assert (series.axes, series.dtype, len(series.levels)) == ("YX", dtype, levels)
        assert series.keyframe.is_tiled
        for level, expected in zip(series.levels, label_levels(labels), strict=True):
            np.testing.assert_array_equal(level.asarray(), expected)
    with open_image(path) as reader:
        assert reader.pixel_size_um == pytest.approx(0.325)
        assert reader.channels == ("cells",)
    first = path.read_bytes()
    write_ome_tiff(path, labels, 0.325)
    assert path.read_bytes() == first, "the same labels give the same file, including its UUID"
    write_ome_tiff(path, labels)
    with open_image(path) as reader:
        assert reader.pixel_size_um is None


@pytest.mark.parametrize(("labels", "dtype", "levels"), [(SMALL, np.uint16, 1), (LARGE, np.uint32, 3)])
def test_ome_zarr(tmp_path: Path, labels: Any, dtype: Any, levels: int) -> None:
    """The group lists its label image; ome-zarr's reader recognises it, and its models accept it."""
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Label, Multiscales, Reader

    path = tmp_path / "a.zarr"
    write_ome_zarr(path, labels, 0.5)
    location = parse_url(str(path))
    assert location is not None
    nodes = [node for node in Reader(location)() if node.data]
    (node,) = nodes
    assert node.load(Label) is not None
    assert node.load(Multiscales) is not None
    assert [axis["name"] for axis in node.metadata["axes"]] == ["y", "x"]
    assert [axis["unit"] for axis in node.metadata["axes"]] == ["micrometer"] * 2
    assert node.metadata["coordinateTransformations"][0] == [{"type": "scale", "scale": [0.5, 0.5]}]
    assert len(node.data) == levels
    for level, expected in zip(node.data, label_levels(labels), strict=True):
        assert level.dtype == dtype
        np.testing.assert_array_equal(np.asarray(level), expected)
    assert_valid_labels(path)
    with open_image(path / "cells") as reader:
        assert reader.pixel_size_um == pytest.approx(0.5)


def assert_valid_labels(path: Path) -> None:
    """Validate labels with ome-zarr's models (NGFF 0.4), which raise if the metadata violate the specification."""
    from ome_zarr_models.v04.image_label import ImageLabel
    from ome_zarr_models.v04.labels import Labels

    group = zarr.open_group(path, mode="r")
    assert Labels.from_zarr(group).attributes.labels == ["cells"]
    attributes = ImageLabel.from_zarr(group["cells"]).attributes
    assert attributes.image_label.version == "0.4"
    assert [axis.name for axis in attributes.multiscales[0].axes] == ["y", "x"]


def test_ome_zarr_moved_into_an_image_is_its_labels(tmp_path: Path) -> None:
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Label, Reader

    image = zarr.open_group(str(tmp_path / "image.zarr"), mode="w", zarr_format=2)
    image.create_array("0", data=SMALL.astype(np.uint16))
    axes = [{"name": name, "type": "space"} for name in "yx"]
    datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0, 1.0]}]}]
    image.attrs.update({"multiscales": [{"version": "0.4", "axes": axes, "datasets": datasets}]})
    write_ome_zarr(tmp_path / "image.zarr" / "labels", SMALL)
    location = parse_url(str(tmp_path / "image.zarr"))
    assert location is not None
    (found,) = [node for node in Reader(location)() if node.load(Label)]
    np.testing.assert_array_equal(np.asarray(found.data[0]), SMALL)


def test_directories_are_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    write_ome_zarr(path, LARGE)
    write_ome_zarr(path, SMALL)
    assert [left.name for left in tmp_path.iterdir()] == ["a.zarr"]
    assert json.loads((path / "cells" / ".zattrs").read_text())["multiscales"][0]["datasets"][-1]["path"] == "0"
    assert not (path / "cells" / "1").exists()

    def fail(temporary: Path) -> None:
        temporary.mkdir()
        (temporary / "half").touch()
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_whole(path, fail)
    assert [left.name for left in tmp_path.iterdir()] == ["a.zarr"]
    assert (path / "cells" / "0").is_dir()


@pytest.mark.parametrize("size", [(1, 1), (1024, 5), (1025, 5), (5000, 7000)])
def test_levels_end_at_a_size_that_fits_a_screen(size: tuple[int, int]) -> None:
    levels = [level.shape for level in label_levels(np.zeros(size, np.uint8))]
    assert len(levels) == level_count(size)
    assert max(levels[-1]) <= 1024
    assert all(max(level) > 1024 for level in levels[:-1])


def test_tables(tmp_path: Path) -> None:
    import pyarrow.parquet

    result = made_result(SMALL, lost=1)
    write_table(tmp_path / "a.csv", result, 0.5)
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == TABLE_COLUMNS
    assert rows[0] == {
        "label": "1",
        "x0": "5.00",
        "y0": "3.00",
        "x1": "8.00",
        "y1": "9.00",
        "score": "0.90000",
        "iou_prediction": "0.95000",
        "mask_area_px": "18",
        "label_area_px": "18",
        "centroid_y": "5.50",
        "centroid_x": "6.00",
        "area_um2": "4.500",
    }
    assert (rows[2]["label"], rows[2]["centroid_y"], rows[2]["area_um2"]) == ("0", "", "")
    write_parquet(tmp_path / "a.parquet", result, 0.5)
    table = pyarrow.parquet.read_table(tmp_path / "a.parquet")
    assert tuple(table.column_names) == TABLE_COLUMNS
    assert [tuple(row.values()) for row in table.to_pylist()] == list(table_rows(result, 0.5))
    write_parquet(tmp_path / "none.parquet", made_result(np.zeros((3, 3), np.int32)))
    assert pyarrow.parquet.read_table(tmp_path / "none.parquet").num_rows == 0


def test_names_of_formats() -> None:
    assert parse_formats([]) == ("tiff", "csv")
    assert parse_formats(["geojson, OME-TIFF", "csv", "geojson"]) == ("geojson", "ome-tiff", "csv")
    with pytest.raises(ConfigError, match="format 'png' is unknown; expected one or more of tiff, csv"):
        parse_formats(["png"])
    endings = [kind.ending for kind in OUTPUT_FORMATS.values()]
    assert len(set(endings)) == len(endings)


@pytest.mark.parametrize(("name", "module"), [("ome-zarr", "zarr"), ("parquet", "pyarrow"), ("imagej", "roifile")])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, name: str, module: str) -> None:
    check_packages([name])
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"format {name} needs the package {module}.*\[formats\]"):
        check_packages([name])
