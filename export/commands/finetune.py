"""Command ``finetune`` of ``cellsam-engine``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from export.commands.export import FLAGS
from runtime.commands.console import errors, fail
from runtime.engines.backends.base import BackendName
from runtime.engines.builtin import BUILTIN_NAME
from runtime.errors import SegmenterError

if TYPE_CHECKING:
    from export.finetune import Progress as Tell

_WORDS = {
    "data": "building the data",
    "training": "training",
    "settings": "choosing settings",
    "comparison": "comparing",
    "engines": "exporting and verifying",
    "done": "done",
}


def finetune_command(
    images: Annotated[
        Path,
        typer.Argument(
            help="Folder of images and label maps, as 'data build folder' takes it: NAME_img.png, NAME_mask.png.",
            metavar="IMAGES",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Engine directory to make.", metavar="DIR")],
    init: Annotated[
        str, typer.Option(help="Weights to start from: nano or a checkpoint of our own format.", metavar="FILE")
    ] = BUILTIN_NAME,
    steps: Annotated[
        int | None, typer.Option(help="Training steps of 4 views; default: 600, or those of --recipe.", min=1)
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="Recipe to train with, as for 'train 1'; its model is that of --init.")
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(help="Directory for data, checkpoints and reports; default: DIR.finetune.", metavar="DIR"),
    ] = None,
    image_glob: Annotated[str, typer.Option(help="Names of the images.")] = "*_img.*",
    mask_glob: Annotated[str, typer.Option(help="Names of their label maps; equal wildcards pair.")] = "*_mask.*",
    accelerator: Annotated[str, typer.Option(help="auto, cpu, gpu ...: as Lightning names them.")] = "auto",
    backend: Annotated[BackendName, typer.Option(help="What runs the engines that are compared.")] = "auto",
    force: Annotated[
        bool, typer.Option("--force", help="Replace an engine directory that exists; nothing else is replaced.")
    ] = False,
) -> None:
    """Train a model further on your own images, and make engines of it if it has become better.

    A tenth of the images, at least one, is kept apart: the settings are chosen on them, and the model before and after
    is compared on them; of 20 images or more, another tenth is kept for the comparison. If the model has not become
    better, no engines are written and the exit code is 1. Given again after an interruption, it resumes.
    """
    from export.finetune import FinetuneConfig, finetune
    from training.data import FolderOptions
    from training.evaluation.compare import comparison_markdown

    try:
        config = FinetuneConfig(
            images=images,
            out=out,
            work=work or out.with_name(f"{out.name}.finetune"),
            init=init,
            steps=steps,
            recipe=recipe,
            folder=FolderOptions(image_glob=image_glob, mask_glob=mask_glob, groups={"": "Cell Culture"}),
            accelerator=accelerator,
            backend=backend,
            force=force,
        )
        with _one_bar() as tell:
            columns = finetune(config, tell)
    except (SegmenterError, ValueError, OSError) as error:
        fail(error, flags=FLAGS | {"work": "--work", "images": "IMAGES", "image_glob": "--image-glob"})
    typer.echo(comparison_markdown(columns))
    typer.echo(out)


@contextmanager
def _one_bar() -> Iterator[Tell]:
    """A bar over all steps on a terminal; elsewhere a line for each step."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=errors, disable=not errors.is_terminal) as bar:
        task = bar.add_task("", total=1.0)
        shown = ""

        def tell(what: str, done: float) -> None:
            nonlocal shown
            bar.update(task, completed=done, description=_WORDS[what])
            if what != shown and bar.disable:
                errors.print(_WORDS[what], markup=False)
            shown = what

        yield tell
