"""Tests of resumed runs, directories with another run, and the usage stored in checkpoints."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from export.exporter import export_engines
from runtime.config import SegmentConfig
from tests.training.made_data import make_dataset
from tests.training.test_training import TINY, losses_of, weights_of
from training.checkpoint import METADATA_KEY, CheckpointError, load_checkpoint, save_checkpoint
from training.model import CellSAM
from training.recipe import Recipe, RecipeError
from training.resume import LAST, check_begun
from training.train import RunConfig, run_stage
from training.usage import Usage

OWN = Usage(settings=SegmentConfig(box_threshold=0.3, view_diameter_px=40.0), trained_channels=(3,))


def recipe_of(steps: int, **changes: Any) -> Recipe:
    return replace(TINY, stage1=replace(TINY.stage1, steps=steps), **changes)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("discs"), tiles=2)


@pytest.fixture(scope="module")
def short_run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run three steps from weights with settings; no checkpoint is written before the last step."""
    out = tmp_path_factory.mktemp("short")
    torch.manual_seed(1)
    save_checkpoint(out / "init.pt", CellSAM(TINY.model), licence="CC0-1.0", usage=OWN)
    run_stage(1, recipe_of(3), run_config(out, data))
    return out


def run_config(out: Path, data: Path, **more: Any) -> RunConfig:
    return RunConfig(out=out, data=data, init=out / "init.pt", accelerator="cpu", pictures_every=0, **more)


@pytest.fixture
def run(short_run: Path, tmp_path: Path) -> Path:
    """Return a copy of a run, to resume in."""
    return Path(shutil.copytree(short_run, tmp_path / "run"))


def test_more_steps_in_the_same_directory_are_trained(run: Path, data: Path) -> None:
    before = weights_of(run / "stage1.pt")
    told: list[int] = []
    run_stage(1, recipe_of(5), run_config(run, data, on_step=told.append))
    assert told == [4, 5]
    assert [step for step, _ in losses_of(run)] == [0, 1, 2, 3, 4]
    assert json.loads((run / "stage1.json").read_text())["stage1"]["steps"] == 5
    after = weights_of(run / "stage1.pt")
    assert any(not torch.equal(before[key], after[key]) for key in before)
    begun = check_begun(run, 1, recipe_of(5))
    assert begun is not None
    assert begun.steps == 5


def test_a_run_that_has_ended_is_left_alone(run: Path, data: Path) -> None:
    kept = {path: path.read_bytes() for path in (run / "stage1.pt", run / LAST, run / "stage1.json")}
    assert run_stage(1, recipe_of(3), run_config(run, data)) == run / "stage1.pt"
    assert {path: path.read_bytes() for path in kept} == kept
    assert len(list((run / "csv").iterdir())) == 1


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (recipe_of(2), r"has done 3 steps; the recipe has 2\. Use as many or more"),
        (recipe_of(9, seed=7), r"another recipe: seed is 7 and was 0\."),
        (
            recipe_of(9, dataset_weights={"discs": 2.0}, stage2=replace(TINY.stage2, batch_size=1)),
            r"dataset_weights.discs is 2.0 and was None; stage2.batch_size is 1 and was 2\.",
        ),
    ],
)
def test_what_the_run_cannot_become_is_refused_and_nothing_recorded(
    recipe: Recipe, message: str, run: Path, data: Path
) -> None:
    record = (run / "stage1.json").read_text()
    with pytest.raises(RecipeError, match=message):
        run_stage(1, recipe, run_config(run, data))
    assert (run / "stage1.json").read_text() == record


def test_another_stage_needs_another_directory(run: Path, data: Path) -> None:
    with pytest.raises(RecipeError, match="contains a run of another stage than 2"):
        run_stage(2, recipe_of(3), run_config(run, data))


def test_records_of_other_versions_are_compared_where_they_can_be(run: Path) -> None:
    """A field that an update adds or removes does not make another recipe."""
    record = json.loads((run / "stage1.json").read_text())
    del record["masks"]["upsampling"], record["synthetic_share"]
    record["augment"]["forgotten"] = 3
    (run / "stage1.json").write_text(json.dumps(record))
    assert check_begun(run, 1, recipe_of(3)) is not None
    (run / LAST).write_bytes(b"cut off")
    with pytest.raises(RecipeError, match=r"last\.ckpt cannot be read .*remove it to start again"):
        check_begun(run, 1, recipe_of(3))
    (run / LAST).unlink()
    assert check_begun(run, 1, recipe_of(3, seed=9)) is None


def test_settings_and_channels_go_along_with_the_weights(short_run: Path, tmp_path: Path) -> None:
    """Check the settings of the initial weights, and the single channel of the training images."""
    for name in (LAST, "stage1.pt"):
        usage = load_checkpoint(short_run / name).usage
        assert usage == Usage(settings=OWN.settings, trained_channels=(1, 3))
    manifest = export_engines(short_run / "stage1.pt", tmp_path / "engines")
    assert manifest.config == OWN.settings
    assert manifest.trained_channels == (1, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"box_threshold": 7.0, "box_threshold_mode": "fixed"}}, "box_threshold is 7.0"),
        ({"settings": {"box_treshold": 0.3}}, "settings.box_treshold"),
        ({"settings": [0.3]}, "expected object"),
        ({"trained_channels": [4]}, r"trained_channels\[0\] is 4"),
    ],
)
def test_damaged_settings_are_named(change: Any, message: str, short_run: Path, tmp_path: Path) -> None:
    content = torch.load(short_run / "init.pt", weights_only=True)
    content[METADATA_KEY] |= change
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "odd.pt")


def test_checkpoints_without_settings_are_read(short_run: Path, tmp_path: Path) -> None:
    content = torch.load(short_run / "init.pt", weights_only=True)
    del content[METADATA_KEY]["settings"], content[METADATA_KEY]["trained_channels"]
    torch.save(content, tmp_path / "earlier.pt")
    assert load_checkpoint(tmp_path / "earlier.pt").usage == Usage()


def test_a_run_that_was_stopped_after_its_last_step_ends_with_the_same_weights(run: Path, data: Path) -> None:
    """With the averages, which stand beside the weights in the last checkpoint; what was half written goes."""
    expected, loaded = (run / "stage1.pt").read_bytes(), load_checkpoint(run / "stage1.pt")
    (run / "stage1.pt").rename(run / ".stage1.pt.4194303.partial")
    assert run_stage(1, recipe_of(3), run_config(run, data)) == run / "stage1.pt"
    assert (run / "stage1.pt").read_bytes() == expected
    again = load_checkpoint(run / "stage1.pt")
    assert (again.licence, again.usage) == (loaded.licence, loaded.usage)
    assert not list(run.glob(".*"))
