"""Run a training stage: data, model, Lightning's trainer, checkpoints, resumption."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from torch.utils.data import DataLoader

from runtime.files.placing import remove_leftovers, write_whole
from training.batches import StepSampler, TrainingSamples, training_loader
from training.checkpoint import UNKNOWN_USAGE, save_checkpoint
from training.data.format import read_split
from training.data.records import Split
from training.model import CellSAM
from training.pictures import PredictionPictures
from training.recipe import OptimizerConfig, Recipe
from training.resume import LAST, check_begun, record_of
from training.stages import DetectorStage, MaskStage
from training.steps import KeepLast, TellSteps, quiet_lightning
from training.usage import Usage
from training.weights import load_weights


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """Data, initial weights, output directory and devices of a run."""

    out: Path
    """Directory of checkpoints, logs and pictures."""
    data: Path
    """A built dataset, or a directory of them."""
    init: Path | None = None
    """Weights to start from: SAM ViT-B, CellSAM or our own; required for stage 2."""
    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    workers: int = 0
    """Number of loader processes."""
    save_every: int = 500
    """Steps between checkpoints."""
    pictures_every: int = 1000
    """Steps between pictures of predictions; 0 turns them off."""
    licence: str = "trained by the user"
    on_step: Callable[[int], None] | None = None
    """Called after each step with the number of steps done; turns off Lightning's progress bar and messages."""


def run_stage(number: int, recipe: Recipe, run: RunConfig) -> Path:
    """Train one stage, or resume it if ``run.out`` holds a checkpoint.

    If the recipe has more steps than a finished run, the run continues. From then on, its learning rate follows the
    schedule of the new number of steps.

    Args:
        number: 1 or 2.
        recipe: the model and its training.
        run: directories, devices and logging.

    Returns:
        The final weights in our own format, ``run.out / "stageN.pt"``.

    Raises:
        RecipeError: ``run.out`` contains a run with another stage, another recipe, or more steps.
        ValueError: ``number`` is not 1 or 2, or stage 2 has no weights to start from.
    """
    if number not in (1, 2):
        raise ValueError(f"stage is {number}; expected 1 or 2.")
    if number == 2 and run.init is None:
        raise ValueError("stage 2 has no weights to start from; expected those of stage 1. Pass them as init.")
    optimizer = recipe.stage1 if number == 1 else recipe.stage2
    remove_leftovers(run.out)
    begun = check_begun(run.out, number, recipe)
    final = run.out / f"stage{number}.pt"
    if begun is not None and begun.steps == optimizer.steps:
        if not final.is_file():  # stopped after the last step
            _save_last(run.out / LAST, final)
        return final
    with quiet_lightning(run.on_step is not None):
        pl.seed_everything(recipe.seed, workers=True)
        run.out.mkdir(parents=True, exist_ok=True)
        write_whole(record_of(run.out, number), lambda path: path.write_text(recipe.to_json(), encoding="utf-8"))
        model, known = initial_model(recipe, run.init)
        samples = TrainingSamples(read_split(run.data, "train"), recipe)
        kind = DetectorStage if number == 1 else MaskStage
        usage = known.trained_on(samples.channels)
        stage = kind(recipe, model, optimizer, licence=run.licence, usage=usage)
        trainer = make_trainer(recipe, optimizer, run, _pictures(run, recipe))
        ckpt_path = None if begun is None else str(run.out / LAST)
        data = _Data(samples, optimizer, workers=run.workers)
        trainer.fit(stage, datamodule=data, ckpt_path=ckpt_path, weights_only=False)
        if trainer.is_global_zero:
            save_checkpoint(final, stage.model, licence=run.licence, usage=usage)
    return final


def _save_last(last: Path, final: Path) -> None:
    """Write the weights that a run ended with from its last checkpoint, where averages stand beside the weights.

    Lightning takes no further step, and so would not put the averages in their place.
    """
    loaded = load_weights(last)
    save_checkpoint(final, loaded.model, licence=loaded.licence, usage=loaded.usage)


