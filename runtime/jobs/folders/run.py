"""``segment_folder``: many image files in, the files of their results out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from runtime.errors import CAUGHT, reason_of
from runtime.files.image_results import remove_leftovers
from runtime.jobs.cluster import ClusterOptions, run_on_cluster
from runtime.jobs.folders.records import Records
from runtime.jobs.folders.work import ImageDone, ImageWork, Target
from runtime.jobs.step import Step
from runtime.pipeline.ordered import in_order


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderOptions(ClusterOptions):
    """How a job is run; its results do not depend on it."""

    resume: bool = False
    """Pass over images that are done."""
    overwrite: bool = False
    """Replace results that exist."""


def settings_of(work: ImageWork, options: FolderOptions) -> dict[str, Any]:
    """All that the results of an image depend on but the image itself."""
    # What 'auto' stands for on other machines is not known here.
    backend = {"backend": work.engines.backend} if options.remote else {}
    files = ("series", "plane", "nuclear", "membrane", "rgb", "pixel_size_um")
    return {
        "engines": work.engines.identity() | backend,
        "config": asdict(work.config),
        "files": {name: value for name, value in asdict(work.files).items() if name in files},
    }


def segment_folder(
    targets: Sequence[Target],
    work: ImageWork,
    records: Records,
    options: FolderOptions,
    progress: Step = lambda *_: None,
) -> Iterator[ImageDone]:
    """Segment images; yields what became of each, in any order: those that are done or refused first, slides last.

    Every image's results appear together, when all are written. A run that is killed loses the images that were in
    work; ``options.resume`` goes on.

    Args:
        targets: images and where their results go.
        work: how they are segmented.
        records: of the output directory.
        options: how the job is run.
        progress: told of images, and of the tiles of slides.

    Raises:
        ConfigError: as ``check_cluster``.
        JobError: the cluster cannot be reached, or is lost.
    """
    waiting = []
    for target in targets:
        judged = records.judge(target, resume=options.resume, overwrite=options.overwrite)
        if judged is None:
            waiting.append(target)
        else:
            yield judged
    remove_leftovers(stem for _, stem in waiting)
    settled = len(targets) - len(waiting)
    progress("images", settled, len(targets))
    slides = []
    for done in _results(waiting, work, records, options):
        if done.too_large:
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
    """What became of an image, once that is noted."""
    if done.failure is None:
        try:
            records.finish(done)
        except OSError as error:
            failure = f"its results are written, but not noted ({reason_of(error, done.target[0])})"
            return replace(done, failure=failure)
    return done


def _results(
    targets: Sequence[Target], work: ImageWork, records: Records, options: FolderOptions
) -> Iterator[ImageDone]:
    given = {_sent(target, options): target for target in targets}

    def begun() -> Iterator[Target]:
        for sent, target in given.items():
            records.begin(target)
            yield sent

    if not targets:
        return
    if options.cluster is None:
        engines = work.engines.resolved()
        found: Iterator[ImageDone] = in_order(
            work.run_together, begun(), together=engines.images_per_call, workers=engines.threads
        )
    else:
        found = run_on_cluster(work.run, begun(), failed=work.failed, options=options, engines=work.engines)
    for done in found:
        target = given[done.target]
        failure = done.failure and done.failure.replace(str(done.target[0]), str(target[0]))
        yield replace(done, target=target, failure=failure)


def _sent(target: Target, options: FolderOptions) -> Target:
    """A target as processes elsewhere find it."""
    if not options.remote:
        return target
    image, stem = (Path(os.path.abspath(path)) for path in target)
    return image, stem


def _as_slide(target: Target, work: ImageWork, options: FolderOptions, progress: Step) -> ImageDone:
    """Segment an image in tiles, as ``segment-slide`` does."""
    from runtime.jobs.slides.engines import for_tiles
    from runtime.jobs.slides.run import RunOptions, segment_slide
    from runtime.jobs.slides.settings import SlideSettings
    from runtime.jobs.slides.slide_file import open_slide

    image, stem = _sent(target, options)
    files, engines = work.files, work.engines
    try:
        reader = open_slide(image, files)
        run = RunOptions(
            cluster=options.cluster,
            workers=options.workers,
            restart=options.overwrite and not options.resume,
            overwrite=True,
            batches_at_once=engines.resolved().batches_at_once,
            progress=lambda what, done, steps: progress(f"{image.name}: {what}", done, steps),
        )
        settings = SlideSettings(formats=files.formats, overlay=files.overlay)
        found = segment_slide(
            reader,
            stem.parent,
            engines=for_tiles(engines),
            config=work.config,
            settings=settings,
            options=run,
            name=stem.name,
        )
    except CAUGHT as error:
        return ImageDone(target=target, failure=reason_of(error, target[0]).replace(str(image), str(target[0])))
    return ImageDone(target=target, cells=found.cells)
