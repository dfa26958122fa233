"""Fine-tuning: train the built-in model or a checkpoint further on labelled images, and export verified engines.

Each step leaves its result in the working directory and is skipped if the result exists, so an interrupted run resumes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from export.errors import ExportError
from export.exporter import ExportConfig, export_engines, write_engines
from export.overall_progress import OverallProgress, Progress
from export.placing import check_target, publish, remove_leftovers_of
from runtime.config import SegmentConfig, read_settings
from runtime.engines.builtin import BUILTIN_NAME, builtin_engine
from runtime.engines.manifest import MANIFEST_NAME, read_manifest, sha256_file
from runtime.errors import EngineError, InputError
from runtime.files.placing import remove_leftovers, staged, write_whole
from runtime.jobs.differences import differences
from runtime.segmenter import Segmenter
from training.checkpoint import Checkpoint, save_checkpoint
from training.data import FolderOptions, build_dataset, find_datasets, read_split
from training.data.records import SourceDataset, Split
from training.evaluation.compare import Column, make_column
from training.evaluation.dataset import find_samples
from training.evaluation.engine_tuning import tune_settings
from training.evaluation.environment import describe_environment
from training.evaluation.evaluate import evaluate, from_segmentation
from training.evaluation.report import Report, write_report
from training.further import further_recipe
from training.recipe import Recipe, load_recipe
from training.train import RunConfig, run_stage
from training.weights import load_weights, weights_file

ENOUGH_TO_TEST = 20
"""With at least this many images, a tenth is held out for the comparison only, besides the tenth that settings are
chosen on."""

TUNED_TILES = 8
"""Largest number of tiles that settings are chosen on if these are training tiles, evenly spaced; more take longer than
the training."""

SAVED_STEPS = 25
"""Training steps between checkpoints; an interruption loses at most this many."""

_log = logging.getLogger(__name__)

_WORK = {"data": 15, "training": 0, "settings": 60, "comparison": 15, "engines": 15}
"""Work of each step in units of training steps, estimated for a few dozen images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneConfig:
    """Settings of one fine-tuning run."""

    images: Path
    """Pairs of images and label maps, in a layout that ``data build folder`` accepts."""
    out: Path
    """Engine directory to create."""
    work: Path
    """Directory for intermediate results."""
    init: str = BUILTIN_NAME
    """Weights to start from: the name of the built-in model, or a checkpoint in our own format."""
    steps: int | None = None
    """Training steps; default, those of the recipe."""
    recipe: Path | None = None
    """Recipe for stage 1, whose model is replaced by that of ``init``. Default, ``training.further``."""
    folder: FolderOptions = field(default_factory=lambda: FolderOptions(groups={"": "Cell Culture"}))
    accelerator: str = "auto"
    """Accelerator, as named by Lightning."""
    backend: str = "auto"
    """Backend that runs the engines while settings are chosen."""
    tuned_on: Split = "val"
    """Images to choose the settings on: ``val`` holds a tenth out of training; ``train`` holds nothing out, and is for
    images so few that each is needed."""
    force: bool = False
    """Replace an existing engine directory."""

    @property
    def checkpoint(self) -> Path:
        """The trained checkpoint with its settings."""
        return self.work / "checkpoint.pt"


def finetune(config: FinetuneConfig, progress: Progress = lambda what, done: None) -> list[Column]:
    """Build the data, train, choose settings on held-out images, compare, export and verify.

    Args:
        config: the images, the initial weights, and the output paths.
        progress: see ``Progress``.

    Returns:
        Columns "before" and "after" for the held-out images, as input of ``comparison_markdown``.

    Raises:
        ExportError: ``config.out`` exists; or the trained model has a lower mean F1 over the subsets of held-out
            images than the original one, and ``config.out`` is not written.
        InputError: there are too few images, or the working directory belongs to other images, weights or settings.
        VerificationError: an engine differs from PyTorch.
    """
    loaded = load_weights(config.init)
    recipe = _recipe(config, loaded)
    overall = OverallProgress(progress, {**_WORK, "training": recipe.stage1.steps})
    checkpoint = config.checkpoint
    remove_leftovers_of(config.out.resolve())
    if not _made_from(config.out, checkpoint):
        check_target(config.out.resolve(), force=config.force)
    trained = _train_and_tune(config, loaded, recipe, overall)
    columns = _compare(config, loaded, trained, overall.of("comparison"))
    _check_not_worse(config, columns, checkpoint)
    if not _made_from(config.out, checkpoint):
        overall.of("engines")(0.0)
        export_engines(checkpoint, config.out, ExportConfig(force=config.force))
    progress("done", 1.0)
    return columns


