"""Store a checkpoint as that of the built-in model: ``python -m training.weights run/stage1.pt``.

Several checkpoints of one model and one line of training are averaged. If they lie in one basin of the loss, the mean
is better on new images than each of them (Wortsman et al. 2022, model soups, arXiv:2203.05482).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path

import torch

from runtime.config import read_settings
from training.checkpoint import Checkpoint, CheckpointError, save_checkpoint
from training.model import CellSAM
from training.weights import BUILTIN_NAME, load_weights, weights_file


def averaged(paths: Sequence[Path]) -> Checkpoint:
    """Average the weights of checkpoints, and keep the settings of the first.

    Raises:
        CheckpointError: a checkpoint cannot be read, or models or licences differ.
    """
    loaded = [load_weights(path) for path in paths]
    first = loaded[0]
    for path, other in zip(paths, loaded, strict=True):
        if (other.model.config, other.licence) != (first.model.config, first.licence):
            raise CheckpointError(
                f"{path} has another model or licence than {paths[0]}; average checkpoints of one model only.",
                kind="mismatch",
            )
    weights = [one.model.state_dict() for one in loaded]
    first.model.load_state_dict(
        {
            name: (sum(w[name].double() for w in weights) / len(weights)).to(value.dtype)
            for name, value in weights[0].items()
        }
    )
    usage = reduce(lambda known, other: known.trained_on(other.usage.trained_channels), loaded, first.usage)
    return replace(first, usage=usage)


def with_windowed_decoder(model: CellSAM) -> CellSAM:
    """Return the same weights in a model with ``windowed_decoder``; see ``ModelConfig``."""
    windowed = CellSAM(replace(model.config, windowed_decoder=True))
    windowed.load_state_dict(model.state_dict())
    return windowed.eval()


def main() -> None:
    """Round the weights to float16, which halves the file, and write them into the package."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "checkpoint", type=Path, nargs="+", help="checkpoints in this project's format; several are averaged"
    )
    parser.add_argument(
        "--out", type=Path, default=weights_file(BUILTIN_NAME), help="file to write; default: in the package"
    )
    parser.add_argument(
        "--settings", type=Path, help="settings from 'evaluate tune'; default: those of the first checkpoint"
    )
    parser.add_argument(
        "--windowed-decoder",
        action="store_true",
        help="show the mask decoder only a window around the box; compare both on validation images first",
    )
    options = parser.parse_args()
    loaded = averaged(options.checkpoint)
    model = with_windowed_decoder(loaded.model) if options.windowed_decoder else loaded.model
    usage = loaded.usage
    if options.settings is not None:
        usage = replace(usage, settings=read_settings(options.settings))
    save_checkpoint(options.out, model, licence=loaded.licence, usage=usage, dtype=torch.float16)
    print(options.out)  # noqa: T201


if __name__ == "__main__":
    main()
