"""The command ``segment``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from runtime.commands.console import fail
from runtime.commands.groups import with_groups
from runtime.commands.options import SegmentOptions
from runtime.errors import ConfigError, SegmenterError


@with_groups
def segment_command(
    options: SegmentOptions,
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Images and slides of any size, folders, patterns ('*.tif').",
            metavar="IMAGE",
            readable=False,
        ),
    ] = None,
) -> None:
    """Segment every cell of images, folders of images and whole slides.

    Writes NAME_labels.tif (0 background, 1..n cells) and NAME_cells.csv.
    To try it: cellsam-engine segment $(cellsam-engine samples)

    Run the same command again to resume after an interruption; it skips
    finished images. An image that fails does not stop the others.
    Exit code 0: done, 1: something failed, 2: wrong usage.
    """
    from runtime.commands.dry_run import show_forecast
    from runtime.commands.job import make_job, watch_options
    from runtime.commands.report import Report
    from runtime.jobs.cluster import check_cluster
    from runtime.jobs.folders.run import segment_folder
    from runtime.jobs.folders.watch import watch_folder
    from runtime.jobs.segmenter_spec import loaded_segmenter

    if (options.run.watch is None) == (not images):
        given = "Missing argument 'IMAGE...'" if not images else "IMAGE and --watch exclude each other"
        raise typer.BadParameter(f"{given}; expected images, or a folder to --watch.")
    output = options.output
    try:
        job = make_job(images or (), options)
        if options.run.dry_run:
            show_forecast(job, as_json=options.run.as_json)
            return
        if options.machine.cluster is None:
            loaded_segmenter(job.work.engines)  # an error here would fail every image
        else:
            check_cluster(job.options, job.work.engines)
        output.out.mkdir(parents=True, exist_ok=True)
    except ConfigError as error:
        fail(error, code=2)
    except (SegmenterError, OSError) as error:
        fail(error)
    if (watch := watch_options(options)) is not None:
        report = Report(None, output.out, job.work.files, as_json=options.run.as_json)
        report.show(partial(watch_folder, watch, job.work, job.options))
        return
    with job.records:
        report = Report(len(job.targets), output.out, job.work.files, as_json=options.run.as_json)
        report.show(partial(segment_folder, job.targets, job.work, job.records, job.options))