def train_checkpoint(config: FinetuneConfig, progress: Progress = lambda what, done: None) -> Path:
    """Build the data, train, and choose settings: the first steps of ``finetune``, without a comparison or engines.

    Returns:
        ``config.checkpoint``, a checkpoint with its settings.

    Raises:
        InputError: as for ``finetune``.
    """
    loaded = load_weights(config.init)
    recipe = _recipe(config, loaded)
    work = {name: _WORK[name] for name in ("data", "training", "settings")} | {"training": recipe.stage1.steps}
    _train_and_tune(config, loaded, recipe, OverallProgress(progress, work))
    return config.checkpoint


def _train_and_tune(config: FinetuneConfig, loaded: Checkpoint, recipe: Recipe, overall: OverallProgress) -> Path:
    """Write ``config.checkpoint``, and return the trained weights without settings."""
    remove_leftovers(config.work)
    _begin(config, loaded)
    _build(config, overall.of("data"))
    trained = _train(config, loaded, recipe, overall)
    _tune(config, trained, overall.of("settings"))
    return trained


def _recipe(config: FinetuneConfig, loaded: Checkpoint) -> Recipe:
    settings = loaded.usage.settings
    recipe = (
        further_recipe(loaded.model.config, settings)
        if config.recipe is None
        else replace(load_recipe(config.recipe), model=loaded.model.config)
    )
    if config.steps is None:
        return recipe
    return replace(recipe, stage1=replace(recipe.stage1, steps=config.steps))


