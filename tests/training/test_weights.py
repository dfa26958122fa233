"""Tests of the built-in model's checkpoint: the source of its engines, exported and stored under its name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from runtime.commands.app import app
from runtime.engines.builtin import builtin_engine
from runtime.engines.manifest import read_manifest, sha256_file
from tests.small import SEPARATE, SMALL, save_small
from training.checkpoint import CheckpointError, load_checkpoint
from training.weights import weights_file
from training.weights.__main__ import averaged


def test_the_engines_were_made_from_it() -> None:
    manifest = read_manifest(builtin_engine())
    assert manifest.weights["sha256"] == sha256_file(weights_file("nano"))
    done = CliRunner().invoke(app, ["verify", str(builtin_engine()), "--checkpoint", "nano"])
    assert done.exit_code == 0, done.output


def test_exported_by_name_it_keeps_its_settings(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["export", "--checkpoint", "nano", "--precision", "fp16", "--out", str(tmp_path / "half")]
    )
    assert done.exit_code == 0, done.output
    ours, builtin = read_manifest(tmp_path / "half"), read_manifest(builtin_engine())
    assert ours.precision == "fp16"
    assert ours.config == builtin.config
    assert ours.trained_channels == builtin.trained_channels
    assert ours.weights["licence"] == "Apache-2.0"


def test_a_path_is_itself(tmp_path: Path) -> None:
    assert weights_file(tmp_path / "nano.pt") == tmp_path / "nano.pt"
    assert weights_file("nano").is_file()


@pytest.mark.parametrize("option", [["export", "--out", "x"], ["verify", "x"]])
def test_other_names_are_files_that_are_missing(option: list[str], tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [*option, "--checkpoint", str(tmp_path / "micro")])
    assert done.exit_code != 0
    assert not (tmp_path / "x").exists()


def test_kept_weights_are_rounded(small_checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "kept.pt"
    command = [sys.executable, "-m", "training.weights", str(small_checkpoint), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    before, after = load_checkpoint(small_checkpoint), load_checkpoint(out)
    assert after.licence == before.licence
    assert after.model.config == before.model.config
    for key, value in before.model.state_dict().items():
        torch.testing.assert_close(after.model.state_dict()[key], value.half().float(), rtol=0, atol=0)
    assert out.stat().st_size < 0.6 * small_checkpoint.stat().st_size


def test_of_several_the_mean_is_kept(tmp_path: Path) -> None:
    paths = [save_small(tmp_path / f"{seed}.pt", SMALL, seed) for seed in (0, 1)]
    models = [load_checkpoint(path).model.state_dict() for path in paths]
    for name, value in averaged(paths).model.state_dict().items():
        torch.testing.assert_close(value, (models[0][name] + models[1][name]) / 2)
    other = save_small(tmp_path / "other.pt", SEPARATE)
    with pytest.raises(CheckpointError, match=r"other\.pt has another model or licence than .*0\.pt"):
        averaged([paths[0], other])
