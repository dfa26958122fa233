"""The command ``segment-slide``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runtime.commands.console import errors, fail
from runtime.commands.options import (
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
from runtime.config import changed
from runtime.errors import ConfigError, SegmenterError
from runtime.jobs.cluster import ClusterOptions
from runtime.jobs.slides.settings import SlideSettings

if TYPE_CHECKING:
    from runtime.jobs.slides.estimate import Estimate


def segment_slide_command(
    slide: Annotated[
        Path,
        typer.Argument(help="Slide: what 'segment' takes; only the parts that are needed are read.", metavar="SLIDE"),
    ],
    out: OutOption,
    engine: EngineOption = None,
    formats: FormatOption = None,
    backend: BackendOption = "auto",
    cpu_precision: CpuPrecisionOption = "auto",
    cuda_graphs: CudaGraphsOption = False,
    threads: ThreadsOption = None,
    nuclear: NuclearOption = None,
    membrane: MembraneOption = None,
    rgb: RgbOption = False,
    invert: InvertOption = False,
    time: TimeOption = None,
    z: ZOption = None,
    series: SeriesOption = None,
    pixel_size: PixelSizeOption = None,
    diameter: Annotated[
        float | None, typer.Option(help="Median diameter of the cells, slide pixels; default: measured.", min=0.1)
    ] = None,
    diameter_um: DiameterUmOption = None,
    view_diameter: Annotated[
        float | None,
        typer.Option(
            help="Median diameter at which the model sees cells, model pixels; 0 shows the slide pixel by pixel; "
            "default: the manifest's.",
            min=0,
        ),
    ] = None,
    tile: Annotated[
        int | None, typer.Option(help="Side of the tiles, slide pixels; default: by the diameter.", min=16)
    ] = None,
    overlap: Annotated[
        int | None, typer.Option(help="Least overlap of tiles, slide pixels; default: 2.5 diameters.", min=0)
    ] = None,
    box_threshold: BoxThresholdOption = None,
    nms_iou: NmsIouOption = None,
    iou_threshold: IouThresholdOption = None,
    mask_threshold: MaskThresholdOption = None,
    min_area: MinAreaOption = None,
    min_contrast: Annotated[
        float | None,
        typer.Option(help="Skip tiles that vary by less than this share of the slide's range; 0: only constant ones."),
    ] = None,
    overlay: Annotated[
        bool, typer.Option(help="Also write NAME_overlay.png: the slide, made small, with outlined cells.")
    ] = False,
    cluster: ClusterOption = None,
    workers: WorkersOption = None,
    dry_run: Annotated[
        bool, typer.Option(help="Say how many tiles, how long and how much memory; write nothing.")
    ] = False,
    partial: Annotated[bool, typer.Option(help="Write results even where tiles failed.")] = False,
    restart: Annotated[bool, typer.Option(help="Forget the job that is there and begin anew.")] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace results that exist.")] = False,
    keep_job: Annotated[bool, typer.Option(help="Keep the results of the tiles when all is done.")] = False,
) -> None:
    """Segment a slide of any size: NAME_labels.tif (uint32) and NAME_cells.csv, with memory that does not grow.

    Other files: --format.

    A job that is stopped, however it is, goes on when the same command is given again. A tile that fails is tried
    again, then reported by its position, with exit code 1; no result is written then unless --partial says so.
    """
    from runtime.files.outputs.formats import parse_formats
    from runtime.jobs.find_images import ImageFile, result_stems
    from runtime.jobs.slides.engines import EngineSpec
    from runtime.jobs.slides.estimate import estimate
    from runtime.jobs.slides.run import RunOptions, segment_slide
    from runtime.jobs.slides.slide_file import open_slide

    given = {
        "invert": invert or None,
        "diameter_px": diameter,
        "diameter_um": diameter_um,
        "view_diameter_px": view_diameter,
        "box_threshold": box_threshold,
        "nms_iou": nms_iou,
        "iou_threshold": iou_threshold,
        "mask_threshold": mask_threshold,
        "min_area_px": min_area,
    }
    of_tiles: dict[str, Any] = {"tile_px": tile, "overlap_px": overlap, "min_contrast": min_contrast}
    try:
        spec = engine_spec(
            EngineSpec,
            engine,
            ClusterOptions(cluster=cluster),
            backend=backend,
            threads=threads,
            cpu_precision=cpu_precision,
            cuda_graphs=cuda_graphs,
        )
        config = changed(spec.default_config(), given)
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
        )
        settings = SlideSettings(
            formats=files.formats,
            overlay=files.overlay,
            **{name: value for name, value in of_tiles.items() if value is not None},
        )
        result_stems([ImageFile(slide)], out, files.endings)  # no result may replace the slide
        reader = open_slide(slide, files)
        if dry_run:
            _print_estimate(estimate(reader, spec, config, settings))
            return
        with _progress(reader.size_hw) as progress:
            options = RunOptions(
                cluster=cluster,
                workers=workers,
                restart=restart,
                overwrite=overwrite,
                partial=partial,
                keep_job=keep_job,
                batches_at_once=spec.resolved().batches_at_once,
                progress=progress.step,
            )
            result = segment_slide(reader, out, engines=spec, config=config, settings=settings, options=options)
    except ConfigError as error:
        fail_of_usage(error)
    except (SegmenterError, OSError, MemoryError) as error:
        fail(error)
    except KeyboardInterrupt:
        errors.print("interrupted; the same command goes on from here", style="bold red")
        raise typer.Exit(130) from None
    typer.echo(f"{slide}\t{result.cells} cells\t{result.labels}")
    if result.skipped:
        errors.print(f"{result.skipped} of {result.tiles} tiles have no signal and were skipped")
    if result.failed:
        errors.print(f"{len(result.failed)} of {result.tiles} tiles failed:", style="bold red")
        for line in result.failed:
            errors.print(f"  {line}", markup=False)
        raise typer.Exit(1)


def _print_estimate(found: Estimate) -> None:
    plan = found.plan
    height, width = plan.grid.size_hw
    memory = "unknown" if found.memory_mib is None else f"about {found.memory_mib / 1024:.1f} GiB a process"
    measured = "not known" if plan.diameter_px is None else f"{plan.diameter_px:.1f} px"
    rows = {
        "slide": f"{width} x {height} px",
        "cells": f"median diameter {measured}",
        "tiles": f"{found.tiles} of {plan.grid.side} x {plan.grid.side} px",
        "time": f"at most about {duration(found.seconds)} in one process ({found.seconds_per_tile:.2f} s a tile)",
        "memory": memory,
    }
    for name, value in rows.items():
        typer.echo(f"{name:<8} {value}")


def _progress(size_hw: tuple[int, int]) -> JobProgress:
    """Progress of a job on a slide, in megapixels a second."""
    megapixels = size_hw[0] * size_hw[1] / 1e6
    return JobProgress(lambda per_second, steps: f"{per_second * megapixels / steps:.1f} Mpx/s")
