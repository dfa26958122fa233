"""Report of the plans that TensorRT builds for an engine directory: kernels, fused attentions, memory.

The plans are compiled with TensorRT for RTX, without a GPU; see ``export.plans.rtx`` for the limits of this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from export.errors import VerificationError
from export.plans.build import read_buildable
from export.plans.layers import check_half, layer_types
from export.plans.operators import float32_nodes, half_products
from export.plans.rtx import build_without_gpu, check_capability
from runtime.config import check_whole
from runtime.engines.backends.input_shapes import BOXES_ON_GPU, IMAGES_ON_GPU
from runtime.engines.backends.plan_record import Shape
from runtime.engines.manifest import EngineFile, EngineName, Manifest, takes_boxes
from runtime.ops.boxes import token_window_sides

MEBI = 2**20


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportOptions:
    """Options of a report.

    Raises:
        ConfigError: a value is outside its range.
    """

    capability: str = "8.6"
    """Compute capability of the GPU."""
    images: int = IMAGES_ON_GPU
    """Images per call of encoder and detector."""
    boxes: int = BOXES_ON_GPU
    """Boxes per call of the mask decoder, all of one image, with windows of the second smallest size."""

    def __post_init__(self) -> None:
        check_capability(self.capability)
        check_whole("images", self.images, least=1)
        check_whole("boxes", self.boxes, least=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineReport:
    """Report of one engine's plan."""

    engine: EngineName
    kernels: int
    fused_attentions: int
    """Number of attentions that are one kernel each."""
    encoder_attentions: int | None
    """Number of attentions in the file, all of which should be fused; None for engines other than encoders."""
    half_share: float
    """Share of the kernels outside float32 islands that compute in half precision."""
    moved_bytes: int
    """Bytes that all kernels read and write in one call, each tensor counted whole."""
    per: str
    """Size of one call: ``4 images`` or ``64 boxes``."""
    scratch_bytes: int
    plan_bytes: int
    build_s: float


def report_engines(
    directory: str | Path, options: ReportOptions | None = None, progress: Callable[[str], None] = lambda message: None
) -> Iterator[EngineReport]:
    """Compile each engine of a directory and report on its plan.

    Args:
        directory: the engine directory.
        options: GPU and sizes of a call.
        progress: called with one line before each build.

    Raises:
        EngineError: the directory is damaged.
        ExportError: TensorRT for RTX is missing, or TensorRT would reject a graph.
        VerificationError: too few kernels of a half-precision engine compute in half precision, or an encoder in the
            form for GPUs has an attention that is not fused.
    """
    options = options or ReportOptions()
    directory = Path(directory)
    manifest = read_buildable(directory)
    for name, spec in manifest.engines.items():
        progress(f"compiling {spec.file} for compute capability {options.capability}")
        report = report_engine(directory, manifest, name, options)
        yield report
        if manifest.precision == "fp16" and manifest.target == "gpu":
            _check_fused(report)


def report_engine(directory: Path, manifest: Manifest, name: EngineName, options: ReportOptions) -> EngineReport:
    """Report on one engine, as ``report_engines`` does, but accept attentions that are not fused."""
    spec = manifest.engines[name]
    path = directory / spec.file
    shapes = call_shapes(spec, manifest.grid_size, options)
    built = build_without_gpu(path, {name: (shape,) * 3 for name, shape in shapes.items()}, [options.capability])
    types = layer_types(built.layers, float32_nodes(path))
    if manifest.precision == "fp16":
        check_half(name, types, half_products(path))
    boxes = takes_boxes(spec.inputs)
    return EngineReport(
        engine=name,
        kernels=len(built.kernels),
        fused_attentions=sum(kernel.is_fused_attention for kernel in built.kernels),
        encoder_attentions=_count_softmax(path) if name in ("encoder", "detector_encoder") else None,
        half_share=round(types.half_share, 4),
        moved_bytes=sum(kernel.moved_bytes for kernel in built.kernels),
        per=f"{options.boxes} boxes" if boxes else f"{options.images} images",
        scratch_bytes=built.scratch_bytes,
        plan_bytes=len(built.content),
        build_s=round(built.build_s, 1),
    )


def call_shapes(spec: EngineFile, grid_size: int, options: ReportOptions) -> dict[str, Shape]:
    """Return the input shapes of one engine for one call."""
    window = token_window_sides(grid_size)[:2][-1]
    sizes = {
        "batch": 1 if takes_boxes(spec.inputs) else options.images,
        "boxes": options.boxes,
        "window_height": window,
        "window_width": window,
    }
    return {t.name: tuple(dim if isinstance(dim, int) else sizes[dim] for dim in t.shape) for t in spec.inputs}


def report_table(reports: Sequence[EngineReport]) -> list[str]:
    """Format the reports as rows of a Markdown table."""
    lines = [
        "| engine | one call | kernels | fused attentions | half precision | moved, GB | scratch, MiB | plan, MiB |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for report in reports:
        of = "" if report.encoder_attentions is None else f" of {report.encoder_attentions}"
        lines.append(
            f"| {report.engine} | {report.per} | {report.kernels} | {report.fused_attentions}{of} | "
            f"{report.half_share:.0%} | {report.moved_bytes / 1e9:.2f} | {report.scratch_bytes / MEBI:.0f} | "
            f"{report.plan_bytes / MEBI:.1f} |"
        )
    return lines


def _check_fused(report: EngineReport) -> None:
    if report.encoder_attentions is not None and report.fused_attentions < report.encoder_attentions:
        raise VerificationError(
            f"{report.engine}: {report.fused_attentions} of {report.encoder_attentions} attentions are one kernel; "
            "expected all of them for half precision and target gpu."
        )


def _count_softmax(path: Path) -> int:
    graph = onnx.load(path, load_external_data=False).graph
    return sum(node.op_type == "Softmax" for node in graph.node)
