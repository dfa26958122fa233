"""Tests of the inputs and outputs of the command line: directories, patterns, channels, planes, formats."""

from __future__ import annotations

import csv
import json
import logging
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

import runtime.commands.app
from runtime import InputError
from runtime.extras import install_command
from runtime.files.formats import open_image
from runtime.jobs.find_images import ImageFile, find_images, result_stems

IMAGE = np.zeros((60, 80), np.uint16)
IMAGE[5:20, 10:30] = 900
IMAGE[30:50, 40:70] = 700
CELLS = 2


def run(*arguments: object) -> Any:
    return CliRunner().invoke(runtime.commands.app.app, ["segment", *map(str, arguments)])


def write(path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, IMAGE, **options)
    return path


def multiplex(path: Path) -> Path:
    """Write four channels: 'membrane', the third, contains the cells of ``IMAGE``, 'DAPI' half their values."""
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
        done = run(tmp_path, "--out", tmp_path, "--restart", "--recursive", *everything)
        assert done.exit_code == 0, done.output
    assert len(seen) == 2
    inside = run(tmp_path, "--out", tmp_path / "out", "--recursive", *everything)
    again = run(tmp_path, "--out", tmp_path / "out", "--recursive", "--restart", *everything)
    assert (inside.exit_code, again.exit_code, len(seen)) == (0, 0, 4)
    # A label image without an image in the directory is itself an image.
    write(tmp_path / "c_labels.tif")
    names = [image.path.name for image in find_images([tmp_path], out=tmp_path / "out")]
    assert "c_labels.tif" in names
    assert "a_labels.tif" not in names


def test_results_of_a_run_with_other_options_are_no_images(tmp_path: Path, seen: list[Any]) -> None:
    folder = tmp_path / "in"
    write(folder / "a.tif")
    for arguments in (
        ("--format", "ome-tiff,ome-zarr", "--overlay"),
        ("--overwrite",),
        ("--format", "geojson,csv", "--overwrite"),
    ):
        done = run(folder, "--out", folder, *arguments)
        assert done.exit_code == 0, done.output
        assert len(done.stdout.splitlines()) == 1
    everything = [path.name for path in folder.iterdir()]
    assert {"a_labels.ome.tif", "a_overlay.png", "a.zarr", "a_labels.tif"} <= set(everything)
    for pattern in ("*", "*.tif", "*.ome.tif", "*.png"):
        found = {"*": ["a.tif", "segmented.jsonl"], "*.tif": ["a.tif"]}.get(pattern)
        if found is None:
            with pytest.raises(InputError, match="are results of other images"):
                find_images([folder / pattern])
        else:
            assert [image.path.name for image in find_images([folder / pattern])] == found
    # A pattern that includes the ending of results selects them.
    asked = find_images([folder / "*_labels.tif", folder / "*.zarr"])
    assert [image.path.name for image in asked] == ["a_labels.tif", "a.zarr"]


def test_images_that_are_named_as_results_by_chance(tmp_path: Path) -> None:
    """The directory has an OME-Zarr image and a TIFF of one name, results of an OME-Zarr image, and job files."""
    write(tmp_path / "a.tif")
    for name in ("a.zarr", "b.ome.zarr", "c.zarr"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".zattrs").write_text('{"labels": ["cells"]}' if name == "c.zarr" else '{"multiscales": []}')
    write(tmp_path / "b_labels.tif")
    (tmp_path / "slide_job" / "stitching").mkdir(parents=True)
    (tmp_path / "slide_job" / "job.json").touch()
    write(tmp_path / "slide_job" / "stitching" / "part.tif")
    write(tmp_path / "my_job" / "d.tif")
    found = [str(image.path.relative_to(tmp_path)) for image in find_images([tmp_path], recursive=True)]
    assert found == ["a.tif", "a.zarr", "b.ome.zarr", "c.zarr", "my_job/d.tif"]


def test_files_of_other_types_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("one/a.tif", "one/b.czi", "two/c.ND2", "one/cells.csv", "two/segmented.jsonl", "two/README"):
        write(tmp_path / name)
    find_images([tmp_path / "one"], out=tmp_path / "one")
    assert [record.getMessage() for record in caplog.records] == [
        "1 file of another type is skipped (.czi). Convert proprietary microscope files to OME-TIFF, for example "
        "with Bio-Formats in Fiji."
    ]
    caplog.clear()
    find_images([tmp_path], recursive=True)
    assert len(caplog.records) == 1
    assert "2 files of other types are skipped (.czi, .nd2). Convert" in caplog.text
    caplog.clear()
    with pytest.raises(InputError, match="contains no image"):
        find_images([tmp_path / "two"])
    assert "(.nd2). Convert" in caplog.text
    caplog.clear()
    (tmp_path / "one" / "b.czi").rename(tmp_path / "one" / "film.mp4")
    find_images([tmp_path / "one"])
    assert caplog.messages == ["1 file of another type is skipped (.mp4)."]


def test_a_file_of_a_vendor_is_refused_with_a_way_out(tmp_path: Path, seen: list[Any]) -> None:
    done = run(write(tmp_path / "a.czi"), write(tmp_path / "b.txt"), "--out", tmp_path / "out")
    assert done.exit_code == 1
    lines = {line.split(" has type ")[0].strip(): line for line in done.stderr.splitlines() if " has type " in line}
    assert "to OME-TIFF, for example with Bio-Formats in Fiji" in lines[str(tmp_path / "a.czi")]
    assert "Fiji" not in lines[str(tmp_path / "b.txt")]


