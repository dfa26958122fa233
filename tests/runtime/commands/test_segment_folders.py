"""Folder jobs on the command line: resumed, killed, on a cluster, with slides and bad files among the images."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

import runtime.files.image_results
import runtime.files.outputs.overlay
import runtime.jobs.folders.work
from runtime.commands.app import app
from runtime.engines.builtin import sample_images
from runtime.errors import BackendError
from runtime.files.image_results import FileOptions
from runtime.files.plain import read_image
from runtime.jobs.folders.records import RECORD_NAME, Records
from runtime.jobs.folders.run import FolderOptions, segment_folder, settings_of
from runtime.jobs.folders.work import ImageDone, ImageWork, Target
from runtime.jobs.segmenter_spec import SegmenterSpec, loaded_segmenter

COMMAND = str(Path(sys.executable).with_name("cellsam-engine"))
DONE = '"done"'


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["segment", *map(str, arguments)])


def results(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file() and p.name != RECORD_NAME}


def spots(size_hw: tuple[int, int] = (40, 50), at: int = 5) -> Any:
    image = np.zeros(size_hw, np.uint8)
    image[at : at + 9, 10:22] = 200
    return image


def ended_process() -> int:
    """Return the number of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
    ended.wait()
    return ended.pid


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder of four small images of different sizes."""
    (tmp_path / "in").mkdir()
    for number in range(4):
        tifffile.imwrite(tmp_path / "in" / f"{number}.tif", spots((40 + number, 50 + 3 * number), at=5 + number))
    return tmp_path / "in"


def test_images_that_are_done_are_passed_over(folder: Path, tmp_path: Path, seen: list[Any]) -> None:
    out = tmp_path / "out"
    assert run(folder, "--out", out).exit_code == 0
    first = results(out)
    assert len(first) == 8
    tifffile.imwrite(folder / "4.tif", spots())
    again = run(folder, "--out", out)
    assert again.exit_code == 0, again.output
    assert len(seen) == 5
    assert "4 of 5 images were already done" in again.stderr
    assert again.stdout.splitlines() == [f"{folder / '4.tif'}\t1 cells\t{out / '4_labels.tif'}"]
    assert first.items() <= results(out).items()
    (out / "2_cells.csv").unlink()
    assert run(folder, "--out", out).exit_code == 0
    assert len(seen) == 6, "one result was missing"
    assert first.items() <= results(out).items()


def test_other_settings_images_and_results_are_named(folder: Path, tmp_path: Path, seen: list[Any]) -> None:
    out = tmp_path / "out"
    assert run(folder, "--out", out).exit_code == 0
    other = run(folder, "--out", out, "--min-area", 7)
    assert other.exit_code == 1
    assert "0.tif: has results from other settings (config.min_area_px is 7, was " in other.stderr
    tifffile.imwrite(folder / "0.tif", spots((90, 80)))
    (out / "1_cells.csv").write_text("corrected by hand")
    changed = run(folder, "--out", out)
    assert changed.exit_code == 1
    assert "0.tif: has changed since it was segmented, and has results; pass --overwrite" in changed.stderr
    assert "1.tif: has results that were altered after they were written" in changed.stderr
    assert (len(seen), (out / "1_cells.csv").read_text()) == (4, "corrected by hand")
    assert run(folder, "--out", out, "--overwrite").exit_code == 0
    assert len(seen) == 6, "the two that differ"


def test_results_without_a_record_are_not_replaced(folder: Path, tmp_path: Path, seen: list[Any]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "1_labels.tif").write_text("somebody's")
    done = run(folder, "--out", out)
    assert done.exit_code == 1
    assert "1_labels.tif; pass --overwrite" in done.stderr
    assert (len(seen), (out / "1_labels.tif").read_text()) == (3, "somebody's")


def test_a_set_of_files_that_was_cut_short_is_made_again(
    folder: Path, tmp_path: Path, seen: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results are missing between the two files of an image, or the record is cut off in a line."""
    expected = tmp_path / "expected"
    assert run(folder, "--out", expected).exit_code == 0
    out, move = tmp_path / "out", runtime.files.image_results.move_into_place

    def stops(new: Path, path: Path) -> None:
        if path.name == "2_cells.csv":
            raise KeyboardInterrupt
        move(new, path)

    with monkeypatch.context() as patch:
        patch.setattr(runtime.files.image_results, "move_into_place", stops)
        stopped = run(folder, "--out", out)
    assert (stopped.exit_code, "run the same command again to resume" in stopped.stderr) == (130, True)
    written = ["0_cells.csv", "0_labels.tif", "1_cells.csv", "1_labels.tif", "2_labels.tif"]
    assert sorted(name for name in results(out) if name[0] != "3") == written, "the last image may also be in progress"
    (out / f".3.{ended_process()}.partial").mkdir()
    refused = run(folder / "2.tif", "--out", out, "--min-area", 7)
    assert (refused.exit_code, "2.tif: has results from other settings" in refused.stderr) == (1, True)
    done = run(folder, "--out", out)
    assert done.exit_code == 0, done.output
    assert "2 of 4 images were already done" in done.stderr
    assert results(out) == results(expected)
    assert not list(out.glob(".*"))
    record = out / RECORD_NAME
    record.write_bytes(record.read_bytes()[:-9])
    once_more = run(folder, "--out", out)
    assert "3 of 4 images were already done" in once_more.stderr
    last = run(folder, "--out", out)
    assert "4 of 4 images were already done" in last.stderr
    assert results(out) == results(expected)


