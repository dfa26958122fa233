"""What the command line takes and writes: directories, patterns, channels, planes, formats."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

import runtime.cli
from runtime import InputError
from runtime.inputs import ImageFile, find_images, result_stems

IMAGE = np.zeros((60, 80), np.uint16)
IMAGE[5:20, 10:30] = 900
IMAGE[30:50, 40:70] = 700
CELLS = 2


def run(*arguments: object) -> Any:
    return CliRunner().invoke(runtime.cli.app, ["segment", *map(str, arguments)])


def write(path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, IMAGE, **options)
    return path


def multiplex(path: Path) -> Path:
    """Four channels; 'membrane', the third, holds the cells of ``IMAGE``, 'DAPI' half their values."""
    planes = np.stack([IMAGE // 2, np.zeros_like(IMAGE), IMAGE, np.zeros_like(IMAGE)])
    metadata = {"axes": "CYX", "Channel": {"Name": ["DAPI", "a", "membrane", "b"]}}
    metadata |= {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tifffile.imwrite(path, planes, photometric="minisblack", metadata=metadata)
    return path


def test_directories_keep_their_form(tmp_path: Path, seen: list[Any]) -> None:
    for name in ("in/b.tif", "in/a.TIF", "in/deep/er/a.tif", "in/notes.txt", "in/.hidden.tif"):
        write(tmp_path / name)
    done = run(tmp_path / "in", "--out", tmp_path / "flat")
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in (tmp_path / "flat").rglob("*.tif")) == ["a_labels.tif", "b_labels.tif"]
    done = run(tmp_path / "in", "--out", tmp_path / "all", "--recursive")
    assert done.exit_code == 0, done.output
    assert [str(path.relative_to(tmp_path / "all")) for path in sorted((tmp_path / "all").rglob("*.tif"))] == [
        "a_labels.tif",
        "b_labels.tif",
        "deep/er/a_labels.tif",
    ]
    assert len(seen) == 5


def test_results_are_no_images_of_a_directory(tmp_path: Path, seen: list[Any]) -> None:
    write(tmp_path / "a.tif")
    everything = ("--overlay", "--format", "tiff,csv,ome-tiff,ome-zarr,geojson,parquet")
    for _ in range(2):
        done = run(tmp_path, "--out", tmp_path, "--overwrite", "--recursive", *everything)
        assert done.exit_code == 0, done.output
    assert len(seen) == 2
    inside = run(tmp_path, "--out", tmp_path / "out", "--recursive", *everything)
    again = run(tmp_path, "--out", tmp_path / "out", "--recursive", "--overwrite", *everything)
    assert (inside.exit_code, again.exit_code, len(seen)) == (0, 0, 4)
    # A label image that belongs to no image of the directory is one.
    write(tmp_path / "c_labels.tif")
    names = [image.path.name for image in find_images([tmp_path], endings=("_labels.tif",), out=tmp_path / "out")]
    assert "c_labels.tif" in names
    assert "a_labels.tif" not in names


def test_patterns(tmp_path: Path, seen: list[Any]) -> None:
    for name in ("in/b1.tif", "in/b2.tif", "in/c.tif", "in/deep/b3.tif", "in/x[1].tif"):
        write(tmp_path / name)
    assert run(tmp_path / "in" / "b*.tif", "--out", tmp_path / "one").exit_code == 0
    assert len(list((tmp_path / "one").glob("*.tif"))) == 2
    assert (
        run(tmp_path / "in" / "**" / "b*.tif", tmp_path / "in" / "x[1].tif", "--out", tmp_path / "two").exit_code == 0
    )
    assert len(list((tmp_path / "two").glob("*.tif"))) == 4
    none = run(tmp_path / "in" / "q*.tif", "--out", tmp_path / "three")
    assert (none.exit_code, "no file fits" in none.output) == (1, True)


def test_directories_without_images_and_names_that_collide(tmp_path: Path) -> None:
    (tmp_path / "none" / "deep").mkdir(parents=True)
    with pytest.raises(InputError, match=r"none holds no image .*--recursive looks into"):
        find_images([tmp_path / "none"])
    for name in ("one/a.tif", "two/a.ome.tif", "two/deep/a.tif"):
        write(tmp_path / name)
    images = find_images([tmp_path / "one", tmp_path / "two"], recursive=True)
    with pytest.raises(InputError, match=r"would both write .*a_labels\.tif"):
        result_stems(images, tmp_path / "out", ("_labels.tif",))
    kept = [images[0], images[2]]
    assert [stem for _, stem in result_stems(kept, tmp_path, ("_x",))] == [tmp_path / "a", tmp_path / "deep" / "a"]
    assert [
        str(ImageFile(Path(name)).name) for name in ("a.ome.tif", "b.OME.TIFF", "c.ome.zarr/", "d.x.png", ".ome")
    ] == [
        "a",
        "b",
        "c",
        "d.x",
        ".ome",
    ]


@pytest.mark.parametrize(
    ("options", "shape", "channel"),
    [
        (["--nuclear", "dapi", "--membrane", "membrane"], (60, 80, 2), IMAGE),
        (["--nuclear", "0"], (60, 80, 1), IMAGE // 2),
        (["--membrane", 2], (60, 80, 1), IMAGE),
    ],
)
def test_channels(tmp_path: Path, seen: list[Any], options: list[Any], shape: Any, channel: Any) -> None:
    done = run(multiplex(tmp_path / "m.ome.tif"), "--out", tmp_path / "out", *options)
    assert done.exit_code == 0, done.output
    assert seen[0].shape == shape
    np.testing.assert_array_equal(seen[0][..., -1], channel)
    assert f"{CELLS} cells" in done.output


def test_wrong_channels_are_reported_with_those_there_are(tmp_path: Path, seen: list[Any]) -> None:
    path = multiplex(tmp_path / "m.ome.tif")
    for options in ([], ["--nuclear", "dapy"], ["--rgb"]):
        done = run(path, "--out", tmp_path / "out", *options)
        assert done.exit_code == 1
        assert "4 channels: 0 (DAPI), 1 (a), 2 (membrane), 3 (b)" in done.output
        assert done.stderr.count(str(path)) == 1
    done = run(path, "--out", tmp_path / "out", "--rgb", "--nuclear", "DAPI")
    assert done.exit_code == 2
    assert seen == []


def test_planes_and_series(tmp_path: Path, seen: list[Any]) -> None:
    stack = np.stack([np.stack([IMAGE * t + z for z in range(4)]) for t in range(3)]).astype(np.uint16)
    tifffile.imwrite(tmp_path / "s.ome.tif", stack, photometric="minisblack", metadata={"axes": "TZYX"})
    assert run(tmp_path / "s.ome.tif", "--out", tmp_path / "out", "--time", 2, "--z", 3).exit_code == 0
    np.testing.assert_array_equal(seen[0][..., 0], stack[2, 3])
    done = run(tmp_path / "s.ome.tif", "--out", tmp_path / "out2", "--z", 3)
    assert done.exit_code == 1
    assert "axes TZYX with shape (3, 4, 60, 80)" in done.output
    assert "--time 0..2" in done.output
    with tifffile.TiffWriter(tmp_path / "f.ome.tif", ome=True) as tiff:
        for name in ("one", "two"):
            metadata = {"axes": "YX", "Name": name}
            tiff.write(IMAGE + (name == "two"), photometric="minisblack", metadata=metadata)
    assert run(tmp_path / "f.ome.tif", "--out", tmp_path / "out", "--series", "two").exit_code == 0
    np.testing.assert_array_equal(seen[1][..., 0], IMAGE + 1)


def test_formats(tmp_path: Path, seen: list[Any]) -> None:
    path, out = multiplex(tmp_path / "m.ome.tif"), tmp_path / "out"
    options = ("--membrane", "membrane", "--format", "geojson,ome-tiff", "--format", "ome-zarr,parquet,csv")
    done = run(path, "--out", out, *options)
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in out.iterdir()) == [
        "m.zarr",
        "m_cells.csv",
        "m_cells.geojson",
        "m_cells.parquet",
        "m_labels.ome.tif",
        "segmented.jsonl",
    ]
    assert str(out / "m_cells.geojson") in done.stdout
    labels = tifffile.imread(out / "m_labels.ome.tif")
    assert labels.max() == CELLS
    features = json.loads((out / "m_cells.geojson").read_text())["features"]
    with (out / "m_cells.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, feature in zip(rows, features, strict=True):
        area = (labels == int(row["label"])).sum()
        assert float(row["area_um2"]) == pytest.approx(area * 0.25)  # 0.5 um, from the file
        assert feature["properties"]["measurements"]["label_area_px"] == area
    refused = run(path, "--out", out, *options)
    assert refused.exit_code == 1
    assert "m.zarr" in refused.output
    assert "pass --overwrite" in refused.output
    done = run(path, "--out", out, *options, "--overwrite", "--pixel-size", "2")
    assert done.exit_code == 0, done.output
    with (out / "m_cells.csv").open(newline="") as file:
        assert float(next(csv.DictReader(file))["area_um2"]) == pytest.approx(4 * (labels == 1).sum())


def test_formats_that_cannot_be_written(tmp_path: Path, seen: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.tif")
    unknown = run(path, "--out", tmp_path / "out", "--format", "png")
    assert (unknown.exit_code, "format 'png' is not known" in unknown.output) == (2, True)
    assert run(path, "--out", tmp_path / "out", "--pixel-size", "0").exit_code == 2
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    missing = run(path, "--out", tmp_path / "out", "--format", "parquet")
    assert missing.exit_code == 1
    assert "pip install 'cellsam-engine[formats]'" in missing.output
    assert seen == []
    assert not (tmp_path / "out").exists()
