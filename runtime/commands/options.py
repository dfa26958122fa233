"""Options that ``segment`` and ``segment-slide`` share, and errors about settings in the words of the command line."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from runtime.commands.console import fail
from runtime.engines.backends.base import BackendName, BackendOptions, CpuPrecision
from runtime.errors import ConfigError
from runtime.jobs.cluster import ClusterOptions

if TYPE_CHECKING:
    from runtime.files.image_results import FileOptions
    from runtime.jobs.segmenter_spec import Spec

FROM_MANIFEST = "default: the manifest's"


def _no_file(path: Path) -> Path:
    if path.exists() and not path.is_dir():
        raise typer.BadParameter(f"{path} is a file; expected a directory.")
    return path


OutOption = Annotated[
    Path, typer.Option(help="Directory for the results; made if need be.", metavar="DIR", callback=_no_file)
]
EngineOption = Annotated[
    Path | None,
    typer.Option(help="Engine directory, made by 'export'; default: the built-in nano model.", metavar="DIR"),
]
FormatOption = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        help="What is written, several with commas or repeated: tiff and csv (the default), ome-tiff, ome-zarr, "
        "geojson (QuPath), parquet.",
        metavar="NAME,...",
    ),
]
BackendOption = Annotated[
    BackendName,
    typer.Option(
        help="What runs the engines: cpu (onnxruntime), openvino (CPU), cuda (onnxruntime, NVIDIA GPU), tensorrt "
        "(NVIDIA GPU, with plans that 'build' made on this machine), tensorrt-ort (the same through onnxruntime, which "
        "builds when it first loads), or auto, the fastest of the others here."
    ),
]
CpuPrecisionOption = Annotated[
    CpuPrecision,
    typer.Option(
        help="openvino: compute in fp32 or bf16; auto, bf16 for encoder and detector where the processor has it."
    ),
]
ThreadsOption = Annotated[
    int | None, typer.Option(help="CPU threads of each process; default: one per physical core.", min=1)
]
NuclearOption = Annotated[
    str | None, typer.Option(help="Channel of the nuclei, by name or number from 0.", metavar="CHANNEL")
]
MembraneOption = Annotated[
    str | None, typer.Option(help="Channel of whole cells (membrane, cytoplasm).", metavar="CHANNEL")
]
RgbOption = Annotated[
    bool, typer.Option("--rgb", help="Colour image: all three planes as they are; files that say so need it not.")
]
TimeOption = Annotated[int | None, typer.Option(help="Time point of a series, from 0.", min=0)]
ZOption = Annotated[int | None, typer.Option("--z", help="Plane of a stack, from 0.", min=0)]
SeriesOption = Annotated[str | None, typer.Option(help="Image of a file that holds several, by name or number from 0.")]
PixelSizeOption = Annotated[
    float | None, typer.Option(help="Side of a pixel, micrometres; default: what the file says.")
]
DiameterUmOption = Annotated[
    float | None,
    typer.Option(
        "--diameter-um",
        help="The same in micrometres, by the pixel size of each image: what its file says, or --pixel-size.",
        min=0.001,
    ),
]
BoxThresholdOption = Annotated[
    float | None,
    typer.Option(help=f"Base cut on box scores, in [0, 1]; up to 1.5 in adaptive mode; {FROM_MANIFEST}."),
]
NmsIouOption = Annotated[
    float | None,
    typer.Option(help=f"Drop boxes that overlap a better one by more than this IoU; 1 keeps all; {FROM_MANIFEST}."),
]
IouThresholdOption = Annotated[
    float | None, typer.Option(help=f"Least IoU estimate of a mask, about 0 to 1 but not clamped; {FROM_MANIFEST}.")
]
MaskThresholdOption = Annotated[
    float | None, typer.Option(help=f"Least probability of a mask's pixel, in (0, 1); {FROM_MANIFEST}.")
]
MinAreaOption = Annotated[
    int | None, typer.Option(help=f"Least area of a cell, pixels; 0 keeps all; {FROM_MANIFEST}.", min=0)
]

ClusterOption = Annotated[
    str | None,
    typer.Option(
        help="'local': worker processes here, each with a GPU of its own where the backend runs on GPUs; else the "
        "address of a Dask scheduler."
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        help="Processes of a local cluster; default: one a GPU where the backend runs on GPUs, else one a core. More "
        "than GPUs share them in turn.",
        min=1,
    ),
]
CudaGraphsOption = Annotated[
    bool, typer.Option("--cuda-graphs", help="cuda: replay CUDA graphs for sizes that come again; see the README.")
]
InvertOption = Annotated[
    bool, typer.Option("--invert", help="The cells are dark on a bright ground, and the model knows bright ones.")
]


def engine_spec(
    kind: type[Spec],
    engine: Path | None,
    where: ClusterOptions,
    *,
    backend: str,
    threads: int | None,
    cpu_precision: CpuPrecision,
    cuda_graphs: bool,
) -> Spec:
    """The engines that every process of a job loads. What ``auto`` stands for, each process of a cluster finds out.

    Raises:
        BackendError, EngineError: as ``resolve_backend``.
    """
    if where.remote and engine is not None:
        engine = Path(os.path.abspath(engine))
    options = BackendOptions(threads=threads, cpu_precision=cpu_precision, cuda_graphs=cuda_graphs)
    spec = kind(engine_dir=engine, backend=backend, options=options)
    return spec.here() if where.cluster is None else spec


def file_options(
    *, time: int | None, z: int | None, nuclear: str | None, membrane: str | None, pixel_size: float | None, **more: Any
) -> FileOptions:
    """What is read of a file, and written; ``more`` are fields of ``FileOptions``.

    Raises:
        ConfigError: as ``FileOptions``.
    """
    from runtime.files.formats import Plane
    from runtime.files.image_results import FileOptions

    plane = Plane(time=time, z=z, pages_are_channels=nuclear is not None or membrane is not None)
    return FileOptions(plane=plane, nuclear=nuclear, membrane=membrane, pixel_size_um=pixel_size, **more)


_OPTIONS = {
    "diameter_px": "--diameter",
    "diameter_um": "--diameter-um",
    "view_diameter_px": "--view-diameter",
    "min_area_px": "--min-area",
    "pixel_size_um": "--pixel-size",
    "tile_px": "--tile",
    "overlap_px": "--overlap",
    "box_threshold": "--box-threshold",
    "nms_iou": "--nms-iou",
    "iou_threshold": "--iou-threshold",
    "mask_threshold": "--mask-threshold",
    "min_contrast": "--min-contrast",
}
"""By the names of the settings that they set."""


def fail_of_usage(error: ConfigError) -> NoReturn:
    """Print an error about a setting, with the options in place of the settings' names, and leave with exit code 2."""
    said = re.sub(r"\b[a-z]+(_[a-z]+)+\b", lambda name: _OPTIONS.get(name[0], name[0]), str(error))
    fail(ConfigError(said), code=2)
