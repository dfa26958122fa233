"""``segment_folder``: segment many image files and write their results."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from runtime.errors import RECOVERABLE_ERRORS, reason_of
from runtime.files.image_results import is_slide, remove_leftovers_of
from runtime.jobs.cluster import ClusterOptions, run_on_cluster
from runtime.jobs.failure import Failure
from runtime.jobs.folders.records import Records, Settings
from runtime.jobs.folders.work import ImageDone, ImageWork, Target, TilesDone
from runtime.jobs.step import Step, at_work_on, no_step
from runtime.pipeline.ordered import in_order


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderOptions(ClusterOptions):
    """Options of a run, which do not affect its results."""

    restart: bool = False
    """Segment finished images and interrupted slides again from the start."""
    overwrite: bool = False
    """Replace results that this job would not have made."""
    partial: bool = False
    """Write the results of slides even if tiles failed."""
    keep_job: bool = False
    """Keep the results of a slide's tiles after the slide is finished."""


def settings_of(work: ImageWork, options: FolderOptions) -> Settings:
    """Return all settings on which results depend."""
    # This process does not know which backend 'auto' chooses on other machines.
    backend = {"backend": work.engines.backend} if options.remote else {}
    files = ("series", "plane", "nuclear", "membrane", "rgb", "pixel_size_um", "measure")
    of_stacks = () if work.files.planes is None else ("planes", "unlinked")
    shared = {
        "engines": work.engines.identity() | backend,
        "config": asdict(work.config),
        "files": {name: value for name, value in asdict(work.files).items() if name in files + of_stacks},
    }
    goes_as_slide = partial(is_slide, largest_px=work.files.largest_px)
    return Settings(shared=shared, slides=work.slides.of_tiles(), is_slide=goes_as_slide)


def segment_folder(
    targets: Sequence[Target],
    work: ImageWork,
    records: Records,
    options: FolderOptions,
    progress: Step = no_step,
) -> Iterator[ImageDone]:
    """Segment images and write their results.

    All results of an image appear together, once they are written. A run that is killed loses only the images that it
    was working on; the same call resumes it.

    Args:
        targets: images and the paths of their results.
        work: how to segment them.
        records: the record of the output directory.
        options: how to run the job.
        progress: receives progress over images, large images, and the tiles of slides.

    Yields:
        The outcome of each image: first images that are already done or must not be replaced, then the others in any
        order, slides last.

    Raises:
        ConfigError: as ``check_cluster``.
        JobError: the cluster cannot be reached, or the connection is lost.
    """
    waiting = []
    for target in targets:
        judged = records.judge(target, restart=options.restart, overwrite=options.overwrite)
        if judged is None:
            waiting.append(target)
        else:
            yield judged
    remove_leftovers_of((stem for _, stem in waiting), work.files.endings)
    settled = len(targets) - len(waiting)
    progress("images", settled, len(targets))
    slides = []
    for done in _results(waiting, work, records, options, progress):
        if done.as_slide:
            slides.append(done.target)
            continue
        settled += 1
        yield _recorded(done, records)
        progress("images", settled, len(targets))
    for target in slides:
        settled += 1
        yield _recorded(_as_slide(target, work, options, progress), records)
        progress("images", settled, len(targets))


def _recorded(done: ImageDone, records: Records) -> ImageDone:
    """Record the outcome of an image and return it."""
    try:
        records.finish(done)
    except OSError as error:
        if done.failure is None:
            message = f"its results are written, but not recorded ({reason_of(error, done.target[0])})"
            return replace(done, failure=Failure.of(error, message=message))
    return done


def _results(
    targets: Sequence[Target], work: ImageWork, records: Records, options: FolderOptions, progress: Step
) -> Iterator[ImageDone]:
    given = {_sent(target, options): target for target in targets}

    def begun() -> Iterator[Target]:
        for sent, target in given.items():
            records.begin(target)
            yield sent

    def report_large(target: Target, size_hw: tuple[int, int], done: bool) -> None:
        progress(f"{target[0].name}, {size_hw[1]} x {size_hw[0]} px", int(done), 1)

    if not targets:
        return
    if options.cluster is None:
        engines = work.engines.resolved()
        found: Iterator[ImageDone] = in_order(
            partial(work.run_together, large=report_large),
            begun(),
            together=engines.images_per_call,
            workers=engines.threads,
        )
    else:
        found = run_on_cluster(work.run, begun(), failed=work.failed, options=options, engines=work.engines)
    for done in found:
        target = given[done.target]
        yield replace(done, target=target, failure=done.failure and _named(done.failure, done.target[0], target[0]))


def _sent(target: Target, options: FolderOptions) -> Target:
    """Return a target with paths that processes elsewhere can find."""
    if not options.remote:
        return target
    image, stem = (Path(os.path.abspath(path)) for path in target)
    return image, stem


def _named(failure: Failure, sent: Path, given: Path) -> Failure:
    """Return a failure that names the image by the caller's path, not the path sent elsewhere."""
    return replace(failure, message=failure.message.replace(str(sent), str(given)))


def _as_slide(target: Target, work: ImageWork, options: FolderOptions, progress: Step) -> ImageDone:
    """Segment an image tile by tile."""
    image, stem = _sent(target, options)
    try:
        with at_work_on([target[0]]):
            done = _segment_slide(image, stem, work, options, progress)
    except RECOVERABLE_ERRORS as error:
        return ImageDone(target=target, failure=_named(Failure.of(error, target[0]), image, target[0]))
    return replace(done, target=target)


def _segment_slide(image: Path, stem: Path, work: ImageWork, options: FolderOptions, progress: Step) -> ImageDone:
    from runtime.jobs.slides.engines import for_tiles
    from runtime.jobs.slides.run import RunOptions, segment_slide
    from runtime.jobs.slides.slide_file import open_slide

    start = time.perf_counter()
    reader = open_slide(image, work.files)
    size = reader.size_hw[0] * reader.size_hw[1] / 1e6

    def report(what: str, done: int, steps: int, megapixels: float | None = size) -> None:
        progress(f"{image.name}: {what}", done, steps, megapixels)

    found = segment_slide(
        reader,
        stem.parent,
        engines=for_tiles(work.engines),
        config=work.config,
        settings=work.slides,
        options=RunOptions(
            cluster=options.cluster,
            workers=options.workers,
            restart=options.restart,
            overwrite=True,  # ``Records.judge`` has already decided
            partial=options.partial,
            keep_job=options.keep_job,
            batches_at_once=work.engines.resolved().batches_at_once,
            progress=report,
        ),
        name=stem.name,
    )
    tiles = TilesDone(
        settings=work.slides.of_tiles(), tiles=found.tiles, skipped=found.skipped, failed=tuple(map(str, found.failed))
    )
    return ImageDone(
        target=(image, stem),
        cells=found.cells,
        size_hw=reader.size_hw,
        seconds=time.perf_counter() - start,
        appearance=found.appearance,
        provenance=found.provenance,
        slide=tiles,
    )
