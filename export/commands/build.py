"""Command ``build`` of ``cellsam-engine``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from export.commands.export import FLAGS, IMAGE, read_given, say
from runtime.commands.console import fail
from runtime.engines.backends.input_shapes import BOXES_ON_GPU, IMAGES_ON_GPU
from runtime.engines.manifest import describe_check
from runtime.errors import ConfigError, SegmenterError


def build_command(
    directory: Annotated[Path, typer.Argument(help="Engine directory.", metavar="DIR")],
    max_batch: Annotated[
        int, typer.Option(help="Most images per call of the encoder and the detector; bounds their memory.")
    ] = IMAGES_ON_GPU,
    max_boxes: Annotated[int, typer.Option(help="Most boxes per call of the mask decoder.")] = BOXES_ON_GPU,
    optimization_level: Annotated[
        int, typer.Option(help="Effort of TensorRT's search for fast kernels, 0 to 5; TensorRT's own default is 3.")
    ] = 3,
    workspace: Annotated[
        int | None, typer.Option(help="Memory that a kernel may use while it runs, MiB; default: all available.")
    ] = None,
    device: Annotated[int, typer.Option(help="Number of the GPU, from 0.")] = 0,
    image: Annotated[Path | None, IMAGE] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check the graphs' operators and show the shapes; needs neither TensorRT nor a GPU."
        ),
    ] = False,
    report: Annotated[
        bool,
        typer.Option(
            "--report",
            help="With --dry-run: compile plans with TensorRT for RTX, which needs no GPU, and show their kernels, "
            "fused attentions and memory.",
        ),
    ] = False,
    compute_capability: Annotated[
        str, typer.Option(help="GPUs that --report compiles for: 7.5, 8.0, 8.6, 8.9, 12.0 or 12.1.")
    ] = "8.6",
) -> None:
    """Build TensorRT plans for this machine's GPU, checked against onnxruntime on the CPU.

    A plan only fits the type of GPU, the TensorRT version and the driver that it was built with. Build plans on the
    machine that runs them, and again after an update. They are written to DIR/tensorrt/ beside the ONNX files; plans
    for other machines stay. They are built from the ONNX files that the other backends run.
    """
    from export.plans.build import build_plans, check_buildable
    from export.plans.builder import BuildOptions
    from export.plans.report import ReportOptions, report_engines, report_table

    try:
        options = BuildOptions(
            max_batch=max_batch,
            max_boxes=max_boxes,
            optimization_level=optimization_level,
            workspace_mib=workspace,
            device=device,
        )
        if report and not dry_run:
            raise ConfigError("--report does not keep the plans that it builds; expected --dry-run. Add --dry-run.")
        if dry_run:
            for line in check_buildable(directory, options):
                typer.echo(line)
            if report:
                sizes = ReportOptions(capability=compute_capability, images=max_batch, boxes=max_boxes)
                for line in report_table(list(report_engines(directory, sizes, say))):
                    typer.echo(line)
            return
        place, record = build_plans(directory, options, image=read_given(image), progress=say)
    except ConfigError as error:
        fail(error, code=2, flags=FLAGS)
    except (SegmenterError, OSError) as error:
        fail(error, flags=FLAGS)
    for check in record.verification:
        say(describe_check(check))
    typer.echo(place)
