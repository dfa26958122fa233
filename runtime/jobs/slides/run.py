"""``segment_slide``: a slide in, a label image and a table of its cells out."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from runtime.config import SegmentConfig
from runtime.errors import InputError, JobError
from runtime.files.formats.axes import Plane
from runtime.files.image_results import result_name
from runtime.files.outputs.formats import check_packages
from runtime.files.readers import ImageReader
from runtime.jobs.cluster import ClusterOptions, run_on_cluster
from runtime.jobs.failure import Failure
from runtime.jobs.slides.engines import EngineSource, EngineSpec, loaded
from runtime.jobs.slides.jobs import (
    JOB_ENDING,
    JOB_NAME,
    Job,
    begin_job,
    disk_full_named,
    existing_job,
    locked,
    request_of,
)
from runtime.jobs.slides.join import SlideJoin
from runtime.jobs.slides.layout import make_layout
from runtime.jobs.slides.measured import SlideMeasurements
from runtime.jobs.slides.outputs import SlideOutput, result_paths, write_results
from runtime.jobs.slides.settings import SlideSettings
from runtime.jobs.slides.slide_file import SlideFile
from runtime.jobs.slides.work import BatchDone, TileWork, no_cells
from runtime.jobs.step import Step
from runtime.pipeline.ordered import in_order
from runtime.results import Appearance
from runtime.views.merge_rules import TileCells

SHOWN_FAILURES = 20

LABEL_IMAGES = ("tiff", "ome-tiff", "ome-zarr")
"""Formats that show the labels."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions(ClusterOptions):
    """How a job is run; its result does not depend on it."""

    restart: bool = False
    """Forget the job that is there."""
    overwrite: bool = False
    """Replace results that exist."""
    partial: bool = False
    """Write results even where tiles failed; their places then show only what their neighbours saw."""
    keep_job: bool = False
    """Keep the results of the tiles when all is done."""
    batches_at_once: int = 1
    """Batches of tiles that this process has in work, in as many threads."""
    progress: Step | None = None


@dataclass(frozen=True, slots=True)
class SlideResult:
    """What became of a slide."""

    files: Mapping[str, Path]
    """By format; 'overlay' is the picture. Labels are uint32, 0 background, 1..cells in reading order."""
    cells: int
    tiles: int
    skipped: int
    """Tiles without signal that this run skipped."""
    failed: tuple[Failure, ...]
    """With ``partial``: tiles without a result, and why."""
    appearance: Appearance = field(default_factory=Appearance)
    """How the slide was shown to the model."""

    @property
    def labels(self) -> Path:
        """The label image that was written, the first of several; without one, whatever came first."""
        return next(
            (path for name, path in self.files.items() if name in LABEL_IMAGES), next(iter(self.files.values()))
        )


def segment_slide(
    reader: ImageReader,
    out: str | Path,
    *,
    engines: EngineSource | None = None,
    config: SegmentConfig | None = None,
    settings: SlideSettings | None = None,
    options: RunOptions | None = None,
    name: str | None = None,
) -> SlideResult:
    """Segment a slide of any size into ``NAME_labels.tif`` and ``NAME_cells.csv``, or what ``settings`` name.

    Each tile's result is kept in ``NAME_job``: the same call resumes a job that was interrupted, and ends with the
    same files, byte for byte.

    Args:
        reader: the slide. For a cluster it must be possible to pickle it.
        out: directory of the results; made if need be.
        engines: default, the built-in model.
        config: settings of the segmentation; default, those of the engines' manifest.
        settings: how the slide is cut.
        options: how the job is run.
        name: what the results' names begin with; default, the slide's name without its type.

    Raises:
        InputError: a slide that cannot be segmented; results that exist; a format whose package is not installed.
        JobError: the job was begun otherwise, another process has it, tiles failed, or the disk is full.
        ConfigError: as ``Segmenter`` and ``check_cluster``.
        EngineError, BackendError: as ``Segmenter``.
    """
    engines, settings, options = engines or EngineSpec(), settings or SlideSettings(), options or RunOptions()
    config = (config or engines.default_config()).at_pixel_size(reader.pixel_size_um, reader.name)
    check_packages(settings.formats)
    out = Path(os.path.abspath(out)) if options.remote else Path(out)
    stem = name or result_name(Path(reader.name))
    directory = out / f"{stem}{JOB_ENDING}"
    files = result_paths(out / stem, settings)
    with disk_full_named(directory):
        _check_results(files.values(), directory, options)
        with locked(directory):
            job = _opened(directory, reader, engines, config, settings, options)
            work = TileWork(reader, engines, config, settings, job)
            skipped, failed = _run_tiles(work, options)
            _check_failed(failed, job, options)
            join = _join(job, {place for place, _ in failed}, config, options)
            plane = reader.plane if isinstance(reader, SlideFile) else Plane()
            measured = _measured(join, reader, job) if settings.measure else None
            write_results(files, SlideOutput(join, reader, plane, measured), job.results)
            if not options.keep_job and not failed:
                job.remove()
            else:
                job.remove_scratch()
    if not join.cell_count:
        _log.warning("no cells in %s: %d of %d tiles have no signal", reader.name, skipped, len(job.layout.grid))
    described = tuple(_described(job, place, failure) for place, failure in failed)
    return SlideResult(files, join.cell_count, len(job.layout.grid), skipped, described, job.layout.appearance)


