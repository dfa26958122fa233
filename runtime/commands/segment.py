"""The command ``segment``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runtime.commands.groups import with_groups
from runtime.commands.options import SegmentOptions
from runtime.commands.settings import (
    fail_in_flags,
    fail_of_usage,
    file_options,
    segment_config,
    segmenter_spec,
    slide_settings,
)
from runtime.errors import ConfigError, SegmenterError

if TYPE_CHECKING:
    from runtime.jobs.folders.records import Records
    from runtime.jobs.folders.run import FolderOptions
    from runtime.jobs.folders.work import ImageWork, Target


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentJob:
    """What a command asks for."""

    targets: Sequence[Target]
    work: ImageWork
    records: Records
    options: FolderOptions


@with_groups
def segment_command(
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Images and slides of any size, folders, patterns ('*.tif').",
            metavar="IMAGE",
            readable=False,
        ),
    ],
    options: SegmentOptions,
) -> None:
    """Segment every cell of images, folders of images and whole slides.

    Writes NAME_labels.tif (0 background, 1..n cells) and NAME_cells.csv.
    To try it: cellsam-engine segment $(cellsam-engine samples)

    Give the same command again to resume after an interruption; images
    that are done are passed over. An image that fails does not stop the
    others. Exit code 0: done, 1: something failed, 2: wrong usage.
    """
    from runtime.commands.dry_run import show_plan
    from runtime.commands.report import Report
    from runtime.jobs.cluster import check_cluster
    from runtime.jobs.folders.run import segment_folder
    from runtime.jobs.segmenter_spec import loaded_segmenter

    output = options.output
    try:
        job = make_job(images, options)
        if options.run.dry_run:
            show_plan(job, as_json=options.run.as_json)
            return
        if options.machine.cluster is None:
            loaded_segmenter(job.work.engines)  # what is wrong with it is wrong for all images
        else:
            check_cluster(job.options, job.work.engines)
        output.out.mkdir(parents=True, exist_ok=True)
    except ConfigError as error:
        fail_of_usage(error)
    except (SegmenterError, OSError) as error:
        fail_in_flags(error)
    with job.records:
        report = Report(len(job.targets), output.out, job.work.files, as_json=options.run.as_json)
        report.show(partial(segment_folder, job.targets, job.work, job.records, job.options))


def make_job(images: Sequence[Path], options: SegmentOptions) -> SegmentJob:
    """Find the images and the engines of a job, and check its options.

    Raises:
        ConfigError: an option outside its range.
        SegmenterError, OSError: images or engines that cannot be used.
    """
    from runtime.files.outputs.formats import check_packages
    from runtime.jobs.find_images import find_images, result_stems
    from runtime.jobs.folders.records import Records
    from runtime.jobs.folders.run import FolderOptions, settings_of
    from runtime.jobs.folders.work import ImageWork

    out = options.output.out
    how = FolderOptions(
        cluster=options.machine.cluster,
        workers=options.machine.workers,
        restart=options.run.restart,
        overwrite=options.output.overwrite,
        partial=options.slides.partial,
        keep_job=options.slides.keep_job,
    )
    files = file_options(options)
    check_packages(files.formats)
    targets = result_stems(find_images(images, recursive=options.read.recursive, out=out), out, files.endings)
    spec = segmenter_spec(options.model, options.machine)
    config = segment_config(spec.default_config(), options.scale, options.read, options.thresholds)
    work = ImageWork(engines=spec, config=config, files=files, slides=slide_settings(options.slides, files))
    return SegmentJob(
        targets=targets, work=work, records=Records(out, settings_of(work, how), files.endings), options=how
    )
