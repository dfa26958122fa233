"""Tests of ``runtime.save``: each format is read back by the library that users read it with."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from shapely.geometry import shape

import runtime
from runtime import ConfigError, InputError, Segmentation
from runtime.files.outputs.formats import OUTPUT_FORMATS
from runtime.files.outputs.tables import TABLE_COLUMNS
from runtime.files.save import FORMAT_OF_ENDING
from runtime.ops.measure import SHAPES, intensity_columns
from tests.runtime.files.outputs.made import awkward_labels, made_result
from tests.runtime.files.outputs.test_imagej import assert_rois_show, read_rois
from tests.runtime.files.outputs.test_label_files import assert_valid_labels

AWKWARD = made_result(awkward_labels(), lost=1)
NONE = made_result(np.zeros((12, 9), np.int32))
IMAGE = np.random.default_rng(0).integers(0, 60_000, (24, 30, 2)).astype(np.uint16)


@pytest.fixture(scope="module")
def many() -> Segmentation:
    """Make more cells than 16 bits can number."""
    return made_result(np.arange(1, 66_001, dtype=np.int32).reshape(300, 220))


@pytest.fixture(params=["awkward", "none", "many"])
def result(request: pytest.FixtureRequest) -> Segmentation:
    made = {"awkward": AWKWARD, "none": NONE}
    return made[request.param] if request.param in made else request.getfixturevalue("many")


def read_labels(path: Path) -> Any:
    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix == ".zarr":
        assert_valid_labels(path)
        return zarr.open_group(str(path), mode="r")["cells/0"][:]
    return tifffile.imread(path)


@pytest.mark.parametrize("name", ["a.tif", "a.TIFF", "a.npy", "a.ome.tif", "a.ome.tiff", "a.zarr", "a.ome.zarr"])
def test_label_maps(tmp_path: Path, result: Segmentation, name: str) -> None:
    for _ in range(2):  # replaces an existing file
        runtime.save(result, tmp_path / name, pixel_size_um=0.25)
        assert [path.name for path in tmp_path.iterdir()] == [name]
    labels = read_labels(tmp_path / name)
    np.testing.assert_array_equal(labels, result.labels)
    expected = np.int32 if name.endswith("npy") else np.uint32 if len(result) > 65535 else np.uint16
    assert labels.dtype == expected
    if ".ome.tif" in name:
        with tifffile.TiffFile(tmp_path / name) as tiff:
            assert 'PhysicalSizeX="0.25"' in (tiff.ome_metadata or "")


def table_files(directory: Path, result: Segmentation, **options: Any) -> Iterator[list[dict[str, Any]]]:
    """Write the CSV and the Parquet file, and return their rows."""
    import pyarrow.parquet

    runtime.save(result, directory / "a.csv", **options)
    with (directory / "a.csv").open(newline="") as file:
        yield [{name: float(text) if text else None for name, text in row.items()} for row in csv.DictReader(file)]
    runtime.save(result, directory / "a.parquet", **options)
    yield pyarrow.parquet.read_table(directory / "a.parquet").to_pylist()


def test_tables_hold_the_measured_columns(tmp_path: Path) -> None:
    table = AWKWARD.table(IMAGE, 0.5, channels=("DAPI", "CD3"))
    expected = (*TABLE_COLUMNS, *SHAPES, *intensity_columns(("DAPI", "CD3")))
    for rows in table_files(tmp_path, AWKWARD, image=IMAGE, pixel_size_um=0.5, channels=("DAPI", "CD3")):
        assert tuple(rows[0]) == tuple(table) == expected
        for name, column in table.items():
            np.testing.assert_allclose([row[name] for row in rows[:6]], column, atol=0.006, rtol=1e-5)
        assert len(rows) == 7
        assert (rows[6]["label"], rows[6]["mask_area_px"], rows[6]["label_area_px"]) == (0, 4, 0)
        assert {rows[6][name] for name in ("centroid_y", "area_um2", *SHAPES, "intensity_min_CD3")} == {None}


def test_tables_without_cells_and_of_many(tmp_path: Path, many: Segmentation, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(table_files(tmp_path, NONE)) == [[], []]
    header = (tmp_path / "a.csv").read_text().strip()
    assert header == ",".join((*TABLE_COLUMNS, *SHAPES))
    for module in ("runtime.files.save", "runtime.results.measure"):  # a millisecond per cell
        monkeypatch.setattr(f"{module}.shapes", lambda labels: {"eccentricity": np.zeros(labels.max())})
    for rows in table_files(tmp_path, many):
        assert [row["label"] for row in rows] == list(range(1, 66_001))
        assert {row["label_area_px"] for row in rows} == {1}


def test_geojson(tmp_path: Path) -> None:
    runtime.save(AWKWARD, tmp_path / "a.geojson", image=IMAGE, pixel_size_um=0.5)
    features = json.loads((tmp_path / "a.geojson").read_text())["features"]
    table = AWKWARD.table(IMAGE, 0.5)
    assert [feature["properties"]["name"] for feature in features] == ["1", "2", "3", "4", "5", "6"]
    assert [feature["geometry"]["type"] for feature in features].count("MultiPolygon") == 2
    for n, feature in enumerate(features):
        outline, measured = shape(feature["geometry"]), feature["properties"]["measurements"]
        assert outline.is_valid
        assert outline.area == table["label_area_px"][n]
        for name in ("area_um2", *SHAPES, *intensity_columns("01")):
            assert measured[name] == table[name][n]
    runtime.save(NONE, tmp_path / "a.geojson")
    assert json.loads((tmp_path / "a.geojson").read_text())["features"] == []


def test_imagej(tmp_path: Path) -> None:
    runtime.save(AWKWARD, tmp_path / "a.zip")
    assert_rois_show(read_rois(tmp_path / "a.zip"), AWKWARD.labels)
    runtime.save(NONE, tmp_path / "none_rois.zip")
    assert (tmp_path / "none_rois.zip").is_file()


def test_every_format_has_a_suffix() -> None:
    assert set(FORMAT_OF_ENDING.values()) == {*OUTPUT_FORMATS, "npy"}
    for name, kind in OUTPUT_FORMATS.items():
        assert next(found for ending, found in FORMAT_OF_ENDING.items() if kind.ending.lower().endswith(ending)) == name


@pytest.mark.parametrize("name", ["a.png", "a", ".tif", "a.tif.gz"])
def test_other_suffixes(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"has type .*; expected one of \.ome\.tif, .*\.zip\. Use one of these"):
        runtime.save(AWKWARD, tmp_path / name)


def test_wrong_arguments_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"image has shape \(5, 5\); expected \(24, 30\)"):
        runtime.save(AWKWARD, tmp_path / "a.csv", image=np.zeros((5, 5)))
    with pytest.raises(ConfigError, match="pixel_size_um is -1"):
        runtime.save(AWKWARD, tmp_path / "a.tif", pixel_size_um=-1)
    with pytest.raises(InputError, match=r"there is not a directory; expected an existing one\. Create it"):
        runtime.save(AWKWARD, tmp_path / "there" / "a.tif")
    for module, name in (("pyarrow", "a.parquet"), ("zarr", "a.zarr"), ("roifile", "a.zip")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(InputError, match=rf"needs the package {module}.*pip install .*\[formats\]'"):
            runtime.save(AWKWARD, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_directories_of_others_are_never_replaced(tmp_path: Path) -> None:
    image = zarr.open_group(str(tmp_path / "image.zarr"), mode="w", zarr_format=2)
    image.create_array("0", data=IMAGE)
    (tmp_path / "folder.tif").mkdir()
    for name in ("image.zarr", "folder.tif"):
        with pytest.raises(InputError, match=r"is a directory with other content; expected a new path"):
            runtime.save(AWKWARD, tmp_path / name)
    np.testing.assert_array_equal(zarr.open_group(str(tmp_path / "image.zarr"), mode="r")["0"][:], IMAGE)


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npy"
    runtime.save(AWKWARD, path)
    before = path.read_bytes()

    def full(file: Any, _: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space"):
        runtime.save(NONE, path)
    assert path.read_bytes() == before
    assert [left.name for left in tmp_path.iterdir()] == ["a.npy"]
