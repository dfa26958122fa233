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
    from export.overall_progress import Progress as ProgressCallback

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
            help="Folder of images and label maps, as for 'data build folder': NAME_img.png, NAME_mask.png.",
            metavar="IMAGES",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Engine directory to create.", metavar="DIR")],
    init: Annotated[
        str, typer.Option(help="Weights to start from: nano or a checkpoint in our own format.", metavar="FILE")
    ] = BUILTIN_NAME,
    steps: Annotated[
        int | None, typer.Option(help="Training steps of 4 views; default: 600, or those of --recipe.", min=1)
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="Recipe to train with, as for 'train 1'; its model is replaced by --init's.")
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(help="Directory for data, checkpoints and reports; default: DIR.finetune.", metavar="DIR"),
    ] = None,
    image_glob: Annotated[str, typer.Option(help="Pattern of the image names.")] = "*_img.*",
    mask_glob: Annotated[
        str, typer.Option(help="Pattern of the label map names; pairs have equal wildcards.")
    ] = "*_mask.*",
    accelerator: Annotated[str, typer.Option(help="Accelerator, as named by Lightning: auto, cpu, gpu ...")] = "auto",
    backend: Annotated[BackendName, typer.Option(help="Backend that runs the compared engines.")] = "auto",
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing engine directory; nothing else is replaced.")
    ] = False,
) -> None:
    """Train a model further on your own images, and export engines if the model has improved.

    A tenth of the images, at least one, is held out to choose the settings and to compare the model before and after.
    With 20 images or more, another tenth is held out for the comparison only. If the model is worse than before, no
    engines are written and the exit code is 1. After an interruption, the same command resumes.
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
        with _one_bar() as update:
            columns = finetune(config, update)
    except (SegmenterError, ValueError, OSError) as error:
        fail(error, flags=FLAGS | {"work": "--work", "images": "IMAGES", "image_glob": "--image-glob"})
    typer.echo(comparison_markdown(columns))
    typer.echo(out)


@contextmanager
def _one_bar() -> Iterator[ProgressCallback]:
    """Show a progress bar over all steps on a terminal; elsewhere print one line per step."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=errors, disable=not errors.is_terminal) as bar:
        task = bar.add_task("", total=1.0)
        shown = ""

        def update(what: str, done: float) -> None:
            nonlocal shown
            bar.update(task, completed=done, description=_WORDS[what])
            if what != shown and bar.disable:
                errors.print(_WORDS[what], markup=False)
            shown = what

        yield update
