"""Tests of what ``segment`` prints: JSON lines, warnings with file names, a summary, and notes on compilation."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import runtime.commands.report
import runtime.jobs.folders.work
from runtime.commands.console import ConsoleHandler, errors, with_file
from runtime.commands.progress import JobProgress, duration
from runtime.commands.report import shown_as
from runtime.files.image_results import is_slide
from runtime.jobs.step import at_work_on
from runtime.ops import compiled
from runtime.ops.compiled import loops_to_compile
from runtime.results import Appearance
from tests.runtime.commands.test_segment import IMAGE, run, write


def test_json_is_a_line_for_each_image(tmp_path: Path, seen: list[Any]) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    write(folder / "a.tif")
    (folder / "b.tif").touch()
    arguments = (folder, "--out", out, "--json", "--diameter", 20, "--overlay", "--format", "csv,tiff")
    done = run(*arguments)
    assert done.exit_code == 1
    rows = {Path(row["path"]).name: row for row in map(json.loads, done.stdout.splitlines())}
    assert set(rows) == {"a.tif", "b.tif"}
    names = [field.name for field in fields(Appearance)]
    assert all(
        list(row) == ["path", "cells", "seconds", "results", *names, "made_by", "already_done", "error"]
        for row in rows.values()
    )
    a, b = rows["a.tif"], rows["b.tif"]
    assert (a["cells"], a["diameter_px"], a["already_done"], a["error"]) == (2, 20, False, None)
    assert 0 < a["seconds"] < 60
    assert set(a["results"]) == {"csv", "tiff", "overlay"}
    assert all(Path(path).is_file() for path in a["results"].values())
    assert (b["cells"], b["results"]) == (None, {})
    assert b["error"]["kind"] == "damaged"
    assert "is empty (0 bytes)" in b["error"]["message"]
    (again,) = (json.loads(line) for line in run(*arguments).stdout.splitlines() if "a.tif" in line)
    assert (again["already_done"], again["cells"], again["diameter_px"]) == (True, 2, 20)
    (out / "segmented.jsonl").unlink()
    (refused,) = (json.loads(line) for line in run(*arguments).stdout.splitlines() if "a.tif" in line)
    assert refused["error"]["kind"] == "exists"
    assert "--overwrite" in refused["error"]["message"]


def test_a_dry_run_as_json(tmp_path: Path, seen: list[Any]) -> None:
    done = run(write(tmp_path / "a.tif"), "--out", tmp_path / "out", "--json", "--dry-run", "--diameter", 20)
    (row,) = map(json.loads, done.stdout.splitlines())
    assert (row["width"], row["height"], row["tiles"], row["as_slide"]) == (80, 60, 1, False)
    assert "images   1 to segment" in done.stderr


def test_a_summary_ends_the_run(tmp_path: Path, seen: list[Any]) -> None:
    for name in ("in/a.tif", "in/b.tif"):
        write(tmp_path / name)
    done = run(tmp_path / "in", "--out", tmp_path / "out")
    summary = rf"2 images segmented, 4 cells, [\d.]+ s; results in {re.escape(str(tmp_path / 'out'))}"
    assert re.fullmatch(summary, done.stderr.splitlines()[-1])
    assert (duration(2.34), duration(62), duration(3700)) == ("2.3 s", "1 min 2 s", "1 h 1 min")


def test_compilation_is_announced(tmp_path: Path, seen: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = (write(tmp_path / "a.tif"), "--out", tmp_path / "out")
    monkeypatch.setattr(runtime.commands.report, "loops_to_compile", lambda: True)
    assert run(*arguments).stderr.count("Compiling loops for this machine, once: about") == 1
    assert "Compiling" not in run(*arguments).stderr, "nothing left to compile"
    monkeypatch.setattr(runtime.commands.report, "loops_to_compile", lambda: False)
    assert "Compiling" not in run(*arguments, "--restart").stderr


def test_loops_that_are_kept_need_no_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    class Loop:
        """A loop compiled by numba, without compiled forms in this process."""

        def __init__(self, loop: Any) -> None:
            self.py_func, self.signatures = loop.py_func, []
            self.stats = loop.stats

    compiled.looked_up(np.zeros((2, 2), np.uint8), np.zeros(1, np.float32))
    monkeypatch.setattr(compiled, "_LOOPS", [Loop(compiled.looked_up)])
    assert not loops_to_compile(), "the cache contains its index"
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))
    assert loops_to_compile()
    monkeypatch.setattr(compiled, "_LOOPS", [lambda: None])
    assert not loops_to_compile(), "numba is disabled"


def test_warnings_name_the_files(
    tmp_path: Path, seen: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = runtime.jobs.folders.work.read_file

    def warns(path: Path, options: Any) -> Any:
        logging.getLogger("runtime.test").warning("channels are odd")
        return read(path, options)

    monkeypatch.setattr(runtime.jobs.folders.work, "read_file", warns)
    handler = ConsoleHandler()
    logging.getLogger("runtime.test").addHandler(handler)
    image = write(tmp_path / "a.tif")
    try:
        done = run(image, "--out", tmp_path / "out")
    finally:
        logging.getLogger("runtime.test").removeHandler(handler)
    assert f"warning: {image}: channels are odd\n" in done.stderr
    assert with_file("as it is") == "as it is"
    with at_work_on([Path(f"{name}.tif") for name in "abcde"]):
        assert with_file("odd") == "one of a.tif, b.tif, c.tif and 2 more: odd"
        assert with_file("b.tif is odd") == "b.tif is odd"
        assert with_file("odd", 1) == "b.tif: odd"


def test_a_line_says_how_the_image_was_shown() -> None:
    measured = Appearance(diameter_px=31.26, diameter_confidence=0.744, inverted=True)
    assert shown_as(measured) == "diameter 31.3 px (confidence 0.74), inverted"
    assert shown_as(Appearance(diameter_px=20, nuclear_alone=True)) == "diameter 20.0 px (given), nuclear channel alone"
    assert shown_as(Appearance()) == ""


def test_warnings_stand_above_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings go to the console of the bar, which erases the bar first."""
    printed: list[str] = []
    monkeypatch.setattr(errors, "print", lambda line, **_: printed.append(line))
    record = logging.LogRecord("runtime", logging.WARNING, __file__, 1, "look [here]", None, None)
    ConsoleHandler().emit(record)
    assert printed == ["warning: look [here]"]
    assert JobProgress()._bar.console is errors


