"""The job that the arguments and options of ``segment`` describe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.commands.options import SegmentOptions
from runtime.commands.settings import file_options, segment_config, segmenter_spec, slide_settings
from runtime.errors import ConfigError
from runtime.files.outputs.formats import check_packages
from runtime.jobs.find_images import find_images, result_stems
from runtime.jobs.folders.records import Records
from runtime.jobs.folders.run import FolderOptions, settings_of
from runtime.jobs.folders.watch import WatchOptions
from runtime.jobs.folders.work import ImageWork, Target


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentJob:
    """A job, ready to run."""

    targets: Sequence[Target]
    work: ImageWork
    records: Records
    options: FolderOptions


def make_job(images: Sequence[Path], options: SegmentOptions) -> SegmentJob:
    """Find the images and the engines of a job, and check its options.

    Raises:
        ConfigError: an option is outside its range.
        SegmenterError, OSError: the images or engines cannot be used.
    """
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
    targets: Sequence[Target] = ()
    if options.run.watch is None:
        targets = result_stems(find_images(images, recursive=options.read.recursive, out=out), out, files.endings)
    else:
        _check_watch(options)
    spec = segmenter_spec(options.model, options.machine)
    config = segment_config(spec.default_config(), options.scale, options.read, options.thresholds)
    kind = ImageWork if files.planes is None else _stack_work(options)
    work = kind(engines=spec, config=config, files=files, slides=slide_settings(options.slides, files))
    return SegmentJob(
        targets=targets, work=work, records=Records(out, settings_of(work, how), files.endings), options=how
    )


def watch_options(options: SegmentOptions) -> WatchOptions | None:
    """Return the folder to watch; None if the command names images."""
    if options.run.watch is None:
        return None
    return WatchOptions(folder=options.run.watch, out=options.output.out, recursive=options.read.recursive)


def _check_watch(options: SegmentOptions) -> None:
    """Raise a ``ConfigError`` if an option does not apply to a watched folder."""
    cluster = options.machine.cluster
    given = "dry_run=True" if options.run.dry_run else f"cluster='{cluster}'" if cluster is not None else None
    if given is not None:
        raise ConfigError(
            f"{given} was given with watch='{options.run.watch}'; expected one or the other. Leave one out.",
            kind="conflict",
            field=given.partition("=")[0],
        )


def _stack_work(options: SegmentOptions) -> type[ImageWork]:
    """Return the work of a job on stacks.

    Raises:
        ConfigError: an option does not apply to stacks.
    """
    from runtime.jobs.folders.stack_work import StackWork

    if options.run.dry_run:
        raise ConfigError(
            "dry_run=True was given with planes; expected one or the other. Leave dry_run=True out.",
            kind="conflict",
            field="dry_run",
        )
    return StackWork
