"""Keep a checkpoint as the built-in model's: ``python -m training.weights run/stage1.pt``."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from training.checkpoint import load_checkpoint, save_checkpoint
from training.weights import BUILTIN_NAME, weights_file


def main() -> None:
    """Round the weights to float16, which halves the file, and write them to the package."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="in this project's format")
    parser.add_argument("--out", type=Path, default=weights_file(BUILTIN_NAME), help="default: in the package")
    options = parser.parse_args()
    loaded = load_checkpoint(options.checkpoint)
    save_checkpoint(options.out, loaded.model, licence=loaded.licence, dtype=torch.float16)
    print(options.out)  # noqa: T201


if __name__ == "__main__":
    main()