def initial_model(recipe: Recipe, init: Path | None) -> tuple[CellSAM, Usage]:
    """Return the model of a recipe, new or with the weights of a checkpoint, and the usage of these weights.

    SAM weights fill the ViT and the mask decoder; CellFinder is then new. Details that the weights lack start at zero.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        ValueError: its model has other sizes.
    """
    torch.manual_seed(recipe.seed)
    model = CellSAM(recipe.model)
    if recipe.local_attention_init:
        model.init_local()
    if init is None:
        return model, UNKNOWN_USAGE
    loaded = load_weights(init)
    state = loaded.model.state_dict()
    fresh = {key for key in model.state_dict() if key not in state}
    wrong = [key for key, value in model.state_dict().items() if key in state and state[key].shape != value.shape]
    if wrong or any(not key.startswith(("cellfinder.", "encoder.details.")) for key in fresh):
        raise ValueError(
            f"{init} has a model of other sizes than the recipe: {', '.join((wrong or sorted(fresh))[:5])}."
        )
    model.load_state_dict({key: value for key, value in state.items() if key in model.state_dict()}, strict=False)
    return model, loaded.usage


def make_trainer(recipe: Recipe, optimizer: OptimizerConfig, run: RunConfig, callbacks: list[Callback]) -> pl.Trainer:
    """Create Lightning's trainer for one stage, which counts steps; the sampler divides batches among processes."""
    if optimizer.ema_decay:
        callbacks = [*callbacks, EMAWeightAveraging(decay=optimizer.ema_decay)]
    callbacks = [*callbacks, KeepLast(run.out / LAST, run.save_every), LearningRateMonitor("step")]
    if run.on_step is not None:
        callbacks = [*callbacks, TellSteps(run.on_step)]
    return pl.Trainer(
        accelerator=run.accelerator,
        devices=run.devices,
        num_nodes=run.nodes,
        strategy="ddp" if run.devices * run.nodes > 1 else "auto",
        precision=recipe.precision,
        max_steps=optimizer.steps,
        max_epochs=1,
        use_distributed_sampler=False,
        default_root_dir=run.out,
        logger=_loggers(run.out),
        callbacks=callbacks,
        enable_checkpointing=False,
        log_every_n_steps=min(20, max(optimizer.steps // 10, 1)),
        deterministic=True,
        enable_model_summary=False,
        enable_progress_bar=run.on_step is None,
        num_sanity_val_steps=0,
    )


def _loggers(out: Path) -> list[Logger]:
    """Create CSV and TensorBoard loggers with one directory per start, so a resumed run keeps its earlier logs."""
    start = f"start{len(list((out / 'csv').glob('start*')))}"
    return [CSVLogger(out, "csv", start), TensorBoardLogger(str(out), "tensorboard", start)]


def _pictures(run: RunConfig, recipe: Recipe) -> list[Callback]:
    if not run.pictures_every:
        return []
    splits: tuple[Split, ...] = ("val", "train")
    for split in splits:
        tiles = read_split(run.data, split)
        if len(tiles):
            return [PredictionPictures(tiles, recipe, run.out / "pictures", every=run.pictures_every)]
    return []


class _Data(pl.LightningDataModule):
    """Data module whose loader starts at the trainer's current step."""

    def __init__(self, samples: TrainingSamples, optimizer: OptimizerConfig, *, workers: int) -> None:
        super().__init__()
        self._samples, self._optimizer, self._workers = samples, optimizer, workers

    def train_dataloader(self) -> DataLoader[Any]:
        """Return a loader of the batches from the next step on."""
        trainer = self.trainer
        assert trainer is not None
        sampler = StepSampler(
            self._optimizer.batch_size,
            self._optimizer.steps,
            first_step=trainer.global_step,
            rank=trainer.global_rank,
            processes=trainer.world_size,
        )
        return training_loader(self._samples, sampler, workers=self._workers)
