"""``segment`` on slides with the built-in model, and on small images, which are segmented as ``Segmenter`` does."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from typer.testing import CliRunner

from benchmarks.made_slide import AS_MADE, PerfectEngines, PerfectTiles
from runtime import Segmenter
from runtime.commands.app import app
from runtime.commands.options import MachineOptions, ModelOptions
from runtime.commands.settings import segmenter_spec
from runtime.engines.backends import load
from runtime.engines.backends.choice import BackendChoice
from runtime.engines.builtin import sample_images
from runtime.files.formats import open_image
from runtime.files.outputs.label_images import write_ome_zarr
from runtime.files.plain import read_image
from runtime.jobs.segmenter_spec import forget_loaded
from runtime.jobs.slides import ArrayReader, SlideSettings, segment_slide
from runtime.jobs.slides.estimate import estimate


@pytest.fixture(scope="module")
def nuclei() -> NDArray[np.generic]:
    return read_image(next(path for path in sample_images() if path.name.startswith("fluorescence")))


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory, nuclei: NDArray[np.generic]) -> Path:
    """Write a dark slide with nuclei in two corners."""
    array = np.full((700, 800), int(nuclei.min()), nuclei.dtype)
    array[: nuclei.shape[0], : nuclei.shape[1]] = nuclei
    array[-nuclei.shape[0] :, -nuclei.shape[1] :] = nuclei
    path = tmp_path_factory.mktemp("slide") / "made.npy"
    np.save(path, array)
    return path


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["segment", "--as-slide", *map(str, arguments)])


def test_a_small_image_is_segmented_as_an_image(tmp_path: Path, nuclei: NDArray[np.generic]) -> None:
    done = segment_slide(ArrayReader(nuclei, "small"), tmp_path)
    labels, expected = tifffile.imread(done.labels), Segmenter()(nuclei)
    assert done.tiles == 1
    assert done.cells == len(expected) > 5
    pairs = np.unique(np.stack((labels.ravel(), expected.labels.ravel())), axis=1)
    assert pairs.shape[1] == len(expected) + 1, "the same cells, numbered in reading order"


@pytest.mark.parametrize("options", [(), ("--as-slide",)])
def test_auto_is_worked_out_once(
    options: tuple[str, ...], tmp_path: Path, nuclei: NDArray[np.generic], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job in this process warns only once of an unused GPU."""
    asked = []

    def choose(directory: Path, device: int) -> BackendChoice:
        asked.append(directory)
        return BackendChoice("cpu", "onnxruntime always runs", ("the GPU is not used",))

    monkeypatch.delenv("CELLSAM_BACKEND", raising=False)
    monkeypatch.setattr(load, "choose_backend", choose)
    forget_loaded()
    np.save(tmp_path / "a.npy", nuclei[:100, :100])
    done = CliRunner().invoke(app, ["segment", str(tmp_path / "a.npy"), "--out", str(tmp_path / "out"), *options])
    assert done.exit_code == 0, done.output
    assert len(asked) == 1


def test_every_process_of_a_cluster_works_out_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CELLSAM_BACKEND", "openvino")
    engine = Path("engines")
    for cluster, backend, directory in (
        (None, "openvino", engine),
        ("local", "auto", engine),
        ("tcp://host:8786", "auto", engine.absolute()),
    ):
        model = ModelOptions(model=str(engine), cpu_precision="fp32")
        spec = segmenter_spec(model, MachineOptions(cluster=cluster, threads=2))
        assert (spec.backend, spec.engine_dir, spec.options.threads) == (backend, directory, 2)


def test_command(tmp_path: Path, slide: Path) -> None:
    cut = ["--tile-size", "400", "--tile-overlap", "80"]
    scale = ["--diameter-um", "10", "--pixel-size", "0.25"]
    planned = run(slide, "--out", tmp_path, "--dry-run", *scale)
    assert "median diameter 40.0 px" in planned.stdout

    planned = run(slide, "--out", tmp_path, "--dry-run", *cut)
    assert planned.exit_code == 0, planned.stderr
    assert "800 x 700 px" in planned.stdout
    assert "4 tiles of 440 x 440 px" in planned.stdout
    assert "GiB a process" in planned.stdout
    assert not list(tmp_path.iterdir()), "a dry run writes nothing"

    done = run(slide, "--out", tmp_path, *cut)
    assert done.exit_code == 0, done.stderr
    labels = tifffile.imread(tmp_path / "made_labels.tif")
    assert f"{labels.max()} cells" in done.stdout
    assert labels.max() > 10
    assert "tiles: 4 of 4" in done.stderr
    assert "Mpx/s" in done.stderr

    again = run(slide, "--out", tmp_path, *cut)
    assert (again.exit_code, "1 of 1 images were already done" in again.stderr) == (0, True)
    other = run(slide, "--out", tmp_path)
    assert other.exit_code == 1
    assert (
        "has results from other settings (slide.overlap_px is None, was 80; slide.tile_px is None, was 400)"
        in other.stderr
    )
    assert "pass --overwrite" in other.stderr
    whole = CliRunner().invoke(app, ["segment", str(slide), "--out", str(tmp_path)])
    assert (whole.exit_code, "was segmented as a slide, and has results" in whole.stderr) == (1, True)
    wrong = run(slide, "--out", tmp_path, "--tile-size", "90", "--tile-overlap", "80")
    assert wrong.exit_code == 2


