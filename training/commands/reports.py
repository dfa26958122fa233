"""Options, progress and reports shared by the commands ``evaluate ...``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from runtime.commands.console import errors, fail
from runtime.commands.options import FLAGS
from runtime.errors import InputError, SegmenterError
from training.evaluation.coco_metrics import require_library
from training.evaluation.compare import Column, comparison_markdown, make_column, write_comparison
from training.evaluation.dataset import Sample, find_samples, select
from training.evaluation.environment import describe_environment, portable_command
from training.evaluation.evaluate import hold_out
from training.evaluation.metrics import DEFAULT_IOUS, shown_iou
from training.evaluation.plots import plot_bars, plot_curves, require_matplotlib
from training.evaluation.report import Report, markdown, read_report, write_report
from training.evaluation.summary import ImageScore

DataDir = Annotated[Path, typer.Option(help="Images and true labels: one folder per dataset.", metavar="DIR")]
DataDirs = Annotated[
    list[Path],
    typer.Option("--data", help="Images and true labels: one folder per dataset; repeatable.", metavar="DIR"),
]
OutDir = Annotated[Path, typer.Option("--out", "-o", help="Directory for the results.", metavar="DIR")]
Ious = Annotated[list[float] | None, typer.Option("--iou", help="IoU of a match; default: 0.5 to 0.95 by 0.05.")]
Datasets = Annotated[list[str] | None, typer.Option("--dataset", help="Dataset or subset to use; default: all.")]
Split = Annotated[str, typer.Option(help="Split of a 'data build' output.")]
Reference = Annotated[
    Path | None, typer.Option("--baseline", help="Report of another 'evaluate' command to compare with.")
]
HeldOut = Annotated[
    list[str] | None, typer.Option(help="Dataset that the model was not trained on; scored separately, as zero-shot.")
]


@contextmanager
def errors_shown() -> Iterator[None]:
    """Print errors of the library with the flags that they concern, and exit with code 1."""
    try:
        yield
    except (SegmenterError, OSError) as error:
        fail(error, flags=FLAGS | {"iou": "--iou"})


def prepare(out: Path) -> None:
    """Check the requirements of the report before hours of work."""
    require_library()
    require_matplotlib()
    out.mkdir(parents=True, exist_ok=True)


def samples_of(roots: Sequence[Path], split: str, datasets: Sequence[str], held_out: Sequence[str]) -> list[Sample]:
    """Return the samples of several directories and the chosen datasets, with held-out datasets as zero-shot.

    Raises:
        InputError: there are no samples, a dataset does not occur, or tiles of 'data build' are mixed with plain
        images.
    """
    samples = select([sample for root in roots for sample in find_samples(root, split=split)], datasets)
    select(samples, held_out)  # raises for a name that does not occur
    if len({sample.tile_hw is None for sample in samples}) > 1:
        raise InputError(
            "some of the images are tiles of 'data build', whose contrast is equalised, and some are not; expected one "
            "kind. Evaluate them separately and join the reports with 'evaluate compare'.",
            kind="conflict",
        )
    return hold_out(samples, held_out)


def chosen_ious(given: list[float] | None) -> tuple[float, ...]:
    """Return the IoUs of ``--iou``, ascending, or the default ones."""
    return tuple(sorted(set(given))) if given else DEFAULT_IOUS


@contextmanager
def sample_progress(title: str, total: int) -> Iterator[Callable[[Sample | ImageScore], None]]:
    """Show a progress bar, and yield a function to call after each image."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, disable=not errors.is_terminal) as progress:
        task = progress.add_task(title, total=total)
        yield lambda item: progress.update(task, advance=1, description=f"{title} {item.dataset}/{item.id}")


def dated(report: Report) -> Report:
    """Add this command and machine to a report."""
    return replace(report, command=portable_command(sys.argv), environment=describe_environment())


def finish(out: Path, report: Report, reference: Report | None = None) -> None:
    """Write JSON, table and plots, print the table, and exit with code 1 if an image failed."""
    write_report(out / "evaluation.json", dated(report))
    report = read_report(out / "evaluation.json")  # tables and plots show the content of the file
    iou = shown_iou(report.evaluation.ious)
    text = markdown(report, reference, iou=iou)
    (out / "evaluation.md").write_text(text, encoding="utf-8")
    columns = [make_column(r.name, [r], iou=iou) for r in (report, reference) if r is not None]
    plot_bars(out / "f1_bars.png", columns, iou=iou)
    plot_curves(out / "f1_against_iou.png", columns)
    typer.echo(text)
    fail_if_incomplete(report)


def write_columns(out: Path, columns: Sequence[Column], iou: float) -> None:
    """Write a comparison as JSON, table and plots, and print the table."""
    write_comparison(out / "comparison.json", columns, iou=iou, command=portable_command(sys.argv))
    text = comparison_markdown(columns, iou=iou)
    (out / "comparison.md").write_text(text, encoding="utf-8")
    plot_bars(out / "f1_bars.png", columns, iou=iou)
    plot_curves(out / "f1_against_iou.png", columns)
    typer.echo(text)


def fail_if_incomplete(report: Report) -> None:
    """Print the images that failed, if any, and exit with code 1."""
    failed = report.evaluation.failed
    if failed:
        lines = [f"  {image.dataset}/{image.id}: {image.error}" for image in failed]
        fail(InputError("\n".join([f"{len(failed)} of {len(report.evaluation.images)} images failed:", *lines])))