def test_a_full_disk_loses_nothing(
    folder: Path, tmp_path: Path, seen: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the disk is full at the last file of an image, no new file appears, and those of an earlier run stay."""
    out = tmp_path / "out"
    assert run(folder / "2.tif", "--out", out, "--overlay").exit_code == 0
    before = results(out)
    draw = runtime.files.outputs.overlay.write_overlay

    def full(path: Path, *arguments: Any) -> None:
        if path.name.startswith(("1", "2")):
            path.write_bytes(b"begun")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        draw(path, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(runtime.files.outputs.overlay, "write_overlay", full)
        done = run(folder, "--out", out, "--overlay", "--restart")
    assert done.exit_code == 1
    assert "2 of 4 images failed" in done.stderr
    assert f"{folder / '1.tif'}: No space left on device" in done.stderr
    assert "free space, then run the same command again" in done.stderr
    assert before.items() <= results(out).items()
    assert {name[0] for name in results(out)} == {"0", "2", "3"}
    assert not list(out.glob(".*"))
    assert run(folder, "--out", out, "--overlay").exit_code == 0
    assert len(results(out)) == 12


def test_bad_files_among_good_ones(folder: Path, tmp_path: Path, seen: list[Any]) -> None:
    whole = (folder / "0.tif").read_bytes()
    (folder / "cut.tif").write_bytes(whole[: len(whole) - 900])
    (folder / "empty.tif").touch()
    (folder / "text.png").write_text("no picture")
    np.save(folder / "axes.npy", np.zeros((5, 40, 50), np.uint8))
    tifffile.imwrite(folder / "stack.tif", np.zeros((7, 20, 20), np.uint8))
    np.save(folder / "dark.npy", np.zeros((30, 30), np.uint8))
    done = run(folder, "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "5 of 10 images failed" in done.stderr
    for name, reason in {
        "cut.tif": "cannot be read",
        "empty.tif": "is empty (0 bytes)",
        "text.png": "cannot be read",
        "axes.npy": "Move the channel axis last",
        "stack.tif": "axes QYX with shape (7, 20, 20)",
    }.items():
        lines = [line for line in done.stderr.splitlines() if str(folder / name) in line]
        assert [reason in line for line in lines] == [True], (name, done.stderr)
    assert f"{folder / 'dark.npy'}\t0 cells" in done.stdout
    assert tifffile.imread(tmp_path / "out" / "3_labels.tif").shape == (43, 59)
    assert len(results(tmp_path / "out")) == 10


def test_dry_run(folder: Path, tmp_path: Path, seen: list[Any]) -> None:
    out = tmp_path / "out"
    assert run(folder / "0.tif", "--out", out).exit_code == 0
    before = results(tmp_path)
    arguments = ("--out", out, "--dry-run")
    done = run(folder, *arguments, "--view-diameter", 0)
    assert "has results from other settings" in done.stderr
    assert done.exit_code == 1
    done = run(folder, *arguments)
    assert done.exit_code == 0, done.stderr
    lines = dict(line.split("\t", 1) for line in done.stdout.splitlines() if "\t" in line)
    assert lines == {
        str(folder / "0.tif"): "already done",
        **{str(folder / f"{n}.tif"): f"{50 + 3 * n} x {40 + n} px\ttiles by the measured diameter" for n in (1, 2, 3)},
    }
    assert "images   3 to segment, 1 already done, 0 as slides" in done.stdout
    assert "GiB a process" in done.stdout
    assert len(seen) == 1 + 2 * 2, "each dry run segments a small part of one image, then all of it"
    tiles = run(folder / "3.tif", "--out", out, "--dry-run", "--diameter", 2)
    assert "59 x 43 px\t1 tile\n" in tiles.stdout
    assert results(tmp_path) == before


def test_a_diameter_in_micrometres_follows_each_file(tmp_path: Path) -> None:
    """For two magnifications of one field, one option gives the same cells as the diameter in pixels of each."""
    field = read_image(next(path for path in sample_images() if path.name.startswith("fluorescence")))[:200, :256]
    (tmp_path / "in").mkdir()
    for um, enlarged in ((1.0, 1), (0.5, 2)):
        image = field.repeat(enlarged, axis=0).repeat(enlarged, axis=1)
        size = {"axes": "YX", "PhysicalSizeX": um, "PhysicalSizeY": um}
        tifffile.imwrite(tmp_path / "in" / f"{enlarged}.ome.tif", image, metadata=size)
    np.save(tmp_path / "in" / "unknown.npy", field)
    done = run(tmp_path / "in", "--out", tmp_path / "um", "--diameter-um", 20)
    assert done.exit_code == 1
    assert "unknown.npy is unknown, but the cell diameter is given in micrometres" in done.stderr
    for enlarged in (1, 2):
        image = tmp_path / "in" / f"{enlarged}.ome.tif"
        assert run(image, "--out", tmp_path / "px", "--diameter", 20 * enlarged).exit_code == 0
        by_um, by_px = (read_image(tmp_path / kind / f"{enlarged}_labels.tif") for kind in ("um", "px"))
        assert by_um.max() > 3
        np.testing.assert_array_equal(by_um, by_px)
    one = tmp_path / "in" / "unknown.npy"
    planned = run(one, "--out", tmp_path / "um", "--diameter-um", 20, "--pixel-size", 0.25, "--dry-run")
    assert planned.exit_code == 0, planned.stderr
    assert "256 x 200 px\t1 tile\n" in planned.stdout
    both = run(one, "--out", tmp_path / "um", "--diameter-um", 20, "--diameter", 9)
    assert both.exit_code == 2
    assert "--diameter is 9.0 and --diameter-um 20.0; expected one" in both.stderr


def test_a_dry_run_goes_on_after_a_bad_image(folder: Path, tmp_path: Path, seen: list[Any]) -> None:
    """The dry run samples the image of median size that can be segmented."""
    tifffile.imwrite(folder / "4.tif", spots((100, 90)))
    tifffile.imwrite(folder / "5.tif", spots((120, 90)))
    tifffile.imwrite(folder / "3.tif", spots((43, 59)), compression="zlib")
    damaged = bytearray((folder / "3.tif").read_bytes())
    with tifffile.TiffFile(folder / "3.tif") as tiff:
        start, length = tiff.pages[0].dataoffsets[0], tiff.pages[0].databytecounts[0]
    damaged[start : start + length] = bytes(length)
    (folder / "3.tif").write_bytes(damaged)
    done = run(folder, "--out", tmp_path / "out", "--dry-run")
    assert done.exit_code == 1
    assert f"{folder / '3.tif'}\tfails" in done.stdout
    assert "images   5 to segment" in done.stdout
    assert f"by {folder / '2.tif'}" in done.stdout
    assert f"  {folder / '3.tif'} cannot be read" in done.stderr
    seen.clear()
    assert run(folder / "5.tif", "--out", tmp_path / "out", "--dry-run").exit_code == 0
    assert [image.shape[:2] for image in seen] == [(64, 64), (120, 90)], "a part to warm up, then the image once"
    alone = run(folder / "3.tif", "--out", tmp_path / "out", "--dry-run")
    assert (alone.exit_code, "images   0 to segment" in alone.stdout) == (1, True)


def test_slides_among_images_are_segmented_in_tiles(tmp_path: Path) -> None:
    """The built-in model segments slides last, and their results are named like those of images."""
    nuclei = read_image(next(path for path in sample_images() if path.name.startswith("fluorescence")))
    slide, small = tmp_path / "slide.ome.tif", tmp_path / "small.tif"
    tifffile.imwrite(slide, nuclei)
    tifffile.imwrite(small, nuclei[:150, :150])
    arguments = (slide, small, "--out", tmp_path / "out", "--slide-over", 0.03)
    cut = tmp_path / "cut.tif"
    cut.write_bytes(slide.read_bytes()[:20000])
    planned = run(*arguments, cut, "--dry-run")
    assert planned.exit_code == 1, "one image is truncated"
    lines = dict(line.split("\t", 1) for line in planned.stdout.splitlines() if "\t" in line)
    assert re.fullmatch(
        r"256 x 256 px\tas a slide, \d+ tiles? of (\d+) x \1 px, median diameter [\d.]+ px", lines[str(slide)]
    )
    assert lines[str(cut)] == "fails"
    assert "images   1 to segment, 0 already done, 1 as slides" in planned.stdout
    assert re.search(r"^slides   at most about .* in one process \(.* s a tile\)$", planned.stdout, re.MULTILINE)
    assert not (tmp_path / "out").exists()

    done = run(*arguments)
    assert done.exit_code == 0, done.output
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == [str(small), str(slide)]
    assert re.search(r"slide\.ome\.tif: tiles: (\d+) of \1\D", done.stderr)
    labels = tifffile.imread(tmp_path / "out" / "slide_labels.tif")
    assert labels.dtype == np.uint32
    assert labels.max() > 5
    assert len(results(tmp_path / "out")) == 4
    again = run(*arguments)
    assert "2 of 2 images were already done" in again.stderr


def test_slides_are_written_in_every_format(tmp_path: Path) -> None:
    nuclei = read_image(next(path for path in sample_images() if path.name.startswith("fluorescence")))
    tifffile.imwrite(tmp_path / "slide.tif", nuclei)
    formats = "csv,geojson,ome-tiff,ome-zarr,parquet"
    arguments = (tmp_path / "slide.tif", "--slide-over", 0.03, "--format", formats, "--overlay")
    done = run(*arguments, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    endings = ("_cells.csv", "_cells.geojson", "_labels.ome.tif", ".zarr", "_cells.parquet", "_overlay.png")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {RECORD_NAME, *(f"slide{end}" for end in endings)}
    labels = tifffile.imread(tmp_path / "out" / "slide_labels.ome.tif")
    features = json.loads((tmp_path / "out" / "slide_cells.geojson").read_text())["features"]
    assert len(features) == labels.max() > 5
    again = run(*arguments, "--out", tmp_path / "out")
    assert "1 of 1 images were already done" in again.stderr


@pytest.fixture(scope="module")
def nuclei(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of six real images."""
    source = read_image(next(path for path in sample_images() if path.name.startswith("fluorescence")))
    directory = tmp_path_factory.mktemp("plate")
    for number in range(6):
        tifffile.imwrite(directory / f"{number}.tif", source[40 * number : 40 * number + 110, : 90 + 5 * number])
    return directory


@pytest.fixture(scope="module")
def expected(nuclei: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("expected")
    done = run(nuclei, "--out", out, "--threads", 1)
    assert done.exit_code == 0, done.output
    found = results(out)
    assert len(found) == 12
    return found


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_process_is_gone_on_with(nuclei: Path, tmp_path: Path, expected: dict[str, bytes]) -> None:
    out = tmp_path / "out"
    arguments = ["segment", str(nuclei), "--out", str(out), "--threads", "1"]
    with subprocess.Popen([COMMAND, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: (out / RECORD_NAME).exists() and (out / RECORD_NAME).read_text().count(DONE) >= 2)
        process.kill()
    finished = (out / RECORD_NAME).read_text().count(DONE)
    again = run(*arguments[1:])
    assert again.exit_code == 0, again.output
    assert f"{finished} of 6 images were already done" in again.stderr
    assert len(again.stdout.splitlines()) == 6 - finished
    assert results(out) == expected


def wait_until(reached: Callable[[], bool], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "no result arrived"
        time.sleep(0.01)


@dataclass(frozen=True, kw_only=True)
class DeadlyWork(ImageWork):
    """Work that kills its process once, at the first image with a given name."""

    mark: Path

    def run(self, target: Target) -> ImageDone:
        if target[0].name == "2.tif" and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return ImageWork.run(self, target)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_cluster_gives_the_same_files_though_a_worker_dies(
    nuclei: Path, tmp_path: Path, expected: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    from runtime.engines.backends.base import BackendOptions

    out = tmp_path / "out"
    out.mkdir()
    (nuclei / "bad.npy").write_bytes(b"no array")
    targets = [(path, out / path.stem) for path in sorted(nuclei.iterdir())]
    spec, files = SegmenterSpec(options=BackendOptions(threads=1)), FileOptions()
    work = DeadlyWork(engines=spec, config=spec.default_config(), files=files, mark=tmp_path / "died")
    options = FolderOptions(cluster="local", workers=2)
    try:
        with Records(out, settings_of(work, options), files.endings) as records:
            done = {one.target[0].name: one for one in segment_folder(targets, work, records, options)}
    finally:
        (nuclei / "bad.npy").unlink()
    assert (tmp_path / "died").exists()
    assert sorted(done) == [*(f"{number}.tif" for number in range(6)), "bad.npy"]
    assert [name for name, one in done.items() if one.failure] == ["bad.npy"]
    assert "cannot be read" in str(done["bad.npy"].failure)
    assert results(out) == expected
    assert not [line for line in caplog.records if line.name.startswith("distributed") and line.levelname == "INFO"]
    alone = run(nuclei, "--out", out, "--threads", 1, "--cluster", "local", "--workers", 1)
    assert "6 of 6 images were already done" in alone.stderr, alone.output


def test_a_cluster_without_gpus(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    done = run(folder, "--out", tmp_path / "out", "--backend", "cuda", "--cluster", "local")
    assert done.exit_code == 2
    assert "no GPU is found (CUDA_VISIBLE_DEVICES is '-1')" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_cluster_that_is_not_there(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    done = run(folder, "--out", tmp_path / "out", "--cluster", "nonsense://127.0.0.1:9")
    assert done.exit_code == 1
    assert "cluster nonsense://127.0.0.1:9 cannot be reached" in done.stderr


@pytest.mark.parametrize("small", [0, 45 * 60, 10**6])
def test_images_that_share_engine_calls(
    folder: Path, tmp_path: Path, seen: list[Any], monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    """Images that fail and large images, which are segmented alone, do not change the files of the others."""
    assert run(folder, "--out", tmp_path / "expected").exit_code == 0
    (folder / "1a.tif").touch()
    np.save(folder / "1b.npy", np.zeros((5, 40, 50), np.uint8))
    monkeypatch.setattr(runtime.jobs.folders.work, "SMALL_VALUES", small)
    targets = [(path, tmp_path / "out" / path.stem) for path in sorted(folder.iterdir())]
    work = ImageWork(engines=SegmenterSpec(), config=SegmenterSpec().default_config(), files=FileOptions())
    done = work.run_together(targets)
    assert {one.target[0].name: one.failure is None for one in done} == {
        "0.tif": True, "1.tif": True, "1a.tif": False, "1b.npy": False, "2.tif": True, "3.tif": True
    }  # fmt: skip
    assert results(tmp_path / "out") == results(tmp_path / "expected")


def test_a_batch_that_fails_is_segmented_one_by_one(
    folder: Path, tmp_path: Path, seen: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = loaded_segmenter(SegmenterSpec())
    one_by_one = type(segmenter).batch

    def batch(self: Any, images: Any, *, config: Any = None) -> Any:
        if any(image.shape[0] == 42 for image in images):
            raise BackendError("not this one")
        return one_by_one(self, images, config=config)

    monkeypatch.setattr(type(segmenter), "batch", batch)
    targets = [(path, tmp_path / "out" / path.stem) for path in sorted(folder.iterdir())]
    work = ImageWork(engines=SegmenterSpec(), config=SegmenterSpec().default_config(), files=FileOptions())
    failures = {one.target[0].name: one.failure for one in work.run_together(targets)}
    assert {name: failure and str(failure) for name, failure in failures.items()} == {
        "0.tif": None,
        "1.tif": None,
        "2.tif": "not this one",
        "3.tif": None,
    }


def test_an_image_that_cannot_be_noted_is_done_again(
    folder: Path, tmp_path: Path, seen: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, finish = tmp_path / "out", Records.finish

    def full(records: Records, done: ImageDone) -> None:
        if done.target[0].name == "1.tif":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out / RECORD_NAME))
        finish(records, done)

    with monkeypatch.context() as patch:
        patch.setattr(Records, "finish", full)
        done = run(folder, "--out", out)
    assert done.exit_code == 1
    assert "1.tif: its results are written, but not recorded (No space left on device" in done.stderr
    before = results(out)
    again = run(folder, "--out", out)
    assert again.exit_code == 0, again.output
    assert "3 of 4 images were already done" in again.stderr
    assert results(out) == before


def test_the_record_says_what_was_made_of_what(folder: Path, tmp_path: Path, seen: list[Any]) -> None:
    assert run(folder / "0.tif", "--out", tmp_path / "out").exit_code == 0
    lines = [json.loads(line) for line in (tmp_path / "out" / RECORD_NAME).read_text().splitlines()]
    assert lines[0]["settings"]["config"]["min_area_px"] >= 0
    assert lines[0]["settings"]["engines"]["backend"] == "cpu"
    assert "done" not in lines[1]
    assert (lines[2]["image"], lines[2]["done"]) == ("0", 1)
    assert lines[2]["of"]["bytes"] == (folder / "0.tif").stat().st_size


def test_restart_begins_anew_and_overwrite_permits_to_replace(folder: Path, tmp_path: Path, seen: list[Any]) -> None:
    """``--restart`` does not imply ``--overwrite``, nor the reverse."""
    out, image = tmp_path / "out", folder / "0.tif"
    assert run(image, "--out", out).exit_code == 0
    assert run(image, "--out", out, "--overwrite").exit_code == 0
    assert len(seen) == 1, "with the same settings, there is nothing to replace"
    assert run(image, "--out", out, "--restart").exit_code == 0
    assert len(seen) == 2
    refused = run(image, "--out", out, "--restart", "--min-area", 7)
    assert (refused.exit_code, "has results from other settings" in refused.stderr, len(seen)) == (1, True, 2)
    (out / "0_cells.csv").write_text("corrected by hand")
    assert run(image, "--out", out, "--restart").exit_code == 1
    assert (out / "0_cells.csv").read_text() == "corrected by hand"
    assert run(image, "--out", out, "--min-area", 7, "--overwrite").exit_code == 0
    assert len(seen) == 3


def test_what_appears_after_a_failure_is_not_replaced(folder: Path, tmp_path: Path, seen: list[Any]) -> None:
    """Files that appear after an image failed belong to the user."""
    out, image = tmp_path / "out", folder / "0.tif"
    whole = image.read_bytes()
    image.write_bytes(whole[:-900])
    assert run(image, "--out", out).exit_code == 1
    (out / "0_labels.tif").write_text("somebody's")
    image.write_bytes(whole)
    again = run(image, "--out", out)
    assert (again.exit_code, "0_labels.tif; pass --overwrite" in again.stderr) == (1, True)
    assert ((out / "0_labels.tif").read_text(), seen) == ("somebody's", [])


def test_a_failure_keeps_what_an_earlier_run_did(folder: Path, tmp_path: Path, seen: list[Any]) -> None:
    """A failed run with other settings does not affect the record of earlier results."""
    out, image = tmp_path / "out", folder / "0.tif"
    assert run(image, "--out", out).exit_code == 0
    before = results(out)
    failed = run(image, "--out", out, "--overwrite", "--nuclear", "DAPI")
    assert failed.exit_code == 1
    again = run(image, "--out", out)
    assert "1 of 1 images were already done" in again.stderr
    assert (len(seen), results(out)) == (1, before)


def test_a_record_of_before_slides_were_noted_is_read(folder: Path, tmp_path: Path, seen: list[Any]) -> None:
    out = tmp_path / "out"
    assert run(folder / "0.tif", "--out", out).exit_code == 0
    lines = [json.loads(line) for line in (out / RECORD_NAME).read_text().splitlines()]
    old = [{name: line[name] for name in line if name not in ("size_hw", "appearance", "made_by")} for line in lines]
    (out / RECORD_NAME).write_text("".join(f"{json.dumps(line)}\n" for line in old))
    assert "1 of 1 images were already done" in run(folder / "0.tif", "--out", out).stderr


def test_whatever_an_image_raises_the_others_are_written(
    folder: Path, tmp_path: Path, seen: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """This includes errors of unexpected classes. File names cannot control the terminal."""
    name = "1\x1b[2J.tif"
    (folder / "1.tif").rename(folder / name)
    read = runtime.jobs.folders.work.read_file

    def fails(image: Path, options: Any) -> Any:
        if image.name == name:
            raise KeyError("no such thing")
        return read(image, options)

    monkeypatch.setattr(runtime.jobs.folders.work, "read_file", fails)
    out = tmp_path / "out"
    done = run(folder, "--out", out)
    assert done.exit_code == 1, done.output
    assert "\x1b" not in done.output
    assert "1\\x1b[2J.tif: KeyError: 'no such thing'" in done.stderr
    assert sorted(path.name for path in out.glob("*_labels.tif")) == ["0_labels.tif", "2_labels.tif", "3_labels.tif"]


def test_a_diameter_beyond_all_images_fails_each_in_one_line(folder: Path, tmp_path: Path) -> None:
    done = run(folder / "0.tif", "--out", tmp_path / "out", "--backend", "cpu", "--diameter", "1e300")
    assert done.exit_code == 1
    assert "0.tif: --diameter is 1e+300, far more than the 40 x 50 pixels of the image" in done.stderr