def _check_results(results: Iterable[Path], directory: Path, options: RunOptions) -> None:
    """Results may be replaced by the job that is writing them, or where the caller says so."""
    existing = [str(path) for path in results if path.exists()]
    if existing and not options.overwrite and not (directory / JOB_NAME).exists():
        raise InputError(
            f"{' and '.join(existing)} exist; pass overwrite=True to replace them.", kind="exists", field="overwrite"
        )


def _opened(
    directory: Path,
    reader: ImageReader,
    engines: EngineSource,
    config: SegmentConfig,
    settings: SlideSettings,
    options: RunOptions,
) -> Job:
    """The job that is there, or a new one."""
    request = request_of(reader, engines.identity(), config, settings)
    if options.restart:
        (directory / JOB_NAME).unlink(missing_ok=True)
    job = existing_job(directory, request)
    if job is None:
        job = begin_job(directory, request, make_layout(reader, loaded(engines), config, settings))
    return job


def _run_tiles(work: TileWork, options: RunOptions) -> tuple[int, list[tuple[int, Failure]]]:
    """Finish all batches; the number of tiles skipped, and the tiles that failed with why."""
    waiting = [batch for batch in range(work.batches) if not work.finished(batch)]
    tiles = len(work.job.layout.grid)
    done = tiles - sum(len(work.places(batch)) for batch in waiting)
    if done:
        _log.info("%d of %d tiles are there from an earlier run", done, tiles)
    skipped: int = 0
    failed: list[tuple[int, Failure]] = []
    _tell(options, "tiles", done, tiles)
    for batch in _batches(work, waiting, options):
        done += batch.tiles
        skipped += batch.skipped
        failed += batch.failed
        _tell(options, "tiles", done, tiles)
    return skipped, sorted(failed)


def _batches(work: TileWork, waiting: list[int], options: RunOptions) -> Iterator[BatchDone]:
    if not waiting or (options.cluster is None and options.batches_at_once == 1):
        return map(work.run, waiting)
    if options.cluster is None:
        return in_order(lambda batch: [work.run(*batch)], waiting, together=1, workers=options.batches_at_once)
    return run_on_cluster(work.run, waiting, failed=work.failed, options=options, engines=work.engines)


def _tell(options: RunOptions, what: str, done: int, steps: int) -> None:
    if options.progress is not None:
        options.progress(what, done, steps)


def _described(job: Job, place: int, failure: Failure) -> Failure:
    top, left, bottom, right = job.layout.extent(place)
    return replace(failure, message=f"tile at rows {top}-{bottom}, columns {left}-{right}: {failure}")


def _check_failed(failed: list[tuple[int, Failure]], job: Job, options: RunOptions) -> None:
    """Raises:
    JobError: tiles failed, and partial results are not wanted.
    """
    if not failed or options.partial:
        return
    lines = [str(_described(job, place, failure)) for place, failure in failed[:SHOWN_FAILURES]]
    if len(failed) > SHOWN_FAILURES:
        lines.append(f"and {len(failed) - SHOWN_FAILURES} more")
    raise JobError(
        f"{len(failed)} of {len(job.layout.grid)} tiles failed, so that no result is written; the others are kept. Run "
        "the same job again to try these once more, or pass partial=True to leave their places out.\n  "
        + "\n  ".join(lines),
        kind=failed[0][1].kind,
        field="partial",
    )


def _join(job: Job, missing: set[int], config: SegmentConfig, options: RunOptions) -> SlideJoin:
    """The second pass, anew at every run."""
    job.remove_scratch()
    job.stitching.mkdir()
    job.results.mkdir()

    def read_tile(place: int) -> TileCells:
        return no_cells(job.layout.extent(place)) if place in missing else job.read_tile(place)

    join = SlideJoin(job.layout, read_tile, job.stitching, min_area_px=config.min_area_px)
    for done in join.run():
        _tell(options, "stitching", done, join.steps)
    return join


def _measured(join: SlideJoin, reader: ImageReader, job: Job) -> SlideMeasurements:
    """Measure every channel of the slide, not those alone that were segmented."""
    whole = reader.every_channel if isinstance(reader, SlideFile) else reader
    return SlideMeasurements(join, whole, job.stitching / "measured")
