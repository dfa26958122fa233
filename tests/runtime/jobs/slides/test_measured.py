"""Cells of a slide are measured like those of an image."""

from __future__ import annotations

import csv
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import tifffile
from numpy.typing import NDArray

from benchmarks.made_slide import MadeSlide, PerfectEngines
from runtime.errors import ConfigError, InputError
from runtime.files.outputs.tables import TABLE_COLUMNS
from runtime.jobs.slides import ArrayReader, RunOptions, SlideFile, SlideSettings, segment_slide
from runtime.ops.measure import SHAPES, intensities, intensity_columns, shapes

SIZE = (560, 1080)
TRUTH = MadeSlide(SIZE).truth(0, 0, *SIZE)
CUT = SlideSettings(
    tile_px=256, overlap_px=60, formats=("tiff", "csv", "geojson", "parquet"), measure=True, min_contrast=0
)


def multiplex() -> NDArray[np.uint16]:
    """Write four channels; the first shows the cells."""
    noise = np.random.default_rng(0).integers(0, 5000, (*SIZE, 3))
    return np.concatenate([(TRUTH > 0)[..., None], noise], axis=2).astype(np.uint16)


def test_all_channels_are_measured_as_in_an_image(tmp_path: Path) -> None:
    image = multiplex()
    names = ["DAPI", "CD3", "CD8", "PanCK"]
    metadata = {"axes": "CYX", "Channel": {"Name": names}}
    tifffile.imwrite(tmp_path / "slide.ome.tif", np.moveaxis(image, 2, 0), tile=(128, 128), metadata=metadata)
    slide = SlideFile(tmp_path / "slide.ome.tif", nuclear="DAPI")
    done = segment_slide(slide, tmp_path / "out", engines=PerfectEngines(), settings=CUT)
    labels = tifffile.imread(done.labels).astype(np.int32)
    expected = {**shapes(labels), **intensities(labels, image, names)}
    rows = pyarrow.parquet.read_table(done.files["parquet"]).to_pylist()
    assert [row["label"] for row in rows] == list(range(1, done.cells + 1))
    assert done.cells > 200
    assert tuple(rows[0]) == (*TABLE_COLUMNS, *SHAPES, *intensity_columns(names))
    for name, column in expected.items():
        np.testing.assert_allclose([row[name] for row in rows], column, rtol=1e-12)
    with done.files["csv"].open(newline="") as file:
        texts = list(csv.DictReader(file))
    assert [float(text["intensity_max_CD8"]) for text in texts] == [row["intensity_max_CD8"] for row in rows]
    for feature in json.loads(done.files["geojson"].read_text())["features"]:
        row = rows[int(feature["properties"]["name"]) - 1]
        measured = feature["properties"]["measurements"]
        assert {name: measured[name] for name in expected} == {name: row[name] for name in expected}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(p.name for p in done.files.values())


def test_parts_that_cannot_be_read_have_no_intensities(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(ArrayReader):
        broken = False

        def read(self, top: int, left: int, height: int, width: int) -> NDArray[Any]:
            if self.broken and left + width > 1024:
                raise InputError("the disk is gone")
            return super().read(top, left, height, width)

    reader = Broken(TRUTH > 0, "slide")
    plain = replace(CUT, measure=False)
    options = RunOptions(keep_job=True)
    segment_slide(reader, tmp_path, engines=PerfectEngines(), settings=plain, options=options)
    reader.broken = True
    with caplog.at_level(logging.WARNING):
        again = RunOptions(overwrite=True)
        done = segment_slide(reader, tmp_path, engines=PerfectEngines(), settings=CUT, options=again)
    rows = pyarrow.parquet.read_table(done.files["parquet"]).to_pylist()
    labels = tifffile.imread(done.labels)
    outside = set(np.unique(labels[:, 1024:])) - {0}
    assert len(outside) > 5
    for row in rows:
        assert (row["intensity_mean_0"] is None) == (row["label"] in outside)
        assert row["perimeter_px"] > 0
    assert "have no intensities (the disk is gone)" in caplog.text


def test_a_slide_without_cells(tmp_path: Path) -> None:
    done = segment_slide(ArrayReader(np.zeros((300, 300), np.uint8)), tmp_path, engines=PerfectEngines(), settings=CUT)
    assert done.cells == 0
    assert pyarrow.parquet.read_table(done.files["parquet"]).num_rows == 0
    assert done.files["csv"].read_text().strip().endswith("intensity_max_0")


def test_measuring_needs_a_table() -> None:
    with pytest.raises(ConfigError, match="measure=True was given with the formats tiff; expected one with a table"):
        SlideSettings(formats=("tiff",), measure=True)
