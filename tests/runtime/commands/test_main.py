"""Tests of the command line as users see it: input and output files, exit codes, messages."""

from __future__ import annotations

import csv
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

import runtime.commands.app
import runtime.commands.info
import runtime.jobs.folders.work
from export.exporter import export_engines
from runtime import InputError, Segmenter
from runtime.engines.manifest import describe_check
from runtime.files.outputs.tables import TABLE_COLUMNS
from runtime.jobs.folders.records import RECORD_NAME
from tests.engine_sources import renew_sums
from tests.small import PROMPTED, save_small

OPEN = ["--box-threshold", "0.5", "--box-threshold-mode", "fixed", "--iou-threshold", "-1000", "--min-area", "0"]


COMMAND = str(Path(sys.executable).with_name("cellsam-engine"))
"""The installed command, beside the interpreter that runs the tests."""


def run(*arguments: object, cwd: Path | None = None, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command; ``path`` is searched for packages first."""
    environment = os.environ | ({} if path is None else {"PYTHONPATH": str(path)})
    command = [COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)


def run_in_terminal(*arguments: object, share_stdout: bool) -> tuple[str, str]:
    """Return what a terminal shows of stderr, and of stdout if shared, and what is written to stdout otherwise."""
    terminal, end = pty.openpty()
    stdout = end if share_stdout else subprocess.PIPE
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "300"}
    with subprocess.Popen([COMMAND, *map(str, arguments)], stdout=stdout, stderr=end, env=environment) as process:
        os.close(end)
        shown = b""
        while True:
            try:
                block = os.read(terminal, 4096)
            except OSError:  # Linux raises this when the other end is closed
                break
            if not block:
                break
            shown += block
        rest = process.stdout.read() if process.stdout else b""
    os.close(terminal)
    assert process.returncode == 0, shown
    return shown.decode(), rest.decode()


@pytest.fixture
def folder(tmp_path: Path, image: Any) -> Path:
    """Folder with the same image as PNG, TIFF and npy."""
    Image.fromarray(image).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "b.tif", image.astype(np.uint16) * 200, compression="lzw")
    np.save(tmp_path / "c.npy", image.astype(np.float32) / 255)
    return tmp_path


def test_segment_writes_labels_and_tables(folder: Path, small_engines: Path, image: Any) -> None:
    out = folder / "out"
    images = [folder / name for name in ("a.png", "b.tif", "c.npy")]
    done = run("segment", *images, "--model", small_engines, "--out", out, *OPEN)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in out.iterdir()) == [
        *(f"{stem}_{kind}" for stem in "abc" for kind in ("cells.csv", "labels.tif")),
        RECORD_NAME,
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
    # All file types give the same cells.
    assert (tifffile.imread(out / "b_labels.tif") > 0).mean() == pytest.approx((labels > 0).mean(), abs=0.02)


def test_overlays_are_written_when_asked_for(folder: Path, small_engines: Path) -> None:
    command = ("segment", folder / "a.png", "--model", small_engines, "--out", folder / "out", *OPEN)
    assert run(*command, "--overlay").returncode == 0
    with Image.open(folder / "out" / "a_overlay.png") as picture:
        assert (picture.width, picture.height) == (253, 519)
    (folder / "out" / RECORD_NAME).unlink()
    again = run(*command, "--overlay")
    assert again.returncode == 1
    assert "a_overlay.png; pass --overwrite to replace them" in again.stderr


def test_the_samples_are_segmented_by_the_built_in_engines(tmp_path: Path) -> None:
    listed = run("samples", "--out", tmp_path / "samples")
    assert listed.returncode == 0, listed.stderr
    images = listed.stdout.split()
    assert len(images) == 4
    done = run("segment", *images, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    counts = [int(line.split("\t")[1].split()[0]) for line in done.stdout.splitlines()]
    assert all(count >= 10 for count in counts), done.stdout
    shown = run("info")
    assert shown.returncode == 0, shown.stderr
    assert "512 x 512 pixels" in shown.stdout


def test_bad_images_are_reported_and_good_ones_written(folder: Path, small_engines: Path) -> None:
    (folder / "empty.png").touch()
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:500])
    np.save(folder / "nan.npy", np.full((9, 9), np.nan))
    tifffile.imwrite(folder / "stack.tif", np.zeros((5, 20, 20), np.uint8))
    bad = [folder / name for name in ("empty.png", "cut.png", "nan.npy", "stack.tif", "none.png")]
    out = folder / "out"
    done = run(
        "segment", *bad[:2], folder / "a.png", *bad[2:], folder / "c.npy", "--model", small_engines, "--out", out
    )
    assert done.returncode == 1
    assert "5 of 7 images failed" in done.stderr
    for path, reason in zip(
        bad,
        ("0 bytes", "cannot be read", "NaN or infinite", "axes QYX with shape (5, 20, 20)", "not a file"),
        strict=True,
    ):
        lines = [line for line in done.stderr.splitlines() if str(path) in line]
        assert any(reason in line for line in lines), (path, done.stderr)
        assert [line.count(str(path)) for line in lines] == [1]
    results = ["a_cells.csv", "a_labels.tif", "c_cells.csv", "c_labels.tif"]
    assert sorted(path.name for path in out.iterdir()) == [*results, RECORD_NAME]


def test_results_are_not_replaced_unasked(folder: Path, small_engines: Path) -> None:
    out = folder / "out"
    command = ("segment", folder / "a.png", "--model", small_engines, "-o", out)
    assert run(*command).returncode == 0
    again = run(*command)
    assert (again.returncode, again.stdout) == (0, ""), "the same command has nothing left to do"
    assert "1 of 1 images were already done" in again.stderr
    other = run(*command, "--min-area", 7)
    assert other.returncode == 1
    assert "pass --overwrite" in other.stderr
    assert run(*command, "--min-area", 7, "--overwrite").returncode == 0


def test_the_model_and_the_output_directory_have_defaults(folder: Path) -> None:
    assert run("segment", "a.png", cwd=folder).returncode == 0
    done = run("segment", "a.png", "--model", "nano", cwd=folder)
    assert "1 of 1 images were already done" in done.stderr, done.stderr
    assert (folder / "segmented" / "a_labels.tif").is_file()


def test_two_images_of_one_name_are_refused(folder: Path, small_engines: Path) -> None:
    (folder / "other").mkdir()
    np.save(folder / "other" / "a.npy", np.zeros((5, 5)))
    done = run(
        "segment", folder / "a.png", folder / "other" / "a.npy", "--model", small_engines, "--out", folder / "out"
    )
    assert done.returncode == 1
    assert "would both write" in done.stderr
    assert not (folder / "out").exists()


def test_names_that_differ_in_case_are_refused(folder: Path, small_engines: Path) -> None:
    (folder / "A.npy").touch()
    done = run("segment", folder / "a.png", folder / "A.npy", "--model", small_engines, "--out", folder / "out")
    assert done.returncode == 1
    assert "would both write" in done.stderr


def test_an_image_given_twice_is_named(folder: Path, small_engines: Path) -> None:
    image = folder / "a.png"
    done = run("segment", image, image, "--model", small_engines, "--out", folder / "out")
    assert (done.returncode, f"{image} is given twice" in done.stderr) == (1, True)
    link = folder / "link.png"
    link.symlink_to(image)
    done = run("segment", image, link, "--model", small_engines, "--out", folder / "out")
    assert (done.returncode, "are one file, given twice" in done.stderr) == (1, True)


@pytest.mark.parametrize("names", [("a.png", "a_labels.tif"), ("a_labels.tif", "a.png")])
def test_no_image_is_replaced_by_a_result(folder: Path, small_engines: Path, names: tuple[str, str]) -> None:
    (folder / "b.tif").rename(folder / "a_labels.tif")
    before = (folder / "a_labels.tif").read_bytes()
    images = [folder / name for name in names]
    done = run("segment", *images, "--model", small_engines, "--out", folder, "--overwrite")
    assert done.returncode == 1
    assert "would replace the image" in done.stderr
    assert (folder / "a_labels.tif").read_bytes() == before
    assert not (folder / "a_cells.csv").exists()


def test_an_image_that_may_not_be_read_fails_alone(
    folder: Path, small_engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read every file, so the test makes the check and the reader fail."""
    real = runtime.jobs.folders.work.read_file

    def refuse(image: Path, options: Any) -> Any:
        if image.name == "a.png":
            raise PermissionError(13, "Permission denied", str(image))
        return real(image, options)

    access = os.access
    monkeypatch.setattr(os, "access", lambda path, *a, **k: "a.png" not in str(path) and access(path, *a, **k))
    monkeypatch.setattr(runtime.jobs.folders.work, "read_file", refuse)
    images = [str(folder / "a.png"), str(folder / "c.npy")]
    out = folder / "out"
    done = CliRunner().invoke(
        runtime.commands.app.app, ["segment", *images, "--model", str(small_engines), "--out", str(out)]
    )
    assert done.exit_code == 1, done.output
    assert f"{images[0]}: Permission denied\n" in done.stderr
    assert (out / "c_labels.tif").exists()


def test_an_interrupt_still_reports_what_failed(
    folder: Path, small_engines: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(image: Path, options: Any) -> Any:
        if image.name == "b.tif":
            raise KeyboardInterrupt
        raise InputError("too dark")

    monkeypatch.setattr(runtime.jobs.folders.work, "read_file", stop)
    images = [str(folder / name) for name in ("a.png", "b.tif", "c.npy")]
    arguments = ["segment", *images, "--model", str(small_engines), "--out", str(folder / "out")]
    done = CliRunner().invoke(runtime.commands.app.app, arguments)
    assert done.exit_code == 130
    assert "1 of 3 images failed" in done.stderr
    assert f"{images[0]}: too dark" in done.stderr


@pytest.mark.parametrize("share_stdout", [True, False])
def test_result_lines_and_the_progress_bar(folder: Path, small_engines: Path, share_stdout: bool) -> None:
    """In a terminal, lines are separate from the bar; if stdout goes to a file, all lines reach it."""
    images = [folder / name for name in ("a.png", "c.npy")]
    arguments = ("segment", *images, "--model", small_engines, "--out", folder / "out")
    shown, redirected = run_in_terminal(*arguments, share_stdout=share_stdout)
    assert "2/2" in shown
    if not share_stdout:
        assert [line.split("\t")[0] for line in redirected.splitlines()] == [str(image) for image in images]
        return
    for image in images:
        # Each line begins after the bar is erased, and ends with a line break.
        assert re.search(rf"(\x1b\[2K|\n|\r){re.escape(str(image))}\s+\d+ cells\s+\S+_labels\.tif\s*\r?\n", shown), (
            shown
        )


def test_engines_without_a_detector_are_refused_at_once(folder: Path) -> None:
    export_engines(save_small(folder / "sam.pt", PROMPTED), folder / "sam")
    done = run("segment", folder / "a.png", folder / "c.npy", "--model", folder / "sam", "--out", folder / "out")
    assert done.returncode == 1
    assert done.stderr.count("has no detector") == 1
    assert "image, boxes=" in done.stderr
    assert not (folder / "out").exists()


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    """Folder of packages with further commands. Importing one leaves a trace file.

    'broken' and 'lacking' raise on import. 'odd' is a function that cannot become a command.
    """
    root = tmp_path / "plugins"
    info = root / "plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    names = ("broken", "lacking", "odd", "working")
    lines = [f"{name} = plugin_{name}:command" for name in names]
    (info / "entry_points.txt").write_text("\n".join(["[cellsam_engine.commands]", *lines, ""]))
    trace = "from pathlib import Path\nPath(__file__).with_suffix('.loaded').touch()\n"
    (root / "plugin_broken.py").write_text(trace + "raise RuntimeError('of no use')\n")
    (root / "plugin_lacking.py").write_text(trace + "import no_such_package\n")
    (root / "plugin_odd.py").write_text(trace + "def command(words: list[list[int]]) -> None: ...\n")
    (root / "plugin_working.py").write_text(trace + "def command(word: str) -> None:\n    print('works', word)\n")
    return root


def loaded(plugins: Path) -> list[str]:
    return sorted(path.stem.removeprefix("plugin_") for path in plugins.glob("*.loaded"))


def test_own_commands_load_no_others(plugins: Path, small_engines: Path) -> None:
    assert run("info", small_engines, path=plugins).returncode == 0
    assert loaded(plugins) == []
    done = run("working", "export", path=plugins)
    assert (done.returncode, done.stdout) == (0, "works export\n"), done.stderr
    assert loaded(plugins) == ["working"]


def test_a_broken_command_is_listed_and_breaks_no_other(plugins: Path) -> None:
    done = run("--help", path=plugins)
    assert done.returncode == 0
    for name in (
        "segment",
        "info",
        "export",
        "verify",
        "train",
        "data",
        "evaluate",
        "broken",
        "lacking",
        "odd",
        "working",
    ):
        assert re.search(rf"^\W*{name}\b", done.stdout, re.MULTILINE), (name, done.stdout)
    assert loaded(plugins) == [], "help imports no command"
    for name, reason in (("broken", "of no use"), ("odd", "List types with complex sub-types")):
        called = run(name, "--option", "word", path=plugins)
        assert called.returncode == 1
        assert f"error: command '{name}' cannot be loaded ({reason}" in called.stderr
        assert "Traceback" not in called.stderr


def test_a_missing_package_is_named_for_the_command_that_lacks_it(plugins: Path) -> None:
    """The message names the failing command, not another word of the command line that is also a command."""
    done = run("-v", "lacking", "--out", "export", path=plugins)
    assert done.returncode == 1
    assert "'lacking' needs the package 'no_such_package'" in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_usage_is_exit_code_2(folder: Path, small_engines: Path) -> None:
    command = ("segment", folder / "a.png", "--model", small_engines, "--out", folder)
    for wrong in (("--overlap-rule", "x"), ("--tile-size", 9), ("--threads", 0), ("--nonsense",)):
        assert run(*command, *wrong).returncode == 2, wrong
    assert run("segment").returncode == 2
    assert run("nonsense").returncode == 2


def test_settings_out_of_range_and_missing_engines(folder: Path, small_engines: Path) -> None:
    done = run("segment", folder / "a.png", "--model", small_engines, "--out", folder, "--mask-threshold", "2")
    assert done.returncode == 2
    assert "--mask-threshold is 2.0; expected a value in (0, 1)" in done.stderr
    done = run("segment", folder / "a.png", "--model", folder / "none", "--out", folder)
    assert done.returncode == 1
    assert "is not a directory" in done.stderr
    assert "Traceback" not in done.stderr


def test_info(small_engines: Path) -> None:
    done = run("info", small_engines)
    assert done.returncode == 0
    for part in ("paper", "fp32", "test weights", "encoder.onnx", "unaltered", "mismatches per million"):
        assert part in done.stdout
    assert run("info", "--model", small_engines).stdout == done.stdout
    assert run("info", small_engines, "--model", small_engines).returncode == 2
    manifest = run("info", small_engines, "--json").stdout
    assert json.loads(manifest)["image_size"] == 160
    assert "mask_logits" in manifest


def test_info_fits_one_screen() -> None:
    done = run("info", "nano")
    lines = done.stdout.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
    for name in ("view diameter", "trained on", "licence", "verified", "boxes", "masks"):
        assert any(line.startswith(name) for line in lines), name


@pytest.mark.parametrize(
    "outputs",
    [None, 7, ["text"], [{"engine": "encoder"}], [{"engine": "a", "output": "b", "max_abs_error": "large"}]],
)
def test_info_of_an_odd_verification(tmp_path: Path, small_engines: Path, outputs: Any) -> None:
    shutil.copytree(small_engines, tmp_path / "odd")
    path = tmp_path / "odd" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["verification"] = {} if outputs is None else {"outputs": outputs}
    path.write_text(json.dumps(manifest))
    renew_sums(path.parent)
    done = CliRunner().invoke(runtime.commands.app.app, ["info", str(tmp_path / "odd")])
    assert isinstance(done.exception, SystemExit | None), done.exception
    assert "mask_decoder.onnx" in done.stdout or done.stderr.startswith("error: ")


@pytest.mark.parametrize("key", ["engine", "stage"])
def test_checks_are_described_whether_they_name_an_engine_or_a_stage(key: str) -> None:
    """Directories and plans of earlier exports use the key ``stage``."""
    error = {key: "encoder", "output": "image_embedding", "max_abs_error": 0.002, "mismatches_per_million": 3.0}
    gate = {key: "mask_decoder", "output": "mask_logits", "measure": "mean mask IoU", "value": 0.998, "limit": 0.995}
    assert describe_check(error) == "encoder.image_embedding: largest error 0.002, 3 mismatches per million"
    assert describe_check(gate) == "mask_decoder.mask_logits: mean mask IoU 0.998, limit 0.995"


def test_info_of_files_that_cannot_be_opened(small_engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(runtime.commands.info, "read_manifest", refuse)
    done = CliRunner().invoke(runtime.commands.app.app, ["info", str(small_engines)])
    assert done.exit_code == 1
    assert "Permission denied" in done.stderr


def test_an_image_that_cannot_be_read_stops_the_export_at_once(tmp_path: Path, small_checkpoint: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    for name, reason in (("none.png", "is not a file"), ("bad.png", "cannot be read")):
        done = run("export", "--checkpoint", small_checkpoint, "--out", "e", "--image", name, cwd=tmp_path)
        assert done.returncode == 1
        assert f"error: {name} {reason}" in done.stderr
        assert "reading the checkpoint" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bad.png"]


def test_export_verify_segment(tmp_path: Path, small_checkpoint: Path, image: Any) -> None:
    """Export, verify and segment on the command line."""
    exported = run("export", "--checkpoint", small_checkpoint, "--out", "engines", cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    assert exported.stdout.strip() == "engines"
    assert "verifying mask_decoder" in exported.stderr
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / name, image)
    for given, images in (((), 1), (("--image", "a.npy", "--image", "b.npy"), 2)):
        verified = run("verify", "engines", "--checkpoint", small_checkpoint, *given, cwd=tmp_path)
        assert verified.returncode == 0, verified.stderr
        assert verified.stdout.count(": ok, largest error") == 7 * images
        assert all(name in verified.stdout for name in given[1::2])
    again = run("export", "--checkpoint", small_checkpoint, "--out", "engines", cwd=tmp_path)
    assert again.returncode == 1
    assert "--force" in again.stderr
    missing = run("export", "--checkpoint", "none.pt", "--out", "other", cwd=tmp_path)
    assert missing.returncode == 1
    assert "none.pt is not a file" in missing.stderr
    assert Segmenter(tmp_path / "engines")(image).labels.shape == image.shape


def test_python_messages_never_reach_the_user(tmp_path: Path, small_engines: Path) -> None:
    """The output directory is a file."""
    (tmp_path / "out").touch()
    np.save(tmp_path / "a.npy", np.zeros((5, 5)))
    done = run("segment", tmp_path / "a.npy", "--model", small_engines, "--out", tmp_path / "out")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("module", ["runtime", "runtime.commands.main"])
def test_the_command_as_a_module(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "samples"], capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 4), done.stderr
    wrong = subprocess.run([sys.executable, "-m", module, "nonsense"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2


def test_help_imports_nothing_that_takes_long() -> None:
    script = (
        "import sys; from typer.testing import CliRunner; from runtime.commands.app import app\n"
        "done = CliRunner().invoke(app, ['--help']); print(done.output)\n"
        "print(sorted({'numba', 'scipy', 'onnxruntime', 'torch', 'PIL', 'tifffile'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\n[]\n"), done.stdout
    for name, text in (
        ("segment", "Segment every cell of images"),
        ("data", "Build training data"),
        ("train", "Train"),
    ):
        assert re.search(rf"│ {name} +{text}", done.stdout), name
