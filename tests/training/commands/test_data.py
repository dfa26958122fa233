"""Tests of the commands: stdout, stderr and exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.training.data import sources
from training.commands.data import data_app
from training.data import DATASETS

runner = CliRunner()


def run(*arguments: object) -> tuple[int, str, str]:
    result = runner.invoke(data_app, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout, result.stderr


def test_build_then_info(tmp_path: Path) -> None:
    sources.folder(tmp_path / "source", count=5)
    code, out, err = run(
        "build", "folder", "--source", tmp_path / "source", "--out", tmp_path / "out", "--group", "Yeast"
    )
    assert code == 0
    assert "train       3 images       3 tiles" in out
    assert "nuclei: 5 images" in err
    code, out, _ = run("info", tmp_path / "out")
    assert code == 0
    assert out.startswith("nuclei (Yeast)")


def test_skipped_files_are_named_and_the_exit_code_is_1(tmp_path: Path) -> None:
    sources.folder(tmp_path / "source", count=5)
    (tmp_path / "source" / "nuclei" / "03_img.png").write_bytes(b"")
    (tmp_path / "source" / "nuclei" / "04_mask.png").unlink()
    command = ["build", "folder", "--source", tmp_path / "source", "--out", tmp_path / "out", "--group", "nuclei=Yeast"]
    code, out, err = run(*command)
    assert code == 1
    assert "2 source files were skipped" in err
    assert "nuclei/03_img.png: " in err
    assert "nuclei/04_img.png: its image or mask is missing" in err
    assert "images" in out
    assert (tmp_path / "out" / "nuclei" / "dataset.json").is_file()


def test_a_source_without_the_layout_exits_1(tmp_path: Path) -> None:
    code, _, err = run("build", "yeaz", "--source", tmp_path, "--out", tmp_path / "out")
    assert code == 1
    assert "expected the unpacked YeaZ archives" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["build", "nuinsseg", "--source", "a", "--out", "b"],
        ["build", "yeaz", "--out", "b"],
        ["build", "folder", "--source", "a", "--out", "b", "--group", "Fish"],
        ["build", "folder", "--source", "a", "--out", "b", "--image-glob", "a.png"],
    ],
)
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    assert run(*arguments)[0] == 2


def test_help_lists_the_datasets_and_layout_shows_their_files() -> None:
    code, out, _ = run("build", "--help")
    assert code == 0
    squeezed = "".join(out.split()).replace("│", "")
    assert all(name in squeezed for name in DATASETS)
    code, out, _ = run("layout", "tissuenet")
    assert code == 0
    assert "tissuenet_v1.<minor>_{train,val,test}.npz" in out


def test_info_without_a_build_exits_1(tmp_path: Path) -> None:
    code, _, err = run("info", tmp_path)
    assert code == 1
    assert "no finished build" in err


def test_synthesise_then_info(tmp_path: Path) -> None:
    command = ["synthesise", "--out", tmp_path / "made", "--count", 1, "--group", "yeast_dic"]
    code, out, _ = run(*command)
    assert (code, out.strip()) == (0, str(tmp_path / "made" / "yeast_dic"))
    code, out, _ = run("info", tmp_path / "made")
    assert code == 0
    assert "train       1 images       1 tiles" in out
    code, _, err = run(*command)
    assert code == 1
    assert "exists" in err
