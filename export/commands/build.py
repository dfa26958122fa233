"""Command ``build`` of ``cellsam-engine``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from export.commands.export import FLAGS, IMAGE, read_given, say
from runtime.commands.console import fail
from runtime.engines.backends.input_shapes import BOXES_ON_GPU, IMAGES_ON_GPU
from runtime.engines.backends.plan_keys import PlanBackend
from runtime.engines.manifest import describe_check
from runtime.errors import ConfigError, SegmenterError


def build_command(
    directory: Annotated[Path, typer.Argument(help="Engine directory.", metavar="DIR")],
    backend: Annotated[
        PlanBackend,
        typer.Option(
            help="tensorrt: plans for this machine's GPU. tensorrt-rtx: plans for all RTX GPUs of the given compute "
            "capabilities, built on any machine.",
            metavar="NAME",
        ),
    ] = "tensorrt",
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
        str | None,
        typer.Option(
            help="GPUs that tensorrt-rtx builds for, some of 7.5, 8.0, 8.6, 8.9, 12.0 and 12.1, separated by commas "
            "(default: 8.6,8.9,12.0: the RTX 30, 40 and 50 series), or the one that --report compiles for (default: "
            "8.6).",
            metavar="LIST",
        ),
    ] = None,
) -> None:
    """Build TensorRT plans, checked against onnxruntime on the CPU.

    A plan of tensorrt only fits the type of GPU, the TensorRT version and the driver that it was built with. Build
    plans on the machine that runs them, and again after an update. A plan of tensorrt-rtx fits all GPUs of its compute
    capabilities, with the version of TensorRT for RTX that built it; it is compared with onnxruntime only if this
    machine has such a GPU. Plans are written to DIR/tensorrt/ or DIR/tensorrt-rtx/ beside the ONNX files; plans for
    other machines stay. They are built from the ONNX files that the other backends run.
    """
    from export.plans.build import build_plans, check_buildable
    from export.plans.build_rtx import WORKSTATIONS, build_rtx_plans
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
        rtx = backend == "tensorrt-rtx"
        if compute_capability is not None and not (rtx or report):
            raise ConfigError(
                "--compute-capability needs --backend tensorrt-rtx or --report; plans of tensorrt are for this GPU. "
                "Leave it out."
            )
        if dry_run:
            for line in check_buildable(directory, options, backend):
                typer.echo(line)
            if report:
                sizes = ReportOptions(capability=compute_capability or "8.6", images=max_batch, boxes=max_boxes)
                for line in report_table(list(report_engines(directory, sizes, say))):
                    typer.echo(line)
            return
        if rtx:
            capabilities = compute_capability.split(",") if compute_capability else WORKSTATIONS
            place, record = build_rtx_plans(
                directory, options, capabilities=capabilities, image=read_given(image), progress=say
            )
        else:
            place, record = build_plans(directory, options, image=read_given(image), progress=say)
    except ConfigError as error:
        fail(error, code=2, flags=FLAGS)
    except (SegmenterError, OSError) as error:
        fail(error, flags=FLAGS)
    for check in record.verification:
        say(describe_check(check))
    typer.echo(place)
