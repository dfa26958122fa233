"""``improve`` with a tiny model: a complete run, a kill, few images, and the command."""

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

from export.commands.improve import improve_command
from export.improve import run as module
from export.improve.config import ImproveConfig
from export.improve.decision import Change, Verdict
from export.improve.estimate import TimeLeft
from export.improve.run import improve
from export.improve.work import begin
from runtime.config import SegmentConfig
from runtime.correction.engine_versions import VersionState, current_engine, read_history
from runtime.correction.project import Project
from runtime.engines.manifest import read_manifest, sha256_file
from runtime.errors import ConfigError, InputError
from tests.training.made_data import disc_tile
from tests.training.test_training import TINY
from training.checkpoint import save_checkpoint
from training.model import CellSAM
from training.recipe import RecipeError
from training.stages import DetectorStage
from training.usage import Usage


def make_project(base: Path, count: int, name: str = "project") -> Path:
    images = base / f"{name}_images"
    images.mkdir(parents=True)
    paths, labels = [], []
    for number in range(count):
        tile = disc_tile(number)
        paths.append(images / f"disc{number}.png")
        Image.fromarray((tile.image[2, :160, :160] * 255).astype(np.uint8)).save(paths[-1])
        labels.append(tile.labels[:160, :160])
    with Project.create(base / name, paths) as project:
        for path, found in zip(paths, labels, strict=True):
            project.store_segmentation(path.name, found)
            project.mark(path.name, "done")
    return base / name


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a checkpoint with settings, and a recipe."""
    base = tmp_path_factory.mktemp("improve")
    torch.manual_seed(1)
    usage = Usage(settings=SegmentConfig(box_threshold_mode="fixed", view_diameter_px=40.0), trained_channels=(3,))
    save_checkpoint(base / "init.pt", CellSAM(TINY.model), licence="CC0-1.0", usage=usage)
    recipe = {"preset": "nano", "precision": "32-true", "stage1": {"batch_size": 1, "warmup_steps": 0}}
    (base / "recipe.json").write_text(json.dumps(recipe))
    return base


def config_of(base: Path, project: Path) -> ImproveConfig:
    return ImproveConfig(
        project=project,
        init=str(base / "init.pt"),
        recipe=base / "recipe.json",
        steps=1,
        folds=1,
        accelerator="cpu",
        backend="cpu",
    )


def accept(monkeypatch: pytest.MonkeyPatch, state: VersionState) -> None:
    """Replace the verdict: a model that was trained for one step is never better."""
    change = Change(images=2, cells=10, old_f1=0.5, new_f1=0.6, better=0.95)
    verdict = Verdict(state=state, reasons=("The test says so.",), corrected=change, samples=change)
    monkeypatch.setattr(module, "decide", lambda corrected, samples, few: verdict)


def call(*arguments: object) -> Result:
    app = typer.Typer()
    app.command()(improve_command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def finished(base: Path) -> Path:
    """Improve with ten images, interrupted twice; the engine is promoted, then found again."""
    project = make_project(base, 10)
    config = config_of(base, project)
    with pytest.MonkeyPatch.context() as patch:
        accept(patch, "promoted")
        for step in ("export", "comparison"):

            def interrupt(what: str, done: float, step: str = step) -> None:
                if what == step:
                    raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                improve(config, interrupt)
            assert current_engine(project) is None
        trained = project / "engines" / "work" / "final"
        assert len(list((trained / "train" / "csv").iterdir())) == 1, "trained once"
        told: list[tuple[str, float]] = []
        version = improve(config, lambda what, done: told.append((what, done)))
    assert version.state == "promoted"
    assert list(dict.fromkeys(what for what, _ in told)) == ["training final", "export", "comparison", "done"]
    shares = [done for _, done in told]
    assert shares == sorted(shares)
    return project


def test_a_promoted_engine_is_in_use(finished: Path, base: Path) -> None:
    engines = finished / "engines"
    assert current_engine(finished) == engines / "v001"
    manifest = read_manifest(engines / "v001")
    assert manifest.verification["outputs"]
    assert manifest.weights["sha256"] == sha256_file(engines / "v001.pt")
    (version,) = read_history(finished).versions
    assert (len(version.images), len(version.held_out)) == (8, 2)
    assert not set(version.images) & set(version.held_out)
    assert (version.made_from, version.compared_with) == ("init.pt", "init.pt")
    assert sorted(path.name for path in engines.iterdir() if path.name != "lock") == ["engines.json", "v001", "v001.pt"]


def test_the_same_images_give_no_second_engine(finished: Path, base: Path) -> None:
    assert improve(config_of(base, finished)).version == "v001"
    assert len(read_history(finished).versions) == 1


def test_versions_are_listed_and_rolled_back(finished: Path) -> None:
    assert call(finished, "--list").stdout.startswith("* v001\tpromoted\t8 images\tF1 0.500 -> 0.600")
    result = call(finished, "--promote", "v001")
    assert (result.exit_code, "v001 is promoted" in result.stderr) == (1, True)
    assert "project started with" in call(finished, "--rollback").stdout
    assert current_engine(finished) is None
    assert call(finished, "--rollback").exit_code == 1
    assert call(finished, "v001", "--rollback").stdout.strip().endswith("v001")
    assert current_engine(finished) == finished / "engines" / "v001"


def test_a_model_that_is_no_better_is_rejected(base: Path) -> None:
    """The real decision, with leave-one-out of one image and progress as JSON."""
    project = make_project(base, 2, "few")
    options = ("--init", base / "init.pt", "--recipe", base / "recipe.json", "--steps", 1, "--folds", 1)
    result = call(project, *options, "--accelerator", "cpu", "--backend", "cpu", "--progress-json")
    assert result.exit_code == 1, result.output
    *lines, last = map(json.loads, result.stdout.splitlines())
    steps = list(dict.fromkeys(line["step"] for line in lines))
    assert steps == ["training fold1", "training final", "export", "comparison", "done"]
    assert lines[-1] == {"step": "done", "done": 1.0, "of": 1.0, "seconds_left": 0}
    assert any(line["seconds_left"] for line in lines)
    assert last["version"]["state"] == "rejected"
    assert last["version"]["scores"]["corrected"]["images"] == 1
    assert current_engine(project) is None
    shown = call(project, *options, "--accelerator", "cpu", "--backend", "cpu")
    assert "| corrected images | 1 |" in shown.stdout
    assert "v001 is rejected. " in shown.stdout


def test_a_provisional_engine_waits_for_the_user(finished: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A single image, with the engine of another project in place of the training and the export."""
    made = finished / "engines" / "v001"
    accept(monkeypatch, "provisional")
    monkeypatch.setattr(
        module, "train_checkpoint", lambda config, progress: shutil.copyfile(made.with_suffix(".pt"), config.checkpoint)
    )
    monkeypatch.setattr(module, "export_engines", lambda checkpoint, out: shutil.copytree(made, out))
    project = make_project(base, 1, "one")
    version = improve(config_of(base, project))
    assert (version.state, version.held_out) == ("provisional", ())
    assert current_engine(project) is None
    assert call(project, "--promote").exit_code == 0
    assert current_engine(project) == project / "engines" / "v001"


