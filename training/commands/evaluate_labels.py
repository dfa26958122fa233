"""Commands ``evaluate labels`` and ``evaluate no-cells``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from training.commands.reports import (
    DataDirs,
    Datasets,
    HeldOut,
    Ious,
    OutDir,
    Reference,
    Split,
    chosen_ious,
    errors_shown,
    finish,
    prepare,
    sample_progress,
    samples_of,
)
from training.evaluation.evaluate import collect
from training.evaluation.label_files import find_label_files, score_label_files
from training.evaluation.no_cells import write_no_cells
from training.evaluation.report import Report, read_report


def labels_command(
    directory: Annotated[
        Path, typer.Argument(help="Directory of label maps, which may be in subdirectories.", metavar="DIR")
    ],
    data: DataDirs,
    out: OutDir,
    name: Annotated[str, typer.Option(help="Name of the tool in tables.")],
    baseline: Reference = None,
    held_out: HeldOut = None,
    iou: Ious = None,
    dataset: Datasets = None,
    split: Split = "test",
) -> None:
    """Score label maps of any other tool, in the same tables as 'evaluate run'.

    The label map of x_img.png is called x_img or x, followed by _cp_masks (Cellpose), .stardist, _labels, _masks, _mask
    or nothing, as TIFF, PNG or npy. If several datasets have it, it must be in a folder with the dataset's name. An
    image without a label map is listed as failed and excluded from the figures; the exit code is then 1.
    """
    with errors_shown():
        prepare(out)
        reference = None if baseline is None else read_report(baseline)
        samples = samples_of(data, split, dataset or (), held_out or ())
        files = find_label_files(directory, samples)
        ious = chosen_ious(iou)
        with sample_progress("scoring", len(samples)) as step:
            scored = score_label_files(files, samples, ious=ious, on_image=step)
        kinds = Counter(path.suffix.lower() for path in files.values())
        method = {"kind": "label files", "files": dict(sorted(kinds.items())), "held_out": list(held_out or ())}
        finish(out, Report(name=name, evaluation=collect(scored, ious), method=method), reference)


def no_cells_command(out: OutDir) -> None:
    """Write photographs, text, noise and gradients with empty label maps, for '--data' of the other commands.

    Every cell that is found in them is false. They are excluded from overall figures.
    """
    with errors_shown():
        names = write_no_cells(out)
        typer.echo(f"{out}\t{len(names)} images without cells")
