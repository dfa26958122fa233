"""The options of the commands, each defined once: groups for ``with_groups``, and single options that commands share.

A field has the name of the setting that it sets in ``SegmentConfig``, ``FileOptions``, ``SlideSettings`` or a similar
class. ``runtime.commands.settings`` builds these classes; ``FLAGS`` translates setting names in error messages.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import typer

from runtime.commands.groups import flags_of
from runtime.config import BoxThresholdMode, MaskWindow, Overlap
from runtime.engines.backends.base import BackendName, CpuPrecision
from runtime.engines.builtin import BUILTIN_NAME

Number = TypeVar("Number", int, float)

INPUT, MODEL, SCALE = "Input", "Model", "Scale"
THRESHOLDS = "Thresholds (default: the model's)"
SLIDES = "Slides: images that are read and segmented tile by tile"
OUTPUT, MACHINE = "Output", "Machine"

NO_VALUE = ""
"""Shown in place of a value for options that take none."""


def at_least(least: int) -> Callable[[Number | None], Number | None]:
    """Return a check that an option, if given, is not below ``least``."""

    def check(value: Number | None) -> Number | None:
        if value is not None and value < least:
            raise typer.BadParameter(f"{value} is too small; expected {least} or more.")
        return value

    return check


def no_file(path: Path) -> Path:
    """Check that an output directory is not a file."""
    if path.exists() and not path.is_dir():
        raise typer.BadParameter(f"{path} is a file; expected a directory.")
    return path


ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        help="Built-in (default), or made by 'export'.",
        metavar=f"{BUILTIN_NAME}|DIR",
        show_default=False,
    ),
]
BackendOption = Annotated[
    BackendName,
    typer.Option(
        help="cpu, openvino, cuda, tensorrt, tensorrt-rtx, tensorrt-ort, or auto (the fastest).",
        metavar="NAME",
        rich_help_panel=MODEL,
    ),
]
CpuPrecisionOption = Annotated[
    CpuPrecision,
    typer.Option(help="For openvino: fp32, bf16, or auto (bf16 if available).", metavar="NAME", rich_help_panel=MODEL),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(
        help="CPU threads of each process; default: physical cores.",
        metavar="N",
        callback=at_least(1),
        rich_help_panel=MACHINE,
    ),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelOptions:
    """The model and its backend."""

    model: ModelOption = BUILTIN_NAME
    backend: BackendOption = "auto"
    cpu_precision: CpuPrecisionOption = "auto"
    cuda_graphs: Annotated[
        bool,
        typer.Option(
            "--cuda-graphs",
            help="For cuda and tensorrt-rtx: replay CUDA graphs for recurring sizes.",
            metavar=NO_VALUE,
            rich_help_panel=MODEL,
        ),
    ] = False
    gpu_kernels: Annotated[
        bool,
        typer.Option(
            "--gpu-kernels",
            help="For GPU backends: contrast and mask assembly on the GPU, with compiled kernels (untested on GPUs).",
            metavar=NO_VALUE,
            rich_help_panel=MODEL,
        ),
    ] = False


@dataclass(frozen=True, kw_only=True, slots=True)
class MachineOptions:
    """The processes and threads that run a job."""

    threads: ThreadsOption = None
    cluster: Annotated[
        str | None,
        typer.Option(
            help="'local', or the address of a Dask scheduler; default: this process only.",
            metavar="WHERE",
            rich_help_panel=MACHINE,
        ),
    ] = None
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes of a local cluster; default: 1 per GPU or core.",
            metavar="N",
            callback=at_least(1),
            rich_help_panel=MACHINE,
        ),
    ] = None


Polarity = Literal["yes", "no", "auto"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadingOptions:
    """How image files are found and read."""

    nuclear: Annotated[
        str | None, typer.Option(help="Channel of the nuclei: name or number from 0.", metavar="CHANNEL")
    ] = None
    membrane: Annotated[
        str | None, typer.Option(help="Channel of the cells: name or number from 0.", metavar="CHANNEL")
    ] = None
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Reject Zarr images that lack chunks.", metavar=NO_VALUE, rich_help_panel=INPUT),
    ] = False
    recursive: Annotated[bool, typer.Option("--recursive", help="Also search subfolders.", metavar=NO_VALUE)] = False
    rgb: Annotated[
        bool,
        typer.Option(
            "--rgb",
            help="Use the three channels as colour; not needed if the file declares RGB.",
            metavar=NO_VALUE,
            rich_help_panel=INPUT,
        ),
    ] = False
    time: Annotated[
        int | None,
        typer.Option(help="Time point of a series, from 0.", metavar="N", callback=at_least(0), rich_help_panel=INPUT),
    ] = None
    z: Annotated[
        int | None,
        typer.Option("--z", help="Plane of a stack, from 0.", metavar="N", callback=at_least(0), rich_help_panel=INPUT),
    ] = None
    planes: Annotated[
        str | None,
        typer.Option(
            help="Planes of a stack or movie, in one result: all, or 0-9.", metavar="RANGE", rich_help_panel=INPUT
        ),
    ] = None
    unlinked: Annotated[
        bool,
        typer.Option(
            "--no-link",
            help="With --planes: number the cells of each plane by themselves.",
            metavar=NO_VALUE,
            rich_help_panel=INPUT,
        ),
    ] = False
    series: Annotated[
        str | None,
        typer.Option(
            help="Image in a file with several: name or number from 0.", metavar="IMAGE", rich_help_panel=INPUT
        ),
    ] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class InputOptions(ReadingOptions):
    """How image files are read, and how the model sees them."""

    invert: Annotated[
        Polarity | None,
        typer.Option(help="Dark cells, bright background: yes, no, auto.", metavar="WORD"),
    ] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ScaleOptions:
    """The size of the cells, in the image and as the model sees them."""

    diameter_px: Annotated[
        float | None,
        typer.Option("--diameter", help="Cell diameter, pixels; default: measured.", metavar="PX"),
    ] = None
    diameter_um: Annotated[
        float | None,
        typer.Option(
            "--diameter-um",
            help="Cell diameter, micrometres; default: measured.",
            metavar="UM",
            rich_help_panel=SCALE,
        ),
    ] = None
    pixel_size_um: Annotated[
        float | None,
        typer.Option(
            "--pixel-size",
            help="Side of a pixel, micrometres; default: from the file.",
            metavar="UM",
            rich_help_panel=SCALE,
        ),
    ] = None
    view_diameter_px: Annotated[
        float | None,
        typer.Option(
            "--view-diameter",
            help="Cell diameter after scaling, model pixels; 0: scale whole images; default: the model's.",
            metavar="PX",
            callback=at_least(0),
            rich_help_panel=SCALE,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ThresholdOptions:
    """The boxes, masks and pixels that become cells."""

    box_threshold: Annotated[
        float | None,
        typer.Option(help="Lowest box score, 0 to 1 (1.5 if adaptive).", metavar="SCORE", rich_help_panel=THRESHOLDS),
    ] = None
    box_threshold_mode: Annotated[
        BoxThresholdMode | None,
        typer.Option(
            help="adaptive (to the scores of each image) or fixed.", metavar="NAME", rich_help_panel=THRESHOLDS
        ),
    ] = None
    nms_iou: Annotated[
        float | None,
        typer.Option(help="Highest IoU of two boxes, 0 to 1; 1 keeps all.", metavar="IOU", rich_help_panel=THRESHOLDS),
    ] = None
    iou_threshold: Annotated[
        float | None,
        typer.Option(help="Lowest IoU estimate of a mask, about 0 to 1.", metavar="IOU", rich_help_panel=THRESHOLDS),
    ] = None
    mask_threshold: Annotated[
        float | None,
        typer.Option(help="Lowest probability of a mask pixel, 0 to 1.", metavar="P", rich_help_panel=THRESHOLDS),
    ] = None
    mask_window: Annotated[
        MaskWindow | None,
        typer.Option(
            help="Where masks are computed: box or full (the whole image).",
            metavar="NAME",
            rich_help_panel=THRESHOLDS,
        ),
    ] = None
    overlap: Annotated[
        Overlap | None,
        typer.Option(
            "--overlap-rule",
            help="Cell that gets a contested pixel: argmax (the most probable) or last (of the highest index).",
            metavar="NAME",
            rich_help_panel=THRESHOLDS,
        ),
    ] = None
    min_area_px: Annotated[
        int | None,
        typer.Option(
            "--min-area",
            help="Smallest cell, pixels; 0 keeps all.",
            metavar="PX",
            callback=at_least(0),
            rich_help_panel=THRESHOLDS,
        ),
    ] = None
    fill_holes: Annotated[
        bool | None,
        typer.Option(
            "--fill-holes/--keep-holes",
            help="Fill holes inside cells, or keep them.",
            metavar=NO_VALUE,
            rich_help_panel=THRESHOLDS,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SlideOptions:
    """The images to segment as slides, and how to tile them."""

    as_slide: Annotated[
        bool,
        typer.Option("--as-slide", help="Treat all images as slides.", metavar=NO_VALUE, rich_help_panel=SLIDES),
    ] = False
    slide_over: Annotated[
        float,
        typer.Option(
            help="Treat images above this many megapixels as slides.",
            metavar="MPX",
            callback=at_least(0),
            rich_help_panel=SLIDES,
        ),
    ] = 100.0
    tile_px: Annotated[
        int | None,
        typer.Option(
            "--tile-size",
            help="Side of a slide's tiles, pixels; default: from the diameter.",
            metavar="PX",
            callback=at_least(16),
            rich_help_panel=SLIDES,
        ),
    ] = None
    overlap_px: Annotated[
        int | None,
        typer.Option(
            "--tile-overlap",
            help="Minimum overlap of a slide's tiles, pixels; default: 2.5 diameters.",
            metavar="PX",
            callback=at_least(0),
            rich_help_panel=SLIDES,
        ),
    ] = None
    min_contrast: Annotated[
        float | None,
        typer.Option(
            help="Skip tiles that vary by less than this share of the slide's range; default: 1/128.",
            metavar="SHARE",
            rich_help_panel=SLIDES,
        ),
    ] = None
    max_tiles: Annotated[
        int | None,
        typer.Option(
            help="Reject slides of more tiles; default: 1000000.",
            metavar="N",
            callback=at_least(1),
            rich_help_panel=SLIDES,
        ),
    ] = None
    partial: Annotated[
        bool,
        typer.Option(
            "--partial", help="Write a slide's results even if tiles failed.", metavar=NO_VALUE, rich_help_panel=SLIDES
        ),
    ] = False
    keep_job: Annotated[
        bool,
        typer.Option(
            "--keep-job",
            help="Keep the tiles of a finished slide, to write more formats later.",
            metavar=NO_VALUE,
            rich_help_panel=SLIDES,
        ),
    ] = False


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputOptions:
    """The results to write, their folder, and whether to replace existing results."""

    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the results.", metavar="DIR", callback=no_file)
    ] = Path("segmented")
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="tiff, csv (default: both), ome-tiff, ome-zarr, geojson, parquet, imagej, cellpose, cellpose-tif, "
            "cellpose-png, cellpose-txt, ctc.",
            metavar="NAME,...",
        ),
    ] = None
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also write a picture with outlined cells.", metavar=NO_VALUE)
    ] = False
    measure: Annotated[
        bool, typer.Option("--measure", help="Also measure each cell: shape, intensity.", metavar=NO_VALUE)
    ] = False
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace results of other settings or images.", metavar=NO_VALUE)
    ] = False


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """How a job starts and what it prints."""

    restart: Annotated[
        bool,
        typer.Option(
            "--restart",
            help="Segment everything again instead of resuming.",
            metavar=NO_VALUE,
            rich_help_panel=OUTPUT,
        ),
    ] = False
    watch: Annotated[
        Path | None,
        typer.Option(
            "--watch",
            help="Segment the files of this folder as they arrive, until Ctrl-C.",
            metavar="DIR",
            rich_help_panel=OUTPUT,
        ),
    ] = None
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only print what would be done, and the time and memory needed.",
            metavar=NO_VALUE,
            rich_help_panel=OUTPUT,
        ),
    ] = False
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one line of JSON for each image.", metavar=NO_VALUE, rich_help_panel=OUTPUT),
    ] = False


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentOptions:
    """All options of ``segment``, the most common first."""

    output: OutputOptions
    model: ModelOptions
    scale: ScaleOptions
    read: InputOptions
    thresholds: ThresholdOptions
    slides: SlideOptions
    run: RunOptions
    machine: MachineOptions


FLAGS = flags_of(SegmentOptions)
"""Options by the names of the settings that they set."""
