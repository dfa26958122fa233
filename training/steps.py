"""Callbacks that run after training steps."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from runtime.files.placing import PARTIAL, move_into_place


class KeepLast(Callback):
    """Write a checkpoint after every so many steps and after the last one, over the one before.

    Lightning's own callback writes another one after the end of training. By then, the running average has replaced the
    weights from which a run with more steps must continue.
    """

    def __init__(self, path: Path, every: int) -> None:
        """Args: path: file of the checkpoint. every: steps between checkpoints."""
        self._path, self._every = path, every

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Write the checkpoint if it is due."""
        step = trainer.global_step
        if step % self._every and step != trainer.max_steps:
            return
        temporary = self._path.with_name(f".{self._path.name}{PARTIAL}")
        trainer.save_checkpoint(temporary)  # on every process
        if trainer.is_global_zero:
            move_into_place(temporary, self._path)


class TellSteps(Callback):
    """Report the number of steps done."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        """Args: tell: called with the number of steps after each step."""
        self._tell = tell

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Report the step."""
        if trainer.is_global_zero:
            self._tell(trainer.global_step)


@contextmanager
def quiet_lightning(quiet: bool) -> Iterator[None]:
    """Keep Lightning's messages and warnings off the console if ``quiet`` is True."""
    if not quiet:
        yield
        return
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\..*")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