def test_a_dry_run_times_a_tile_with_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dry run finds cells although the centre of the slide is empty."""
    timed: list[tuple[int, int]] = []
    segment = PerfectTiles.segment_tiles

    def told(self: PerfectTiles, tiles: Any, *arguments: Any) -> Any:
        timed.extend(tile.origin_yx for tile in tiles)
        return segment(self, tiles, *arguments)

    monkeypatch.setattr(PerfectTiles, "segment_tiles", told)
    array = np.zeros((1100, 1000), np.uint8)
    array[900:930, 900:930] = 1
    found = estimate(ArrayReader(array), PerfectEngines(), AS_MADE, SlideSettings(tile_px=250, overlap_px=50))
    assert found.tiles > 16
    (origin,) = set(timed)
    assert len(timed) == 2, "once to warm up"
    assert min(origin) > 600


def test_a_plane_of_a_stack_and_the_pixel_size(tmp_path: Path, nuclei: NDArray[np.generic]) -> None:
    """Results are named as ``segment`` names them. The message for a stack names options that exist."""
    stack = np.stack([np.zeros_like(nuclei), nuclei])[:, :200, :200]
    path = tmp_path / "stack.ome.tif"
    tifffile.imwrite(path, stack, photometric="minisblack", metadata={"axes": "ZYX"})
    asked = run(path, "--out", tmp_path / "out")
    assert (asked.exit_code, "Choose it: --z 0..1" in asked.stderr) == (1, True)
    more = ("--z", 1, "--pixel-size", "0.5", "--series", "0", "--nms-iou", "0.9")
    done = run(path, "--out", tmp_path / "out", *more)
    assert done.exit_code == 0, done.stderr
    written = ["segmented.jsonl", "stack_cells.csv", "stack_labels.tif"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == written
    with open_image(tmp_path / "out" / "stack_labels.tif") as reader:
        assert reader.pixel_size_um == pytest.approx(0.5)
        assert reader.read_all().max() > 5
    with (tmp_path / "out" / "stack_cells.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert float(row["area_um2"]) == pytest.approx(int(row["label_area_px"]) / 4)


def test_a_damaged_tile_of_a_file_is_named_by_position(tmp_path: Path, nuclei: NDArray[np.generic]) -> None:
    """Other tiles are kept, and reused once the file is repaired."""
    array = np.full((2200, 2100), int(nuclei.min()), nuclei.dtype)
    array[: nuclei.shape[0], : nuclei.shape[1]] = nuclei
    path, out = tmp_path / "damaged.tif", tmp_path / "out"
    tifffile.imwrite(path, array, tile=(256, 256), compression="zlib")
    whole = path.read_bytes()
    with tifffile.TiffFile(path) as tiff:
        page, number = tiff.pages[0], 5 * 9 + 4  # rows 1280 to 1536, columns 1024 to 1280
        offset, length = page.dataoffsets[number], page.databytecounts[number]
    path.write_bytes(whole[:offset] + bytes(length) + whole[offset + length :])
    arguments = [path, "--out", out, "--tile-size", 400, "--tile-overlap", 60]

    failed = run(*arguments)
    message = " ".join(failed.stderr.split())
    assert failed.exit_code == 1
    assert "tiles failed, so no results were written; the other tiles are kept" in message
    named = re.findall(r"tile at rows (\d+)-(\d+), columns (\d+)-(\d+): (\S+)", message)
    assert 1 <= len(named) < 16
    for top, bottom, left, right in (map(int, place[:4]) for place in named):
        # A tile is read together with the regions of 128 pixels that its contrast needs.
        assert (top - 256 < 1536, bottom + 256 > 1280, left - 256 < 1280, right + 256 > 1024) == (True,) * 4
    assert all(place[4] == str(path) for place in named), "the reason follows, and names the file"
    assert "pass --partial to write results without them" in message
    assert sorted(left.name for left in out.iterdir()) == ["damaged_job", "segmented.jsonl"]

    partial = run(*arguments, "--partial")
    assert partial.exit_code == 1
    assert f"{len(named)} of " in partial.stderr
    assert tifffile.imread(out / "damaged_labels.tif").max() > 5

    path.write_bytes(whole)
    done = run(*arguments)
    assert done.exit_code == 0, done.stderr
    assert not (out / "damaged_job").exists()


def test_no_result_replaces_the_slide(tmp_path: Path) -> None:
    slide = tmp_path / "a.zarr"
    write_ome_zarr(slide, np.ones((20, 30), np.int32))
    refused = run(slide, "--out", tmp_path, "--format", "ome-zarr", "--overwrite")
    assert refused.exit_code == 1
    assert "would replace the image" in " ".join(refused.stderr.split())
    unknown = run(slide, "--out", tmp_path, "--format", "png")
    assert (unknown.exit_code, "format 'png' is unknown" in unknown.stderr) == (2, True)