def test_images_of_one_name_are_all_listed(tmp_path: Path) -> None:
    folder = tmp_path / "it's [1]"
    for number in range(12):
        write(folder / f"{number:02}.tif")
        write(folder / f"{number:02}.png")
    with pytest.raises(InputError) as raised:
        result_stems(find_images([folder]), tmp_path / "out", ("_labels.tif",))
    lines = str(raised.value).splitlines()
    first = f"  {folder}/00.png and {folder}/00.tif would both write {tmp_path}/out/00_labels.tif"
    assert (lines[1], lines[11], len(lines)) == (first, "  and 2 more", 13)
    (pattern,) = [word for word in shlex.split(lines[12].replace(", or rename", " or rename")) if "*" in word]
    assert [image.path.name for image in find_images([Path(pattern)])] == [f"{number:02}.png" for number in range(12)]
    for name in ("x/a.tif", "y/a.tif"):
        write(tmp_path / name)
    with pytest.raises(
        InputError, match="rename them, or segment each directory into a different output directory with out="
    ):
        result_stems(find_images([tmp_path / "x", tmp_path / "y"]), tmp_path / "out", ("_labels.tif",))


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
    assert (none.exit_code, "no file matches" in none.output) == (1, True)


def test_directories_without_images_and_names_that_collide(tmp_path: Path) -> None:
    (tmp_path / "none" / "deep").mkdir(parents=True)
    with pytest.raises(InputError, match=r"none contains no images .*recursive=True also searches"):
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
    assert (done.exit_code, "--rgb uses all three planes" in done.stderr) == (2, True)
    alone = run(write(tmp_path / "a.tif"), "--out", tmp_path / "out", "--nuclear", "DAPI")
    assert (alone.exit_code, "it has one channel; leave --nuclear out" in alone.stderr) == (1, True)
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
    already = run(path, "--out", out, *options)
    assert (already.exit_code, "1 of 1 images were already done" in already.stderr) == (0, True)
    refused = run(path, "--out", out, *options, "--pixel-size", "2")
    assert refused.exit_code == 1
    assert "pixel_size_um is 2.0, was None" in refused.output
    assert "pass --overwrite" in refused.output
    done = run(path, "--out", out, *options, "--overwrite", "--pixel-size", "2")
    assert done.exit_code == 0, done.output
    with (out / "m_cells.csv").open(newline="") as file:
        assert float(next(csv.DictReader(file))["area_um2"]) == pytest.approx(4 * (labels == 1).sum())
    assert run(path, "--out", out, "--membrane", "membrane").exit_code == 1, "the existing table has another pixel size"
    assert run(path, "--out", out, "--membrane", "membrane", "--overwrite").exit_code == 0
    with open_image(out / "m_labels.tif") as reader:
        assert reader.pixel_size_um == pytest.approx(0.5), "also in the default label image"


def test_formats_that_cannot_be_written(tmp_path: Path, seen: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.tif")
    unknown = run(path, "--out", tmp_path / "out", "--format", "png")
    assert (unknown.exit_code, "format 'png' is unknown" in unknown.output) == (2, True)
    zero = run(path, "--out", tmp_path / "out", "--pixel-size", "0")
    assert (zero.exit_code, "error: --pixel-size is 0.0; expected a positive" in zero.stderr) == (2, True)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    missing = run(path, "--out", tmp_path / "out", "--format", "parquet")
    assert missing.exit_code == 1
    assert install_command("formats") in missing.output
    assert seen == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--diameter", "25", "--view-diameter", "0"), "--diameter is 25.0, but images are shown whole without --view"),
        (("--pixel-size", "-1"), "--pixel-size is -1.0; expected a positive number"),
        (("--mask-threshold", "2"), "--mask-threshold is 2.0; expected"),
        (("--box-threshold", "7"), "--box-threshold is 7.0; expected"),
        (("--nms-iou", "-1"), "--nms-iou is -1.0; expected"),
        (("--iou-threshold", "nan"), "--iou-threshold is nan; expected"),
        (("--backend", "gpu"), "'gpu' is not one of 'auto', 'cpu'"),
        (("--min-contrast", "3"), "--min-contrast is 3.0; expected"),
        (("--tile-size", "90", "--tile-overlap", "80"), "--tile-overlap is 80 and --tile-size 90; expected"),
        (("--z", "-1"), "-1 is too small; expected 0 or more"),
    ],
)
def test_errors_of_usage_name_the_option(
    tmp_path: Path, seen: list[Any], options: tuple[str, str], message: str
) -> None:
    arguments = ["segment", str(write(tmp_path / "a.tif")), "--out", str(tmp_path / "out"), *options]
    done = CliRunner().invoke(runtime.commands.app.app, arguments, env={"COLUMNS": "300"})
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_file_in_place_of_the_output_directory(tmp_path: Path, seen: list[Any]) -> None:
    (tmp_path / "taken").touch()
    for out, code, message in (("taken", 2, "is a file; expected a directory"), ("taken/in", 1, "Not a directory: ")):
        arguments = ["segment", str(write(tmp_path / "a.tif")), "--out", str(tmp_path / out)]
        done = CliRunner().invoke(runtime.commands.app.app, arguments, env={"COLUMNS": "300"})
        assert done.exit_code == code, done.output
        assert message in done.stderr
        assert "Errno" not in done.stderr


def test_what_tifffile_says_of_damaged_files_is_told_to_who_asks(tmp_path: Path) -> None:
    def level(*options: str) -> bool:
        CliRunner().invoke(runtime.commands.app.app, [*options, "samples"])
        return logging.getLogger("tifffile").isEnabledFor(logging.ERROR)

    assert (level("--verbose"), level()) == (True, False)
