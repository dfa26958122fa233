"""Running a training stage: data, model, Lightning's trainer, checkpoints, resumption."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from torch.utils.data import DataLoader

from training.batches import StepSampler, training_loader
from training.checkpoint import load_checkpoint, save_checkpoint
from training.data.format import TileSet, read_split
from training.data.records import Split
from training.model import CellSAM
from training.pictures import PredictionPictures
from training.recipe import OptimizerConfig, Recipe
from training.stages import DetectorStage, MaskStage


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """How a stage is run; nothing here changes what it computes, but for ``precision`` of the recipe on a device."""

    out: Path
    """Checkpoints, logs and pictures."""
    data: Path
    """A built dataset, or a directory of them."""
    init: Path | None = None
    """Weights to start from: SAM ViT-B, CellSAM or our own; needed for stage 2."""
    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    workers: int = 0
    """Loader processes."""
    save_every: int = 500
    """Steps between checkpoints."""
    pictures_every: int = 1000
    """Steps between pictures of predictions; 0 draws none."""
    licence: str = "trained by the user"


LAST = "last.ckpt"


def run_stage(number: int, recipe: Recipe, run: RunConfig) -> Path:
    """Train one stage, or go on with it where ``run.out`` holds a checkpoint.

    Args:
        number: 1 or 2.
        recipe: what is trained and how.
        run: where and on what.

    Returns:
        The final weights in our own format, ``run.out / "stageN.pt"``.

    Raises:
        ValueError: another stage, or stage 2 without weights to start from.
    """
    if number not in (1, 2):
        raise ValueError(f"stage is {number}; expected 1 or 2.")
    if number == 2 and run.init is None:
        raise ValueError("stage 2 starts from the weights of stage 1; give them with init.")
    pl.seed_everything(recipe.seed, workers=True)
    run.out.mkdir(parents=True, exist_ok=True)
    (run.out / f"stage{number}.json").write_text(recipe.to_json(), encoding="utf-8")
    model = initial_model(recipe, run.init)
    optimizer = recipe.stage1 if number == 1 else recipe.stage2
    kind = DetectorStage if number == 1 else MaskStage
    stage = kind(recipe, model, optimizer, licence=run.licence)
    data = _Data(read_split(run.data, "train"), recipe, optimizer, workers=run.workers)
    trainer = make_trainer(recipe, optimizer, run, _pictures(run, recipe))
    last = run.out / LAST
    trainer.fit(stage, datamodule=data, ckpt_path=str(last) if last.is_file() else None, weights_only=False)
    final = run.out / f"stage{number}.pt"
    if trainer.is_global_zero:
        save_checkpoint(final, stage.model, licence=run.licence)
    return final


def initial_model(recipe: Recipe, init: Path | None) -> CellSAM:
    """The model of a recipe, fresh or with the weights of a checkpoint.

    SAM weights fill the ViT and the mask decoder; CellFinder is fresh then. Details that the weights lack start
    at zero.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        ValueError: it holds a model of other sizes.
    """
    torch.manual_seed(recipe.seed)
    model = CellSAM(recipe.model)
    if recipe.local_attention_init:
        model.init_local()
    if init is None:
        return model
    loaded = load_checkpoint(init).model
    state = loaded.state_dict()
    fresh = {key for key in model.state_dict() if key not in state}
    wrong = [key for key, value in model.state_dict().items() if key in state and state[key].shape != value.shape]
    if wrong or any(not key.startswith(("cellfinder.", "encoder.details.")) for key in fresh):
        raise ValueError(
            f"{init} holds a model of other sizes than the recipe: {', '.join((wrong or sorted(fresh))[:5])}."
        )
    model.load_state_dict({key: value for key, value in state.items() if key in model.state_dict()}, strict=False)
    return model


def make_trainer(recipe: Recipe, optimizer: OptimizerConfig, run: RunConfig, callbacks: list[Callback]) -> pl.Trainer:
    """Lightning's trainer for one stage: steps are the clock, the sampler knows the processes."""
    checkpoints = ModelCheckpoint(
        run.out,
        filename="step{step}",
        auto_insert_metric_name=False,
        every_n_train_steps=run.save_every,
        save_last=True,
    )
    if optimizer.ema_decay:
        callbacks = [*callbacks, EMAWeightAveraging(decay=optimizer.ema_decay)]
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
        callbacks=[*callbacks, checkpoints, LearningRateMonitor("step")],
        log_every_n_steps=min(20, max(optimizer.steps // 10, 1)),
        deterministic=True,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def _loggers(out: Path) -> list[Logger]:
    """CSV and TensorBoard, a directory for every start: a resumed run keeps the logs of the ones before."""
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
    """The training loader, set to the step that the trainer has reached."""

    def __init__(self, tiles: TileSet, recipe: Recipe, optimizer: OptimizerConfig, *, workers: int) -> None:
        super().__init__()
        self._tiles, self._recipe, self._optimizer, self._workers = tiles, recipe, optimizer, workers

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches from the next step on."""
        trainer = self.trainer
        assert trainer is not None
        sampler = StepSampler(
            self._optimizer.batch_size,
            self._optimizer.steps,
            first_step=trainer.global_step,
            rank=trainer.global_rank,
            processes=trainer.world_size,
        )
        return training_loader(self._tiles, self._recipe, sampler, workers=self._workers)
