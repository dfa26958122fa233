"""Fine-tuning of a tiny model: a complete run, interruptions, other input, and a model that has become worse."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from export import finetune as module
from export.commands.finetune import finetune_command
from export.errors import ExportError
from export.finetune import FinetuneConfig, finetune
from runtime.config import SegmentConfig
from runtime.engines.manifest import read_manifest, sha256_file
from runtime.errors import InputError
from tests.training.made_data import disc_tile
from tests.training.test_training import TINY
from training.checkpoint import load_checkpoint, save_checkpoint
from training.further import further_recipe
from training.model import CellSAM
from training.recipe import NANO, RecipeError
from training.usage import Usage

OWN = SegmentConfig(box_threshold_mode="fixed", box_threshold=0.35, view_diameter_px=40.0)


def write_images(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        tile = disc_tile(number)
        grey = (tile.image[2, :160, :160] * 255).astype(np.uint8)
        Image.fromarray(grey).save(folder / f"disc{number}_img.png")
        Image.fromarray(tile.labels[:160, :160].astype(np.uint16)).save(folder / f"disc{number}_mask.png")
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write three images, a checkpoint with its own settings, and a recipe of two steps."""
    base = tmp_path_factory.mktemp("finetune")
    write_images(base / "images", 3)
    torch.manual_seed(1)
    usage = Usage(settings=OWN, trained_channels=(3,))
    save_checkpoint(base / "init.pt", CellSAM(TINY.model), licence="CC0-1.0", usage=usage)
    recipe = {"preset": "nano", "precision": "32-true", "stage1": {"steps": 2, "batch_size": 1, "warmup_steps": 0}}
    (base / "recipe.json").write_text(json.dumps(recipe))
    return base


def config_of(base: Path, work: Path) -> FinetuneConfig:
    return FinetuneConfig(
        images=base / "images",
        out=work / "engines",
        work=work / "work",
        init=str(base / "init.pt"),
        recipe=base / "recipe.json",
        accelerator="cpu",
        backend="cpu",
    )


@pytest.fixture(scope="module")
def finished(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run to the end, with one interruption after training."""
    work = tmp_path_factory.mktemp("finished")
    told: list[tuple[str, float]] = []

    def interrupt(what: str, done: float) -> None:
        told.append((what, done))
        if what == "settings":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(config_of(base, work), interrupt)
    assert [what for what, _ in dict.fromkeys(told)][-3:] == ["training", "training", "settings"]
    assert not (work / "engines").exists()
    again: list[tuple[str, float]] = []
    columns = finetune(config_of(base, work), lambda what, done: again.append((what, done)))
    assert [column.name for column in columns] == ["before", "after"]
    assert list(dict.fromkeys(what for what, _ in again)) == [
        *("data", "training", "settings", "comparison", "engines", "done")
    ]
    shares = [done for _, done in again]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    return work


def test_images_in_and_verified_engines_out(finished: Path) -> None:
    work = finished / "work"
    manifest = read_manifest(finished / "engines")
    assert manifest.verification["outputs"]
    assert manifest.trained_channels == (1, 3)
    assert manifest.weights["licence"] == "CC0-1.0"
    assert manifest.weights["sha256"] == sha256_file(work / "checkpoint.pt")
    assert load_checkpoint(work / "checkpoint.pt").usage.settings == manifest.config
    assert (manifest.config.view_diameter_px, manifest.config.normalize) == (40.0, True), "from its own settings on"
    assert {json.loads((work / f"{name}.json").read_text())["method"]["split"] for name in ("before", "after")} == {
        "val"
    }
    assert json.loads((work / "before.json").read_text())["method"]["config"]["box_threshold"] == 0.35


def test_nothing_is_done_twice(finished: Path, base: Path) -> None:
    kept = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.suffix in (".onnx", ".ckpt", ".npy")}
    assert len(list((finished / "work" / "train" / "csv").iterdir())) == 1, "the interrupted run had trained"
    finetune(config_of(base, finished))
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_other_input_in_the_same_directory_is_rejected(finished: Path, base: Path, tmp_path: Path) -> None:
    config = config_of(base, finished)
    other = Path(shutil.copytree(base / "images", tmp_path / "images"))
    Image.fromarray(np.zeros((160, 160), np.uint8)).save(other / "disc1_img.png")
    with pytest.raises(InputError, match=r"started with other input: files.disc1_img.png differ\. Remove it"):
        finetune(replace(config, images=other))
    with pytest.raises(RecipeError, match=r"has done 2 steps; the recipe has 1\."):
        finetune(replace(config, steps=1))


def test_a_model_that_became_worse_is_not_exported(
    finished: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "mean_f1", lambda column: {"before": 0.72, "after": 0.65}[column.name])
    config = replace(config_of(base, finished), out=tmp_path / "worse")
    message = r"mean F1 0\.650, before 0\.720\. .*worse was not written\. .*export --checkpoint .*checkpoint\.pt"
    with pytest.raises(ExportError, match=message):
        finetune(config)
    assert not (tmp_path / "worse").exists()


def call(*arguments: object) -> Result:
    app = typer.Typer()
    app.command()(finetune_command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_shows_the_table_and_little_else(finished: Path, base: Path) -> None:
    options = ("--init", base / "init.pt", "--recipe", base / "recipe.json", "--work", finished / "work")
    result = call(base / "images", "--out", finished / "engines", *options, "--accelerator", "cpu", "--backend", "cpu")
    assert result.exit_code == 0, result.output
    assert "before F1@0.6" in result.stdout
    assert result.stdout.rstrip().endswith(str(finished / "engines"))
    assert result.stderr.splitlines()[:2] == ["building the data", "training"]
    assert len(result.stderr.splitlines()) <= 6


def test_too_few_images_are_named(base: Path, tmp_path: Path) -> None:
    config = replace(config_of(base, tmp_path), images=write_images(tmp_path / "one", 1))
    with pytest.raises(InputError, match="leaves no images for val; expected at least two images"):
        finetune(config)
    result = call(tmp_path / "none", "--out", tmp_path / "e")
    assert (result.exit_code, "is not a directory" in result.stderr) == (1, True), result.output


def test_the_recipe_trains_at_the_scale_of_the_settings() -> None:
    recipe = further_recipe(NANO.model, SegmentConfig(view_diameter_px=52.0))
    assert recipe.augment.diameter_px == pytest.approx((18.2, 80.6))
    assert recipe.stage1.steps == 600
    assert further_recipe(TINY.model, None).augment.diameter_px is None
