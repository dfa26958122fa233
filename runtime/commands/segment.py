"""The command ``segment``."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runtime.commands.console import errors, fail
from runtime.commands.options import (
    FROM_MANIFEST,
    BackendOption,
    BoxThresholdOption,
    ClusterOption,
    CpuPrecisionOption,
    CudaGraphsOption,
    DiameterUmOption,
    EngineOption,
    FormatOption,
    InvertOption,
    IouThresholdOption,
    MaskThresholdOption,
    MembraneOption,
    MinAreaOption,
    NmsIouOption,
    NuclearOption,
    OutOption,
    PixelSizeOption,
    RgbOption,
    SeriesOption,
    ThreadsOption,
    TimeOption,
    WorkersOption,
    ZOption,
    engine_spec,
    fail_of_usage,
    file_options,
)
from runtime.commands.progress import JobProgress, duration
from runtime.config import BoxThresholdMode, MaskWindow, Overlap, changed
from runtime.errors import ConfigError, SegmenterError
from runtime.jobs.cluster import check_cluster
from runtime.jobs.step import Step

if TYPE_CHECKING:
    from runtime.jobs.folders.estimate import Planned
    from runtime.jobs.folders.records import Records
    from runtime.jobs.folders.run import FolderOptions
    from runtime.jobs.folders.work import ImageDone, ImageWork, Target

DISK_FULL = tuple(map(os.strerror, (errno.ENOSPC, errno.EDQUOT)))

Failure = tuple[Path, str]
"""An image, and why it has no result."""


def segment_command(
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Images: TIFF, OME-TIFF, OME-Zarr, PNG, JPEG, npy or whole slides; directories of them; patterns.",
            metavar="IMAGE",
            readable=False,
        ),
    ],
    out: OutOption,
    engine: EngineOption = None,
    formats: FormatOption = None,
    nuclear: NuclearOption = None,
    membrane: MembraneOption = None,
    rgb: RgbOption = False,
    invert: InvertOption = False,
    time: TimeOption = None,
    z: ZOption = None,
    series: SeriesOption = None,
    pixel_size: PixelSizeOption = None,
    recursive: Annotated[bool, typer.Option("--recursive", help="Look into directories of directories.")] = False,
    overlay: Annotated[bool, typer.Option(help="Also write NAME_overlay.png: the image with outlined cells.")] = False,
    backend: BackendOption = "auto",
    cpu_precision: CpuPrecisionOption = "auto",
    cuda_graphs: CudaGraphsOption = False,
    threads: ThreadsOption = None,
    cluster: ClusterOption = None,
    workers: WorkersOption = None,
    resume: Annotated[
        bool,
        typer.Option(help="Pass over images that were done with these settings, and go on with those that were not."),
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace results that exist.")] = False,
    dry_run: Annotated[
        bool, typer.Option(help="Say what would be segmented, how long it takes and how much memory; write nothing.")
    ] = False,
    slide_over: Annotated[
        float,
        typer.Option(
            help="Images of more megapixels are segmented in tiles, as 'segment-slide' does it, after the others.",
            min=0,
        ),
    ] = 100.0,
    diameter: Annotated[
        float | None, typer.Option(help="Median diameter of the cells, image pixels; default: measured.", min=0.1)
    ] = None,
    diameter_um: DiameterUmOption = None,
    view_diameter: Annotated[
        float | None,
        typer.Option(
            help="Median diameter at which the model sees cells, model pixels: images are shown in tiles at that "
            f"scale; 0 shows them whole; {FROM_MANIFEST}.",
            min=0,
        ),
    ] = None,
    box_threshold: BoxThresholdOption = None,
    box_threshold_mode: Annotated[
        BoxThresholdMode | None,
        typer.Option(
            help="'fixed': the cut is --box-threshold. 'adaptive': blended with the image's own scores; "
            f"{FROM_MANIFEST}."
        ),
    ] = None,
    nms_iou: NmsIouOption = None,
    iou_threshold: IouThresholdOption = None,
    mask_threshold: MaskThresholdOption = None,
    mask_window: Annotated[
        MaskWindow | None,
        typer.Option(
            help=f"Where masks are computed: 'box', the box and a margin, or 'full', the whole image; {FROM_MANIFEST}."
        ),
    ] = None,
    overlap: Annotated[
        Overlap | None,
        typer.Option(
            help="Who gets a pixel that several masks claim: 'argmax', the most probable, or 'last', the mask with "
            f"the highest index; {FROM_MANIFEST}."
        ),
    ] = None,
    min_area: MinAreaOption = None,
    fill_holes: Annotated[bool | None, typer.Option(help=f"Fill holes inside cells; {FROM_MANIFEST}.")] = None,
) -> None:
    """Segment images: NAME_labels.tif (0 = background, 1..n cells) and NAME_cells.csv (boxes and scores) each.

    Other files: --format. Images of the package to try it on: 'cellsam-engine samples'.

    Settings not given come from the engine's manifest. An image that cannot be segmented is reported at the end, with
    exit code 1; the others are written. What is done, and how, is noted in segmented.jsonl, from which --resume goes
    on.
    """
    from runtime.files.outputs.formats import check_packages, parse_formats
    from runtime.jobs.find_images import find_images, result_stems
    from runtime.jobs.folders.records import Records
    from runtime.jobs.folders.run import FolderOptions, segment_folder, settings_of
    from runtime.jobs.folders.work import ImageWork
    from runtime.jobs.segmenter_spec import SegmenterSpec, loaded_segmenter

    given = {
        "invert": invert or None,
        "diameter_px": diameter,
        "diameter_um": diameter_um,
        "view_diameter_px": view_diameter,
        "box_threshold": box_threshold,
        "box_threshold_mode": box_threshold_mode,
        "nms_iou": nms_iou,
        "iou_threshold": iou_threshold,
        "mask_threshold": mask_threshold,
        "mask_window": mask_window,
        "overlap": overlap,
        "min_area_px": min_area,
        "fill_holes": fill_holes,
    }
    options = FolderOptions(cluster=cluster, workers=workers, resume=resume, overwrite=overwrite)
    try:
        files = file_options(
            series=series,
            time=time,
            z=z,
            nuclear=nuclear,
            membrane=membrane,
            rgb=rgb,
            pixel_size=pixel_size,
            formats=parse_formats(formats or ()),
            overlay=overlay,
            largest_px=int(slide_over * 1e6),
        )
        check_packages(files.formats)
        found = find_images(images, recursive=recursive, out=out)
        targets = result_stems(found, out, files.endings)
        spec = engine_spec(
            SegmenterSpec,
            engine,
            options,
            backend=backend,
            threads=threads,
            cpu_precision=cpu_precision,
            cuda_graphs=cuda_graphs,
        )
        work = ImageWork(engines=spec, config=changed(spec.default_config(), given), files=files)
        records = Records(out, settings_of(work, options), files.endings)
        if dry_run:
            _dry_run(targets, work, records, options)
            return
        if cluster is None:
            loaded_segmenter(spec)  # what is wrong with it is wrong for all images
        else:
            check_cluster(options, spec)
        out.mkdir(parents=True, exist_ok=True)
    except ConfigError as error:
        fail_of_usage(error)
    except (SegmenterError, OSError) as error:
        fail(error)
    with records:
        _run(partial(segment_folder, targets, work, records, options), len(targets), files.endings[0])


def _run(job: Callable[[Step], Iterator[ImageDone]], count: int, ending: str) -> None:
    """Show results as they come, then what failed; leaves with an exit code where something did."""
    failed: list[Failure] = []
    already = without_cells = 0
    try:
        with JobProgress(lambda per_second, _: f"{per_second:.2f}/s") as progress:
            for done in job(progress.step):
                already += done.already
                image, stem = done.target
                if done.failure is not None:
                    failed.append((image, done.failure))
                elif not done.already:
                    without_cells += not done.cells
                    progress.say(f"{image}\t{done.cells} cells\t{stem}{ending}")
    except KeyboardInterrupt:
        _report(failed, already, count)
        errors.print("interrupted; --resume goes on from here", style="bold red")
        raise typer.Exit(130) from None
    except (SegmenterError, OSError) as error:
        _report(failed, already, count)
        fail(error)
    if without_cells:
        errors.print(
            f"{without_cells} of {count} images have no cells; where there are some, see --diameter, --nuclear and "
            "--invert, and what the model was trained on"
        )
    _report(failed, already, count)
    if failed:
        raise typer.Exit(1)


def _report(failed: Sequence[Failure], already: int, count: int) -> None:
    """List the images that failed, each named once: many reasons begin with the path."""
    if already:
        errors.print(f"{already} of {count} images were already done")
    if not failed:
        return
    errors.print(f"{len(failed)} of {count} images failed:", style="bold red")
    for path, reason in failed:
        errors.print(f"  {reason}" if reason.startswith(f"{path} ") else f"  {path}: {reason}", markup=False)
    if any(full in reason for _, reason in failed for full in DISK_FULL):
        errors.print("The disk is full. What was finished is kept: make room and give the same command with --resume.")


def _dry_run(targets: Sequence[Target], work: ImageWork, records: Records, options: FolderOptions) -> None:
    """Print what a job would do; exit code 1 where an image cannot be segmented or its results may not be replaced."""
    from runtime.engines.manifest import read_manifest
    from runtime.jobs.folders.estimate import estimate_folder, estimate_slides, plan_folder

    model_size = read_manifest(work.engines.directory).image_size
    planned, found = estimate_folder(plan_folder(targets, work, records, options, model_size), work)
    planned, of_slides = estimate_slides(planned, work)
    for one in planned:
        typer.echo(f"{one.target[0]}\t{_described(one)}")
    slides = sum(one.too_large and one.failure is None for one in planned)
    already = sum(one.already for one in planned)
    rows = {"images": f"{sum(one.to_do for one in planned)} to segment, {already} already done, {slides} as slides"}
    if found is not None:
        rows["time"] = f"about {duration(found.seconds)} in one process, by {found.sample.target[0]}"
    if of_slides is not None:
        rows["slides"] = f"at most about {duration(of_slides.seconds)} in one process"
    estimates = [one for one in (found, of_slides) if one is not None]
    if estimates:
        peaks = [one.memory_mib for one in estimates if one.memory_mib is not None]
        rows["memory"] = f"about {max(peaks) / 1024:.1f} GiB a process" if peaks else "unknown"
    for name, value in rows.items():
        typer.echo(f"{name:<8} {value}")
    failed = [(one.target[0], one.failure) for one in planned if one.failure is not None]
    _report(failed, 0, len(planned))
    if failed:
        raise typer.Exit(1)


def _described(one: Planned) -> str:
    if one.size_hw is None or one.failure is not None:
        return "already done" if one.already else "fails"
    height, width = one.size_hw
    tiles = "tiles by the measured diameter" if one.tiles is None else f"{one.tiles} tile{'s' * (one.tiles > 1)}"
    return f"{width} x {height} px\t{'as a slide, ' * one.too_large}{tiles}"
