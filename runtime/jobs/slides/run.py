"""``segment_slide``: segment a slide into a label image and a table of its cells."""

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
from runtime.files.outputs.formats import check_packages, check_slide_formats
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
from runtime.provenance import Provenance
from runtime.results import Appearance
from runtime.views.merge_rules import TileCells

SHOWN_FAILURES = 20

LABEL_IMAGES = ("tiff", "ome-tiff", "ome-zarr")
"""Formats that contain the label map."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions(ClusterOptions):
    """Options of a run, which do not affect its result."""

    restart: bool = False
    """Discard an existing job and start again."""
    overwrite: bool = False
    """Replace existing results."""
    partial: bool = False
    """Write results even if tiles failed; their areas then contain only cells found by neighbouring tiles."""
    keep_job: bool = False
    """Keep the results of the tiles after the slide is finished."""
    batches_at_once: int = 1
    """Batches of tiles that this process works on at a time, each in its thread."""
    progress: Step | None = None


@dataclass(frozen=True, slots=True)
class SlideResult:
    """Outcome for a slide."""

    files: Mapping[str, Path]
    """Results by format; 'overlay' is the picture. Labels are uint32, 0 background, 1..cells in reading order."""
    cells: int
    tiles: int
    skipped: int
    """Tiles without signal that this run skipped."""
    failed: tuple[Failure, ...]
    """With ``partial``: the failures of the tiles without a result."""
    appearance: Appearance = field(default_factory=Appearance)
    """How the slide was shown to the model."""
    provenance: tuple[Provenance, ...] = ()
    """Origin of the tiles: one record for each kind of engines, devices and versions among the processes of the job.
    Empty if no tile has signal."""

    @property
    def labels(self) -> Path:
        """The first label image; if there is none, the first result."""
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
    """Segment a slide of any size into ``NAME_labels.tif`` and ``NAME_cells.csv``, or the formats of ``settings``.

    The job keeps the result of each tile in ``NAME_job``. The same call resumes an interrupted job and produces the
    same files, byte for byte.

    Args:
        reader: the slide; must be picklable if the job runs on a cluster.
        out: directory of the results; created if necessary.
        engines: the engines; default: the built-in model.
        config: settings of the segmentation; default: from the manifest of the engines.
        settings: how to tile the slide, and the formats to write.
        options: how to run the job.
        name: beginning of the result names; default: the name of the slide without its suffix.

    Raises:
        InputError: the slide cannot be segmented, results exist, or the package for a format is not installed.
        JobError: the job was begun with other settings, another process runs it, tiles failed, or the disk is full.
        ConfigError: as ``Segmenter`` and ``check_cluster``.
        EngineError, BackendError: as ``Segmenter``.
    """
    engines, settings, options = engines or EngineSpec(), settings or SlideSettings(), options or RunOptions()
    config = (config or engines.default_config()).at_pixel_size(reader.pixel_size_um, reader.name)
    check_packages(settings.formats)
    check_slide_formats(settings.formats)
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
            provenance = job.provenance()
            write_results(files, SlideOutput(join, reader, plane, measured, provenance), job.results)
            if not options.keep_job and not failed:
                job.remove()
            else:
                job.remove_scratch()
    if not join.cell_count:
        _log.warning("no cells in %s: %d of %d tiles have no signal", reader.name, skipped, len(job.layout.grid))
    described = tuple(_described(job, place, failure) for place, failure in failed)
    return SlideResult(
        files, join.cell_count, len(job.layout.grid), skipped, described, job.layout.appearance, provenance
    )


def _check_results(results: Iterable[Path], directory: Path, options: RunOptions) -> None:
    """Raise if results exist, unless they belong to this job or ``overwrite`` is set."""
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
    """Return the existing job, or begin a new one."""
    request = request_of(reader, engines.identity(), config, settings)
    if options.restart:
        (directory / JOB_NAME).unlink(missing_ok=True)
    job = existing_job(directory, request)
    if job is None:
        job = begin_job(directory, request, make_layout(reader, loaded(engines), config, settings))
    return job


def _run_tiles(work: TileWork, options: RunOptions) -> tuple[int, list[tuple[int, Failure]]]:
    """Run all unfinished batches; return the number of skipped tiles, and the failed tiles with their failures."""
    waiting = [batch for batch in range(work.batches) if not work.finished(batch)]
    tiles = len(work.job.layout.grid)
    done = tiles - sum(len(work.places(batch)) for batch in waiting)
    if done:
        _log.info("%d of %d tiles exist from an earlier run", done, tiles)
    skipped: int = 0
    failed: list[tuple[int, Failure]] = []
    _report(options, "tiles", done, tiles)
    for batch in _batches(work, waiting, options):
        done += batch.tiles
        skipped += batch.skipped
        failed += batch.failed
        _report(options, "tiles", done, tiles)
    return skipped, sorted(failed)


def _batches(work: TileWork, waiting: list[int], options: RunOptions) -> Iterator[BatchDone]:
    if not waiting or (options.cluster is None and options.batches_at_once == 1):
        return map(work.run, waiting)
    if options.cluster is None:
        return in_order(lambda batch: [work.run(*batch)], waiting, together=1, workers=options.batches_at_once)
    return run_on_cluster(work.run, waiting, failed=work.failed, options=options, engines=work.engines)


def _report(options: RunOptions, what: str, done: int, steps: int) -> None:
    if options.progress is not None:
        options.progress(what, done, steps)


def _described(job: Job, place: int, failure: Failure) -> Failure:
    top, left, bottom, right = job.layout.extent(place)
    return replace(failure, message=f"tile at rows {top}-{bottom}, columns {left}-{right}: {failure}")


def _check_failed(failed: list[tuple[int, Failure]], job: Job, options: RunOptions) -> None:
    """Raise if tiles failed, unless ``partial`` is set.

    Raises:
        JobError: lists the failed tiles.
    """
    if not failed or options.partial:
        return
    lines = [str(_described(job, place, failure)) for place, failure in failed[:SHOWN_FAILURES]]
    if len(failed) > SHOWN_FAILURES:
        lines.append(f"and {len(failed) - SHOWN_FAILURES} more")
    raise JobError(
        f"{len(failed)} of {len(job.layout.grid)} tiles failed, so no results were written; the other tiles are kept. "
        "Run the same job again to retry the failed tiles, or pass partial=True to write results without them.\n  "
        + "\n  ".join(lines),
        kind=failed[0][1].kind,
        field="partial",
    )


def _join(job: Job, missing: set[int], config: SegmentConfig, options: RunOptions) -> SlideJoin:
    """Run the second pass, always from its start."""
    job.remove_scratch()
    job.stitching.mkdir()
    job.results.mkdir()

    def read_tile(place: int) -> TileCells:
        return no_cells(job.layout.extent(place)) if place in missing else job.read_tile(place)

    join = SlideJoin(job.layout, read_tile, job.stitching, min_area_px=config.min_area_px)
    for done in join.run():
        _report(options, "stitching", done, join.steps)
    return join


def _measured(join: SlideJoin, reader: ImageReader, job: Job) -> SlideMeasurements:
    """Measure every channel of the slide, including those that were not segmented."""
    whole = reader.every_channel if isinstance(reader, SlideFile) else reader
    return SlideMeasurements(join, whole, job.stitching / "measured")
