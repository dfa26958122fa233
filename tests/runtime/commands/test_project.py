"""Tests of the commands of ``cellsam-engine project``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner, Result

from runtime.commands.app import app
from runtime.correction.project import Project
from runtime.files.plain import write_labels
from tests.runtime.correction.made import make_image, two_cells


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["project", *map(str, arguments)])


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of two images, and label files for them in ``in``."""
    for name in ("a.png", "b.png"):
        make_image(tmp_path / name)
        (tmp_path / "in").mkdir(exist_ok=True)
        write_labels(tmp_path / "in" / name.replace(".png", "_labels.tif"), two_cells())
    found = run("create", tmp_path / "p", tmp_path, "--pixel-size", "0.5")
    assert found.exit_code == 0, found.output
    assert "2 images" in found.stdout
    return tmp_path / "p"


def test_import_mark_status_and_export(project: Path, tmp_path: Path) -> None:
    found = run("import", project, tmp_path / "in", "--author", "ada")
    assert (found.exit_code, found.stdout) == (0, "a.png: 2 cells\nb.png: 2 cells\n")
    assert run("mark", project, "done", "b.png").stdout == "b.png: done\n"
    found = run("status", project)
    assert found.stdout == ("a.png: segmented, 2 cells, 1 edit, revision 1\nb.png: done, 2 cells, 1 edit, revision 2\n")
    assert "1 segmented, 1 done" in found.stderr
    first = json.loads(run("status", project, "--json").stdout.splitlines()[0])
    assert (first["name"], first["author"], first["engine"]["name"]) == ("a.png", "ada", "a_labels.tif")
    found = run("export", project, "--out", tmp_path / "out", "--state", "done", "--format", "tiff", "--format", "coco")
    assert found.exit_code == 0, found.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["b_labels.tif", "coco.json"]
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out" / "b_labels.tif"), two_cells())
    found = run("import", project, tmp_path / "in" / "a_labels.tif", "--image", "b.png", "--state", "corrected")
    assert found.exit_code == 0, found.output


def test_a_project_open_elsewhere_can_be_read_only(project: Path, tmp_path: Path) -> None:
    run("import", project, tmp_path / "in")
    with Project.open(project):
        assert run("status", project).exit_code == 0
        assert run("export", project, "-o", tmp_path / "out").exit_code == 0
        found = run("mark", project, "done", "a.png")
        assert found.exit_code == 1
        assert "is open in another process" in found.stderr


def test_moved_images_are_reported_and_relocated(project: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / name).rename(tmp_path / "new" / name)
    found = run("status", project)
    assert found.exit_code == 1
    assert found.stderr.count("does not exist; expected image") == 2
    assert run("relocate", project, tmp_path / "new").exit_code == 0
    assert run("status", project).exit_code == 0


def test_failures_and_wrong_usage(project: Path, tmp_path: Path) -> None:
    write_labels(tmp_path / "in" / "a_labels.tif", np.zeros((3, 4), np.int32))
    found = run("import", project, tmp_path / "in")
    assert found.exit_code == 1
    assert found.stdout == "b.png: 2 cells\n"
    assert "error: a.png:" in found.stderr
    for code, *arguments in (
        (1, "create", project, tmp_path),
        (1, "status", tmp_path),
        (1, "mark", project, "done", "c.png"),
        (2, "mark", project, "finished", "a.png"),
        (2, "export", project, "-o", tmp_path / "out", "--format", "jpeg"),
        (2, "export", project, "-o", tmp_path / "out", "--state", "finished"),
        (1, "export", project, "-o", tmp_path / "out", "--state", "done"),
        (2, "create", tmp_path / "q", tmp_path, "--pixel-size", "-1"),
    ):
        found = run(*arguments)
        assert found.exit_code == code, (arguments, found.output)
