"""Tests of a watched folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tifffile
from typer.testing import CliRunner

from runtime.commands.app import app
from runtime.engines.builtin import sample_images
from runtime.errors import InputError
from runtime.files.image_results import FileOptions
from runtime.files.plain import read_image
from runtime.jobs.folders.run import FolderOptions
from runtime.jobs.folders.watch import Watch, WatchOptions, watch_folder
from runtime.jobs.folders.work import ImageWork
from runtime.jobs.segmenter_spec import SegmenterSpec

ROOT = Path(__file__).parents[4]


@pytest.fixture(scope="module")
def image() -> Any:
    """Return a small picture with cells."""
    image = read_image(sample_images()[0])[:96, :96]
    return image if image.ndim == 2 else image[..., 0]


def work() -> ImageWork:
    spec = SegmenterSpec(backend="cpu")
    return ImageWork(engines=spec, config=spec.default_config(), files=FileOptions())


def watch(folder: Path, out: Path, **options: Any) -> Watch:
    return Watch(WatchOptions(folder=folder, out=out, **options), work())


def names(found: Sequence[Any]) -> list[str]:
    return [target[0].name for target in found]


def test_files_are_taken_when_they_are_quiet_and_readable(tmp_path: Path, image: Any) -> None:
    watched = watch(tmp_path, tmp_path / "out", quiet_s=2.0, patience_s=60.0)
    assert watched.look(0.0) == ([], []), "an empty folder"
    tifffile.imwrite(tmp_path / "whole.tif", image)
    content = (tmp_path / "whole.tif").read_bytes()
    (tmp_path / "slow.tif").write_bytes(content[:100])
    (tmp_path / "notes.txt").touch()
    assert watched.look(1.0) == ([], []), "just arrived"
    assert watched.look(2.5) == ([], []), "not yet quiet"
    ready, failed = watched.look(3.5)
    assert (names(ready), failed) == (["whole.tif"], []), "the other file cannot be opened yet"
    assert watched.look(10.0) == ([], []), "each file once"
    (tmp_path / "slow.tif").write_bytes(content)
    assert watched.look(11.0) == ([], [])
    assert names(watched.look(13.0)[0]) == ["slow.tif"]


def test_a_file_that_stays_damaged_is_given_to_the_job_and_again_if_it_changes(tmp_path: Path, image: Any) -> None:
    watched = watch(tmp_path, tmp_path / "out", quiet_s=2.0, patience_s=60.0)
    (tmp_path / "a.tif").write_bytes(b"II*\0")
    watched.look(0.0)
    assert watched.look(59.0) == ([], [])
    assert names(watched.look(60.0)[0]) == ["a.tif"]
    assert watched.look(200.0) == ([], [])
    tifffile.imwrite(tmp_path / "a.tif", image)
    watched.look(201.0)
    assert names(watched.look(203.0)[0]) == ["a.tif"]


def test_results_beside_the_images_are_not_images(tmp_path: Path, image: Any) -> None:
    watched = watch(tmp_path, tmp_path, quiet_s=0.0)
    for name in ("a.tif", "a_labels.tif", "a_seg.npy"):
        tifffile.imwrite(tmp_path / name, image)
    ready, _ = watched.look(0.0)
    assert ready == [(tmp_path / "a.tif", tmp_path / "a")]


def test_files_with_results_of_one_name(tmp_path: Path, image: Any) -> None:
    watched = watch(tmp_path, tmp_path / "out", quiet_s=0.0)
    tifffile.imwrite(tmp_path / "a.tif", image)
    assert names(watched.look(0.0)[0]) == ["a.tif"]
    tifffile.imwrite(tmp_path / "a.tiff", image)
    ready, (failed,) = watched.look(1.0)
    assert ready == []
    assert "would write the same files" in str(failed.failure)
    assert watched.look(2.0) == ([], [])
    (tmp_path / "a.tif").unlink()
    os.utime(tmp_path / "a.tiff", (1, 1))
    assert names(watched.look(3.0)[0]) == ["a.tiff"], "the name is free again"


class _EndError(Exception):
    """Ends the wait for files."""


def results(folder: Path, out: Path, steps: Sequence[Callable[[], object]], **options: Any) -> list[tuple[Any, ...]]:
    """Watch a folder in which something happens at each step; return name, already done and failure of each outcome."""
    waiting, found = list(steps), []

    def wait(_: float) -> None:
        if not waiting:
            raise _EndError
        waiting.pop(0)()

    watched = WatchOptions(folder=folder, out=out, quiet_s=0.0)
    try:
        for done in watch_folder(watched, work(), FolderOptions(**options), wait=wait):
            kind = None if done.failure is None else done.failure.kind
            found += [(done.target[0].name, done.already, kind)]
    except _EndError:
        return found
    raise AssertionError("the folder is watched until something ends it")


def test_a_restart_loses_nothing_and_repeats_nothing(tmp_path: Path, image: Any) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    out.mkdir()

    def arrive(name: str, pixels: Any = image) -> Callable[[], None]:
        return lambda: tifffile.imwrite(folder / name, pixels)

    first = results(folder, out, [arrive("a.tif"), arrive("b.tif")])
    assert first == [("a.tif", False, None), ("b.tif", False, None)]
    written = {path: path.stat().st_mtime_ns for path in out.glob("*_labels.tif")}
    assert len(written) == 2
    arrive("c.tif")()
    again = results(folder, out, [])
    assert sorted(again) == [("a.tif", True, None), ("b.tif", True, None), ("c.tif", False, None)]
    assert {path: path.stat().st_mtime_ns for path in written} == written
    (out / "b_labels.tif").unlink()  # as if a run had been killed
    assert ("b.tif", False, None) in results(folder, out, [])
    changed = results(folder, out, [arrive("a.tif", image[::-1])])
    assert changed[-1] == ("a.tif", False, "exists"), "earlier results are not replaced"
    changed = results(folder, out, [arrive("a.tif", image[:, ::-1])], overwrite=True)
    assert changed[-1] == ("a.tif", False, None)


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere is not a folder"):
        next(watch_folder(WatchOptions(folder=tmp_path / "nowhere", out=tmp_path), work(), FolderOptions()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--watch", "in", "a.tif"], "exclude each other"),
        ([], "Missing argument 'IMAGE...'"),
        (["--watch", "in", "--dry-run"], "--dry-run was given with --watch in"),
        (["--watch", "in", "--cluster", "local"], "--cluster local was given with --watch in"),
    ],
)
def test_wrong_usage(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["segment", *arguments])
    assert done.exit_code == 2
    assert message in " ".join(done.output.replace("│", " ").split())


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
def test_the_command_segments_what_arrives_and_ends_on_ctrl_c(tmp_path: Path, image: Any) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(sample_images()[0], folder / "a.png")
    (folder / "bad.tif").write_bytes(b"")
    command = [sys.executable, "-m", "runtime", "segment", "--watch", folder, "--out", folder, "--backend", "cpu"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 120
        while not (folder / "segmented.jsonl").exists() or '"done"' not in (folder / "segmented.jsonl").read_text():
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out.startswith(f"{folder / 'a.png'}\t")
    assert "1 image segmented" in err
    assert err.splitlines()[-1] == "interrupted; run the same command again to resume"
    labels = tifffile.imread(folder / "a_labels.tif")
    assert labels.max() > 3
    assert not list(folder.glob(".*.partial"))