def test_large_images_and_slides_show_their_progress(
    tmp_path: Path, seen: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime.jobs.folders.work, "SMALL_VALUES", 1000)
    done = run(write(tmp_path / "a.tif"), "--out", tmp_path / "out")
    assert "a.tif, 80 x 60 px: 0 of 1\n" in done.stderr
    assert "a.tif, 80 x 60 px: 1 of 1, " in done.stderr


def test_masks_beside_their_images_are_left_out(
    tmp_path: Path, seen: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "in"
    for name in ("x_img.tif", "x_mask.tif", "y_mask.tif", "z_IMG.png", "z_mask.tif"):
        write(folder / name)
    tifffile.imwrite(folder / "z_img.tif", IMAGE)
    (folder / "z_IMG.png").unlink()
    names = {Path(line.split("\t")[0]).name for line in run(folder, "--out", tmp_path / "a").stdout.splitlines()}
    assert names == {"x_img.tif", "y_mask.tif", "z_img.tif"}, "there is no image y"
    assert "2 masks skipped (NAME_mask of an image NAME_img)" in caplog.text
    by_pattern = run(folder / "x*.tif", "--out", tmp_path / "b")
    assert [Path(line.split("\t")[0]).name for line in by_pattern.stdout.splitlines()] == ["x_img.tif"]
    for asked in ("x_mask.tif", "*_mask.tif"):
        named = run(folder / asked, "--out", tmp_path / "c", "--restart")
        assert f"{folder / 'x_mask.tif'}\t2 cells" in named.stdout


def test_whole_slide_files_are_slides() -> None:
    """Whole-slide files are slides at any size."""
    assert is_slide(Path("a.SVS"), (10, 10), 1000)
    assert is_slide(Path("a.tif"), (40, 30), 1000)
    assert not is_slide(Path("a.tif"), (10, 10), 1000)
