"""The command line as a user meets it: files in, files out, exit codes, messages."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from runtime import Segmenter
from runtime.files import TABLE_COLUMNS

OPEN = ["--box-threshold", "0.5", "--box-threshold-mode", "fixed", "--iou-threshold", "-1000", "--min-area", "0"]


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The installed command, beside the interpreter that runs the tests."""
    command = [str(Path(sys.executable).with_name("cellsam-engine")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


@pytest.fixture
def folder(tmp_path: Path, image: Any) -> Path:
    """The same image as PNG, TIFF and npy."""
    Image.fromarray(image).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "b.tif", image.astype(np.uint16) * 200, compression="lzw")
    np.save(tmp_path / "c.npy", image.astype(np.float32) / 255)
    return tmp_path


def test_segment_writes_labels_and_tables(folder: Path, small_engines: Path, image: Any) -> None:
    out = folder / "out"
    images = [folder / name for name in ("a.png", "b.tif", "c.npy")]
    done = run("segment", *images, "--engine", small_engines, "--out", out, *OPEN)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.iterdir()) == [
        f"{stem}_{kind}" for stem in "abc" for kind in ("cells.csv", "labels.tif")
    ]
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == [str(path) for path in images]
    labels = tifffile.imread(out / "a_labels.tif")
    assert labels.shape == image.shape
    assert labels.dtype == np.uint16
    assert lines[0][1] == f"{labels.max()} cells"
    with (out / "a_cells.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == TABLE_COLUMNS
    assert {int(row["label"]) for row in rows} - {0} == set(range(1, labels.max() + 1))
    for row in rows:
        if int(row["label"]):
            assert int(row["label_area_px"]) == (labels == int(row["label"])).sum()
        assert float(row["x0"]) < float(row["x1"])
        assert 0.5 < float(row["score"]) <= 1
    # The same cells whatever the file type.
    assert (tifffile.imread(out / "b_labels.tif") > 0).mean() == pytest.approx((labels > 0).mean(), abs=0.02)


def test_bad_images_are_reported_and_good_ones_written(folder: Path, small_engines: Path) -> None:
    (folder / "empty.png").touch()
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:500])
    np.save(folder / "nan.npy", np.full((9, 9), np.nan))
    tifffile.imwrite(folder / "stack.tif", np.zeros((5, 20, 20), np.uint8))
    bad = [folder / name for name in ("empty.png", "cut.png", "nan.npy", "stack.tif", "none.png")]
    out = folder / "out"
    done = run(
        "segment", *bad[:2], folder / "a.png", *bad[2:], folder / "c.npy", "--engine", small_engines, "--out", out
    )
    assert done.returncode == 1
    assert "5 of 7 images failed" in done.stderr
    for path, reason in zip(
        bad,
        ("0 bytes", "cannot be read", "NaN or infinite", "axes QYX with shape (5, 20, 20)", "not a file"),
        strict=True,
    ):
        assert any(str(path) in line and reason in line for line in done.stderr.splitlines()), (path, done.stderr)
    assert sorted(path.name for path in out.iterdir()) == ["a_cells.csv", "a_labels.tif", "c_cells.csv", "c_labels.tif"]


def test_results_are_not_replaced_unasked(folder: Path, small_engines: Path) -> None:
    out = folder / "out"
    command = ("segment", folder / "a.png", "--engine", small_engines, "--out", out)
    assert run(*command).returncode == 0
    again = run(*command)
    assert again.returncode == 1
    assert "pass --overwrite" in again.stderr
    assert run(*command, "--overwrite").returncode == 0


def test_two_images_of_one_name_are_refused(folder: Path, small_engines: Path) -> None:
    (folder / "other").mkdir()
    np.save(folder / "other" / "a.npy", np.zeros((5, 5)))
    done = run(
        "segment", folder / "a.png", folder / "other" / "a.npy", "--engine", small_engines, "--out", folder / "out"
    )
    assert done.returncode == 1
    assert "would both write" in done.stderr
    assert not (folder / "out").exists()


def test_wrong_usage_is_exit_code_2(folder: Path, small_engines: Path) -> None:
    assert run("segment", folder / "a.png").returncode == 2
    assert (
        run("segment", folder / "a.png", "--engine", small_engines, "--out", folder, "--overlap", "x").returncode == 2
    )
    assert run("nonsense").returncode == 2


def test_settings_out_of_range_and_missing_engines(folder: Path, small_engines: Path) -> None:
    done = run("segment", folder / "a.png", "--engine", small_engines, "--out", folder, "--mask-threshold", "2")
    assert done.returncode == 1
    assert "mask_threshold is 2.0; expected a value in (0, 1)" in done.stderr
    done = run("segment", folder / "a.png", "--engine", folder / "none", "--out", folder)
    assert done.returncode == 1
    assert "is not a directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_info(small_engines: Path) -> None:
    done = run("info", small_engines)
    assert done.returncode == 0
    for part in ("paper", "fp32", "test weights", "encoder.onnx", "unaltered", "mask_logits", "mismatches per million"):
        assert part in done.stdout
    assert json.loads(run("info", small_engines, "--json").stdout)["image_size"] == 160


def test_export_verify_segment(tmp_path: Path, small_checkpoint: Path, image: Any) -> None:
    """The whole way on the command line."""
    exported = run("export", "--checkpoint", small_checkpoint, "--out", "engines", cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    assert exported.stdout.strip() == "engines"
    assert "verifying mask_decoder" in exported.stderr
    verified = run("verify", "engines", "--checkpoint", small_checkpoint, cwd=tmp_path)
    assert verified.returncode == 0, verified.stderr
    assert verified.stdout.count(": ok, largest error") == 7
    again = run("export", "--checkpoint", small_checkpoint, "--out", "engines", cwd=tmp_path)
    assert again.returncode == 1
    assert "--force" in again.stderr
    missing = run("export", "--checkpoint", "none.pt", "--out", "other", cwd=tmp_path)
    assert missing.returncode == 1
    assert "none.pt is not a file" in missing.stderr
    assert Segmenter(tmp_path / "engines")(image).labels.shape == image.shape


def test_python_messages_never_reach_the_user(tmp_path: Path, small_engines: Path) -> None:
    """A file where the output directory should be."""
    (tmp_path / "out").touch()
    np.save(tmp_path / "a.npy", np.zeros((5, 5)))
    done = run("segment", tmp_path / "a.npy", "--engine", small_engines, "--out", tmp_path / "out")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
