"""Commands ``data build``, ``data layout``, ``data info`` and ``data synthesise`` of ``cellsam-engine``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from runtime.commands.console import errors, fail
from runtime.commands.flags import in_flags
from runtime.errors import SegmenterError
from training.data.build import BuildReport, build_dataset
from training.data.builders import DATASETS, DatasetName, FolderOptions, find_datasets, layout_of
from training.data.builders.folder import Colours
from training.data.errors import DataError
from training.data.format import dataset_directories, read_summary
from training.data.records import GROUPS, SPLITS, Skipped, SourceDataset, Split
from training.data.scan import BuildStep
from training.data.splits import HELD_OUT
from training.data.synthetic import SYNTHETIC_GROUPS, write_datasets

SHOWN_PROBLEMS = 20

FLAGS = {
    name: f"--{name.replace('_', '-')}"
    for name in ("source", "out", "seed", "image_glob", "mask_glob", "object_set", "licence", "rgb")
} | {"groups": "--group"}
"""Flags by the name of their setting or argument."""

data_app = typer.Typer(
    help="Build training data from published datasets.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@data_app.command()
def build(
    name: Annotated[DatasetName, typer.Argument(help=f"One of: {', '.join(DATASETS)}.", metavar="NAME")],
    source: Annotated[Path, typer.Option(help="Directory with the unpacked download.", metavar="DIR")],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Directory to write; an interrupted build in it is resumed.", metavar="DIR"),
    ],
    seed: Annotated[int, typer.Option(help="Seed of the 80-10-10 draw, if no split is published.")] = 0,
    test: Annotated[
        bool, typer.Option(help="Draw a test split; --no-test if the test images come from elsewhere.")
    ] = True,
    image_glob: Annotated[str | None, typer.Option(help="folder: image files; default '*_img.*'.")] = None,
    mask_glob: Annotated[str | None, typer.Option(help="folder: mask files; default '*_mask.*'.")] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(help=f"folder: GROUP or DATASET=GROUP, repeatable; one of {', '.join(GROUPS)}."),
    ] = None,
    object_set: Annotated[
        str | None,
        typer.Option(help="folder: regular expression for the image id; equal matches stay in one split."),
    ] = None,
    licence: Annotated[str | None, typer.Option(help="folder: licence of the data, stored in dataset.json.")] = None,
    rgb: Annotated[
        Colours | None,
        typer.Option(help="folder: colours as three channels (default), as in 'segment', or converted to gray."),
    ] = None,
) -> None:
    """Write 512 x 512 tiles with labels, as npy and COCO, split into train, val and test.

    A file that cannot be used is reported and skipped; the exit code is then 1. 'data layout NAME' shows the expected
    files.
    """
    given = {
        "image_glob": image_glob,
        "mask_glob": mask_glob,
        "groups": _groups(group) if group else None,
        "object_set": object_set,
        "licence": licence,
        "rgb": rgb,
    }
    chosen = {key: value for key, value in given.items() if value is not None}
    try:
        options = FolderOptions(**chosen) if chosen else None  # type: ignore[arg-type]
    except DataError as error:
        raise typer.BadParameter(in_flags(str(error), FLAGS)) from error
    try:
        datasets = find_datasets(name, source, options)
        reports = [
            _build(dataset, out / dataset.subdirectory, seed, HELD_OUT if test else ("val",)) for dataset in datasets
        ]
    except (SegmenterError, OSError) as error:
        fail(error, flags=FLAGS)
    for report in reports:
        _print(report)
    skipped = [problem for report in reports for problem in report.skipped]
    if skipped:
        _print_skipped(skipped)
        raise typer.Exit(1)


@data_app.command()
def layout(name: Annotated[DatasetName, typer.Argument(help="Name of a dataset.", metavar="NAME")]) -> None:
    """Show the files that 'data build NAME' expects."""
    typer.echo(layout_of(name).strip())


@data_app.command()
def info(directory: Annotated[Path, typer.Argument(help="Output of 'data build'.", metavar="DIR")]) -> None:
    """Show the images, tiles and objects of a build, by split."""
    try:
        summaries = [read_summary(path) for path in dataset_directories(directory)]
    except SegmenterError as error:
        fail(error)
    for summary in summaries:
        typer.echo(f"{summary['name']} ({summary['group']}), {summary['source']}, licence: {summary['licence'] or '-'}")
        for split in SPLITS:
            counts = summary["splits"][split]
            typer.echo(_row(split, counts["images"], counts["tiles"], counts["objects"]))


@data_app.command()
def synthesise(
    out: Annotated[Path, typer.Option(help="Directory to write; one dataset per group.", metavar="DIR")],
    count: Annotated[int, typer.Option(help="Images per group.", min=1)],
    group: Annotated[
        list[str] | None,
        typer.Option(help=f"Group to make, repeatable; default: all of {', '.join(SYNTHETIC_GROUPS)}."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Equal seeds make equal images.", min=0)] = 0,
    workers: Annotated[int, typer.Option(help="Processes that make images; 0: this process.", min=0)] = 0,
) -> None:
    """Make microscope images with exact labels, 512 x 512 pixels, as a training split."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=errors, disable=not errors.is_terminal) as bars:
            task = bars.add_task("", total=count)

            def show(name: str, done: int, total: int) -> None:
                bars.update(task, description=name, completed=done, total=total)

            made = write_datasets(out, count=count, groups=group or (), seed=seed, workers=workers, progress=show)
    except (SegmenterError, OSError) as error:
        fail(error)
    for directory in made:
        typer.echo(directory)


def _groups(values: list[str]) -> dict[str, str]:
    pairs = (value.rpartition("=") for value in values)
    return {dataset.strip(): group.strip() for dataset, _, group in pairs}


def _build(dataset: SourceDataset, out: Path, seed: int, held_out: Sequence[Split]) -> BuildReport:
    """Build one dataset and show a progress bar per step."""
    columns = (TextColumn("{task.description:<10}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    item = TextColumn("{task.fields[item]}", markup=False)
    with Progress(*columns, item, console=errors, disable=not errors.is_terminal) as bars:
        tasks = {step: bars.add_task(step, total=None, item="") for step in ("scanning", "cutting", "indexing")}

        def show(step: BuildStep, done: int, total: int, name: str) -> None:
            bars.update(tasks[step], completed=done, total=total, item=name)

        errors.print(f"{dataset.name}: {len(dataset.fields)} images", markup=False)
        return build_dataset(dataset, out, seed=seed, held_out=held_out, progress=show)


def _print(report: BuildReport) -> None:
    reused = f", {report.reused} images from an earlier build" if report.reused else ""
    typer.echo(f"{report.name}: {report.directory}{reused}")
    for split in SPLITS:
        typer.echo(_row(split, report.images[split], report.tiles[split], report.objects[split]))


def _row(split: str, images: int, tiles: int, objects: int) -> str:
    return f"  {split:<6}{images:>7} images{tiles:>8} tiles{objects:>10} objects"


def _print_skipped(skipped: list[Skipped]) -> None:
    """Print each file once, with the number of its skipped images."""
    counts = Counter((problem.file, problem.reason) for problem in skipped)
    errors.print(f"{len(counts)} source files were skipped:", style="bold red")
    for (file, reason), count in list(counts.items())[:SHOWN_PROBLEMS]:
        errors.print(f"  {file}{f' ({count} images)' if count > 1 else ''}: {reason}", markup=False)
    if len(counts) > SHOWN_PROBLEMS:
        errors.print(f"  and {len(counts) - SHOWN_PROBLEMS} more; dataset.json lists all.")