def _begin(config: FinetuneConfig, loaded: Checkpoint) -> None:
    """Record the inputs of this run, or check that the working directory was started with them.

    Raises:
        InputError: the directory was started with other inputs; the message names them. Training checks the recipe.
    """
    path = config.work / "finetune.json"
    options = {**asdict(config.folder), "tuned_on": config.tuned_on}
    asked = {"init": loaded.sha256, "files": _hashes(config.images), "options": options}
    if path.is_file():
        changed = [name for name, *_ in differences(asked, json.loads(path.read_text(encoding="utf-8")))]
        if changed:
            raise InputError(
                f"{config.work} was started with other input: {', '.join(changed[:5])}"
                f"{f' and {len(changed) - 5} more' if len(changed) > 5 else ''} differ. Remove it to start again, or "
                "give another directory.",
                kind="conflict",
                field="work",
            )
        return
    config.work.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asked, indent=1) + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _hashes(folder: Path) -> dict[str, str]:
    """Compute the hex sha256 of every file below a folder, by its relative path."""
    if not folder.is_dir():
        raise InputError(
            f"{folder} is not a directory; expected one with pairs NAME_img.png and NAME_mask.png. Check the path.",
            kind="not_found",
        )
    return {str(path.relative_to(folder)): sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def _build(config: FinetuneConfig, advance: Callable[[float], None]) -> None:
    """Build the tiles; existing ones are kept.

    Raises:
        InputError: no image is left for training, or to choose the settings on.
    """
    data = config.work / "data"
    advance(0.0)
    for dataset in find_datasets("folder", config.images, config.folder):
        report = build_dataset(
            dataset,
            data / (dataset.subdirectory or dataset.name),
            held_out=_held_out(config, dataset),
            progress=lambda step, done, total, _: advance(done / max(total, 1) * (0.5 if step == "scanning" else 1.0)),
        )
        for skipped in report.skipped:
            _log.warning("%s is left out: %s", skipped.file, skipped.reason)
    needed: tuple[Split, ...] = ("train", config.tuned_on)
    for split in needed:
        if not len(read_split(data, split)):
            raise InputError(
                f"{config.images} leaves no images for {split}; expected at least two images, or folders train and "
                "val with images in each. Add images.",
                kind="missing",
                field="images",
            )


def _held_out(config: FinetuneConfig, dataset: SourceDataset) -> tuple[Split, ...]:
    if config.tuned_on == "train":
        return ()
    return ("val", "test") if len(dataset.fields) >= ENOUGH_TO_TEST else ("val",)


def _train(config: FinetuneConfig, loaded: Checkpoint, recipe: Recipe, overall: OverallProgress) -> Path:
    show = overall.of("training")
    show(0.0)
    run = RunConfig(
        out=config.work / "train",
        data=config.work / "data",
        init=weights_file(config.init),
        accelerator=config.accelerator,
        save_every=SAVED_STEPS,
        pictures_every=0,
        licence=loaded.licence,
        on_step=lambda done: show(done / recipe.stage1.steps),
    )
    return run_stage(1, recipe, run)


def _tune(config: FinetuneConfig, trained: Path, advance: Callable[[float], None]) -> None:
    """Choose settings on held-out images, starting from the model's own, and write the trained checkpoint with them."""
    advance(0.0)
    loaded = load_weights(trained)
    settings = config.work / f"settings_{loaded.sha256[:16]}.json"
    if not settings.is_file():
        samples = find_samples(config.work / "data", split=config.tuned_on)
        if config.tuned_on == "train":
            samples = samples[:: -(-len(samples) // TUNED_TILES)]
        engines = unverified_engines(loaded, config.work / "trained_engines")
        done = iter(range(1, len(samples) + 1))
        with Segmenter(engines, backend=config.backend) as segmenter:
            own = segmenter.config
            tuned = tune_settings(
                segmenter, samples, own.of_views, on_image=lambda _: advance(next(done) / (2 * len(samples)))
            )
        chosen = replace(tuned.config, normalize=own.normalize, invert=own.invert)
        write_whole(settings, lambda path: path.write_text(json.dumps(asdict(chosen), indent=2) + "\n"))
    usage = replace(loaded.usage, settings=read_settings(settings))
    save_checkpoint(config.checkpoint, loaded.model, licence=loaded.licence, usage=usage)


def unverified_engines(loaded: Checkpoint, directory: Path) -> Path:
    """Return a directory with the engines of a checkpoint for trials; they are written if it does not hold them."""
    if not _holds_engines_of(directory, loaded.sha256):
        with staged(directory) as partial:
            write_engines(loaded, loaded.sha256, partial, ExportConfig()).write(partial)
            publish(partial, directory)
    return directory


def _compare(
    config: FinetuneConfig, loaded: Checkpoint, trained: Path, advance: Callable[[float], None]
) -> list[Column]:
    """Score the model before and after training on held-out images, each with its own settings; write two reports."""
    advance(0.0)
    data = config.work / "data"
    split: Split = "test" if len(read_split(data, "test")) else "val"
    samples = find_samples(data, split=split)
    before = builtin_engine() if config.init == BUILTIN_NAME else unverified_engines(loaded, config.work / "before")
    after = unverified_engines(load_weights(trained), config.work / "trained_engines")
    columns, done = [], iter(range(1, 2 * len(samples) + 1))
    for name, engines, settings in (
        ("before", before, read_manifest(before).config),
        ("after", after, load_weights(config.checkpoint).usage.settings or SegmentConfig()),
    ):
        with Segmenter(engines, backend=config.backend, config=settings.of_views) as segmenter:
            evaluation = evaluate(
                lambda image, segmenter=segmenter: from_segmentation(segmenter(image)),  # type: ignore[misc]
                samples,
                on_image=lambda _: advance(next(done) / (2 * len(samples))),
            )
            method = {"kind": "engines", "backend": segmenter.backend, "config": asdict(settings), "split": split}
        report = Report(name=name, evaluation=evaluation, method=method, environment=describe_environment())
        write_report(config.work / f"{name}.json", report)
        columns.append(make_column(name, [report]))
    return columns


def mean_f1(column: Column) -> float:
    """Compute the mean F1 at IoU 0.6 over the subsets of a column, by which settings are chosen."""
    values = [row.counts["0.6"].f1 for row in column.rows.values() if row.level == "subset"]
    return float(np.mean(np.nan_to_num(values)))


def _check_not_worse(config: FinetuneConfig, columns: list[Column], checkpoint: Path) -> None:
    before, after = map(mean_f1, columns)
    if after < before:
        raise ExportError(
            f"the trained model is worse on held-out images: mean F1 {after:.3f}, before {before:.3f}. {config.out} "
            "was not written. Train on more images or with another recipe. To use this model anyway, run: "
            f"cellsam-engine export --checkpoint {checkpoint} --out {config.out}",
            kind="mismatch",
        )


def _made_from(out: Path, checkpoint: Path) -> bool:
    """Return whether ``out`` holds the engines of the checkpoint that this run wrote."""
    return checkpoint.is_file() and _holds_engines_of(out, sha256_file(checkpoint))


def _holds_engines_of(directory: Path, sha256: str) -> bool:
    if not (directory / MANIFEST_NAME).is_file():
        return False
    try:
        return read_manifest(directory).weights["sha256"] == sha256
    except EngineError:
        return False
