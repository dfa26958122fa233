"""The checkpoint of the built-in model, for another export or further training, under the name ``nano``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.engines.builtin import BUILTIN_NAME, builtin_engine
from runtime.engines.manifest import read_manifest
from training.usage import Usage

if TYPE_CHECKING:
    from training.checkpoint import Checkpoint

__all__ = ["BUILTIN_NAME", "load_weights", "weights_file"]


def weights_file(checkpoint: str | Path) -> Path:
    """Return the file of a checkpoint: that of the built-in model for its name, else the path itself."""
    return Path(__file__).parent / f"{BUILTIN_NAME}.pt" if str(checkpoint) == BUILTIN_NAME else Path(checkpoint)


def load_weights(checkpoint: str | Path, *, sha256: str | None = None) -> Checkpoint:
    """Read a checkpoint; that of the built-in model gets the settings of its engines.

    Args:
        checkpoint: ``nano`` or a path.
        sha256: hex sha256 that the file must have; None accepts any.

    Raises:
        CheckpointError: as for ``load_checkpoint``.
    """
    from training.checkpoint import load_checkpoint

    loaded = load_checkpoint(weights_file(checkpoint), sha256=sha256)
    engines = read_manifest(builtin_engine())
    if loaded.sha256 == engines.weights["sha256"]:
        # Thresholds may have been chosen after the export, so those in the manifest count.
        return replace(loaded, usage=Usage(settings=engines.config, trained_channels=engines.trained_channels))
    return loaded