def test_another_corrected_image_starts_again(tmp_path: Path) -> None:
    project = make_project(tmp_path, 2)
    first = begin(project, {})
    (first.directory / "kept").touch()
    assert begin(project, {}).request == first.request
    assert (first.directory / "kept").exists()
    assert not (begin(project, {}, "v001").directory / "kept").exists(), "another engine is in use"
    (first.directory / "kept").touch()
    with Project.open(project) as opened:
        opened.mark("disc1.png", "corrected")
    second = begin(project, {})
    assert second.names == ("disc0.png",)
    assert not (first.directory / "kept").exists()


def test_a_project_without_done_images_is_named(tmp_path: Path) -> None:
    project = make_project(tmp_path, 1)
    with Project.open(project) as opened:
        opened.mark("disc0.png", "corrected")
        with pytest.raises(InputError, match=r"none of the 1 images .* is done"):  # also beside an open project
            begin(project, {})


def test_options_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="folds is -1; expected 0 or more"):
        ImproveConfig(project=tmp_path, folds=-1)
    assert "expected one of all, detector, masks" in call(tmp_path, "--parts", "neck").stderr
    assert "several of --promote, --rollback and --list" in call(tmp_path, "--promote", "--list").stderr
    assert "without an action" in call(tmp_path, "v001").stderr
    assert "has no project.json" in call(tmp_path, "--list").stderr


@pytest.mark.parametrize(
    ("parts", "trained"),
    [
        ("detector", {"cellfinder"}),
        ("masks", {"encoder.neck", "encoder.details", "prompt_encoder", "mask_decoder"}),
    ],
)
def test_other_parts_stay_as_they_are(parts: str, trained: set[str]) -> None:
    recipe = replace(TINY, parts_in_stage1=parts, mask_weight_in_stage1=1.0)  # type: ignore[arg-type]
    model = CellSAM(TINY.model)
    DetectorStage(recipe, model, recipe.stage1, licence="")
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    found = {".".join(name.split(".")[: 2 if name.startswith("encoder.") else 1]) for name in names}
    assert found == trained


def test_training_masks_needs_their_loss() -> None:
    with pytest.raises(RecipeError, match="parts_in_stage1 is 'masks'"):
        replace(TINY, parts_in_stage1="masks", mask_weight_in_stage1=0.0)


def test_the_time_left_ignores_steps_that_were_done_before() -> None:
    seconds = iter([0.0, 0.0, 1.0, 11.0, 21.0, 30.0])
    left = TimeLeft(lambda: next(seconds))
    assert left.seconds(0.0) is None
    assert left.seconds(0.5) is None, "kept from an earlier process"
    assert left.seconds(0.6) == pytest.approx(40.0)
    assert left.seconds(0.7) == pytest.approx(30.0)
    assert left.seconds(1.0) == 0.0
