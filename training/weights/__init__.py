"""The checkpoint of the built-in model, to be exported anew or trained further: ``nano`` where a file is asked for."""

from __future__ import annotations

from pathlib import Path

from runtime.engines.builtin import BUILTIN_NAME

__all__ = ["BUILTIN_NAME", "is_builtin", "weights_file"]


def weights_file(checkpoint: str | Path) -> Path:
    """The file that ``checkpoint`` names: the built-in model's by its name, else the path itself."""
    return Path(__file__).parent / f"{BUILTIN_NAME}.pt" if is_builtin(checkpoint) else Path(checkpoint)


def is_builtin(checkpoint: str | Path) -> bool:
    """Whether it is the built-in model's name, not a path."""
    return str(checkpoint) == BUILTIN_NAME
