"""Command ``train`` of ``cellsam-engine``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runtime.commands.console import fail
from runtime.errors import SegmenterError


def train_command(
    stage: Annotated[
        int, typer.Argument(help="1: CellFinder and the ViT on boxes. 2: the neck on masks.", min=1, max=2)
    ],
    data: Annotated[Path, typer.Option(help="Built dataset, or a directory of them ('data build').", metavar="DIR")],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="Directory for the checkpoint, logs and pictures; a run in it is resumed.",
            metavar="DIR",
        ),
    ],
    recipe: Annotated[str, typer.Option(help="Preset (vit_b, nano), or a JSON file with changes to one.")] = "vit_b",
    init: Annotated[
        str | None,
        typer.Option(
            help="Weights to start from, required for stage 2; nano: those of the built-in model.", metavar="FILE"
        ),
    ] = None,
    accelerator: Annotated[str, typer.Option(help="Accelerator as Lightning names it: auto, cpu, gpu ...")] = "auto",
    devices: Annotated[int, typer.Option(help="Processes on this machine, one per device.", min=1)] = 1,
    nodes: Annotated[int, typer.Option(help="Number of machines.", min=1)] = 1,
    workers: Annotated[int, typer.Option(help="Loader processes per device.", min=0)] = 0,
    save_every: Annotated[int, typer.Option(help="Steps between checkpoints.", min=1)] = 500,
    pictures_every: Annotated[int, typer.Option(help="Steps between pictures of predictions; 0: none.", min=0)] = 1000,
    licence: Annotated[str, typer.Option(help="Licence of the trained weights.")] = "trained by the user",
) -> None:
    """Train a stage of CellSAM; an interrupted run resumes at its last checkpoint, with the same result.

    A finished run continues if the recipe has more steps; any other difference is an error.
    """
    from training.recipe import load_recipe
    from training.train import RunConfig, run_stage
    from training.weights import weights_file

    run = RunConfig(
        out=out,
        data=data,
        init=None if init is None else weights_file(init),
        accelerator=accelerator,
        devices=devices,
        nodes=nodes,
        workers=workers,
        save_every=save_every,
        pictures_every=pictures_every,
        licence=licence,
    )
    try:
        typer.echo(run_stage(stage, load_recipe(recipe), run))
    except (SegmenterError, ValueError, OSError) as error:
        fail(error)
