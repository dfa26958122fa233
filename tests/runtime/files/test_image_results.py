"""Tests of the result files of one image."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from runtime import ConfigError
from runtime.files.formats import Plane
from runtime.files.image_results import FileOptions, read_file, write_results
from runtime.files.outputs.tables import TABLE_COLUMNS
from runtime.ops.measure import SHAPES, intensity_columns
from tests.runtime.files.outputs.made import awkward_labels, made_result

RESULT = made_result(awkward_labels(), lost=1)


def header_and_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    return header, rows


def test_every_channel_of_a_file_is_measured(tmp_path: Path) -> None:
    """Channels are measured in the plane that was segmented, including channels that were not segmented."""
    stack = np.random.default_rng(0).integers(0, 60_000, (3, 4, 24, 30)).astype(np.uint16)
    metadata = {"axes": "ZCYX", "Channel": {"Name": ["DAPI", "CD3", "empty", "empty"]}}
    tifffile.imwrite(tmp_path / "a.ome.tif", stack, photometric="minisblack", metadata=metadata)
    options = FileOptions(nuclear="DAPI", plane=Plane(z=1), formats=("csv", "geojson"), measure=True)
    image = read_file(tmp_path / "a.ome.tif", options)
    assert image.pixels.shape == (24, 30, 1)
    write_results(RESULT, image, tmp_path / "a", options)
    header, rows = header_and_rows(tmp_path / "a_cells.csv")
    names = ("DAPI", "CD3", "empty_2", "empty_3")
    assert header == [*TABLE_COLUMNS, *SHAPES, *intensity_columns(names)]
    table = RESULT.table(np.moveaxis(stack[1], 0, -1), channels=names)
    for row, n in zip(rows[:6], range(6), strict=True):
        for name, text in zip(header[len(TABLE_COLUMNS) :], row[len(TABLE_COLUMNS) :], strict=True):
            assert float(text) == pytest.approx(table[name][n], abs=6e-4)
    assert set(rows[6][len(TABLE_COLUMNS) :]) == {""}, "a hidden instance has no pixels to measure"
    features = json.loads((tmp_path / "a_cells.geojson").read_text())["features"]
    assert [feature["properties"]["measurements"]["intensity_mean_CD3"] for feature in features] == pytest.approx(
        table["intensity_mean_CD3"].tolist()
    )


def test_tables_are_plain_unless_asked(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((24, 30), np.uint8))
    image = read_file(tmp_path / "a.tif", FileOptions())
    write_results(RESULT, image, tmp_path / "a", FileOptions())
    assert header_and_rows(tmp_path / "a_cells.csv")[0] == list(TABLE_COLUMNS)


def test_measuring_needs_a_table() -> None:
    with pytest.raises(
        ConfigError, match=r"measure=True was given with the formats tiff, imagej; expected one .*\(csv, geojson"
    ):
        FileOptions(formats=("tiff", "imagej"), measure=True)
    assert FileOptions(formats=("tiff", "parquet"), measure=True).measure
