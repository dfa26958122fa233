"""The real parser and builder of TensorRT for RTX on real engines, without a GPU."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import typer
from onnx import TensorProto, helper
from typer.testing import CliRunner

from export.commands.build import build_command
from export.errors import ExportError, VerificationError
from export.exporter import ExportConfig, export_engines
from export.plans import report
from export.plans.build_rtx import build_rtx_plans
from export.plans.kernels import parse_layers, read_kernels
from export.plans.layers import LEAST_HALF_SHARE
from export.plans.report import EngineReport, ReportOptions, report_engines, report_table
from export.plans.rtx import CAPABILITIES, build_without_gpu
from runtime import ConfigError
from runtime.engines.builtin import builtin_engine
from runtime.engines.manifest import read_manifest
from training.weights import weights_file

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX has wheels for Linux and x86-64 alone")

MOST = {"encoder": (0.75, 71), "cellfinder": (0.51, 74), "mask_decoder": (0.61, 78)}
"""Limits for the half-precision engines of the built-in model: GB moved per call of 4 images or 64 boxes, and MB of
scratch memory. They are the values of TensorRT for RTX 1.7.1 plus 5 %. The form for CPUs moves 1.00, 0.67 and 0.58."""


@pytest.fixture(scope="module")
def nano_half(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export the built-in model in half precision, in the form for GPUs."""
    out = tmp_path_factory.mktemp("rtx") / "nano"
    export_engines(weights_file("nano"), out, ExportConfig(precision="fp16"))
    return out


@pytest.fixture(scope="module")
def halves(nano_half: Path) -> dict[str, EngineReport]:
    return {found.engine: found for found in report_engines(nano_half)}


def test_half_precision_is_the_form_for_gpus(nano_half: Path) -> None:
    assert read_manifest(nano_half).target == "gpu"
    assert read_manifest(builtin_engine()).target == "any", "written before there was a choice"


def test_every_attention_of_the_encoder_is_one_kernel(nano_half: Path, halves: dict[str, EngineReport]) -> None:
    depth = read_manifest(nano_half).model["encoder_depth"]
    assert halves["encoder"].fused_attentions == halves["encoder"].encoder_attentions == depth


def test_kernels_compute_in_half_precision(halves: dict[str, EngineReport]) -> None:
    assert {found.half_share >= LEAST_HALF_SHARE for found in halves.values()} == {True}


def test_memory_moved_and_needed_stays_low(halves: dict[str, EngineReport]) -> None:
    for name, (most_gb, most_mb) in MOST.items():
        assert halves[name].moved_bytes / 1e9 <= most_gb, name
        assert halves[name].scratch_bytes / 1e6 <= most_mb, name


@pytest.mark.parametrize("capability", ["8.0", "8.9", "12.0"])
def test_the_encoder_is_fused_for_other_gpus(nano_half: Path, capability: str) -> None:
    options = ReportOptions(capability=capability, images=1)
    found = report.report_engine(nano_half, read_manifest(nano_half), "encoder", options)
    assert found.fused_attentions == found.encoder_attentions


def test_the_built_in_engines_are_taken_in_float32() -> None:
    found = list(report_engines(builtin_engine(), ReportOptions(images=1, boxes=8)))
    assert [one.engine for one in found] == ["encoder", "cellfinder", "mask_decoder"]
    assert {one.half_share for one in found} == {0.0}


def test_an_attention_that_is_not_fused_fails(
    nano_half: Path, halves: dict[str, EngineReport], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = replace(halves["encoder"], fused_attentions=2)
    monkeypatch.setattr(report, "report_engine", lambda *_: found)
    with pytest.raises(VerificationError, match=r"encoder: 2 of \d attentions are one kernel"):
        list(report_engines(nano_half))


def test_parser_errors_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "wrong.onnx"
    node = helper.make_node("Det", ["x"], ["y"], name="wrong")
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [2, 3, 3]), ("y", [2]))
    )
    onnx.save(helper.make_model(helper.make_graph([node], "g", [x], [y])), path)
    with pytest.raises(ExportError, match=r"cannot parse .*wrong\.onnx:\n.*Det"):
        build_without_gpu(path, {"x": ((2, 3, 3),) * 3})


def test_other_gpus_are_rejected() -> None:
    with pytest.raises(ConfigError, match=r"compute_capability is '9\.0'; expected one of 7\.5, "):
        ReportOptions(capability="9.0")
    assert "8.6" in CAPABILITIES


def test_the_command_prints_the_table(nano_half: Path) -> None:
    app = typer.Typer()
    app.command()(build_command)
    done = CliRunner().invoke(app, [str(nano_half), "--dry-run", "--report", "--max-batch", "1", "--max-boxes", "8"])
    assert done.exit_code == 0, done.output
    table = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(table) == 5
    assert re.match(r"\| encoder \| 1 images \| \d+ \| (\d) of \1 \|", table[2])
    assert CliRunner().invoke(app, [str(nano_half), "--report"]).exit_code == 2
    wrong = CliRunner().invoke(app, [str(nano_half), "--dry-run", "--report", "--compute-capability", "9.0"])
    assert wrong.exit_code == 2


def test_the_table_has_a_row_for_each_engine(halves: dict[str, EngineReport]) -> None:
    assert len(report_table(list(halves.values()))) == 2 + len(halves)


FORMAT = "Format: (Linear) Row major linear format }"
LOGGED = "\n".join(
    (
        "Layers:",
        "Name: __myl_CastAdd_myl0_1, LayerType: kgen, Inputs: [ { Name: a, Dimensions: [2,4], Strides: [4,1], "
        f"StrideOrder: [1,0], Datatype: Half, {FORMAT}], "
        f"Constants: [ {{ Name: c, Dimensions: [], Datatype: Float, {FORMAT}], "
        f"Outputs: [ {{ Name: b, Dimensions: [2,4], Datatype: Float, {FORMAT}], "
        "TacticName: __myl_CastAdd, StreamId: 0, Metadata: [ONNX Layer: node_add]",
        "Name: _gemm_mha_v2_myl0_2, LayerType: kgen, Inputs: [], Constants: [], Outputs: [], StreamId: 0, Metadata: ",
        "Name: shapes, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], StreamId: 0, Metadata: ",
    )
)
"""Lines in the format that the builder logs."""


def test_bytes_are_those_of_all_tensors() -> None:
    layers = parse_layers(LOGGED)
    assert layers[0]["Metadata"] == "[ONNX Layer: node_add]"
    add, attention = read_kernels(layers)
    assert add.moved_bytes == 8 * 2 + 4 + 8 * 4
    assert (add.is_fused_attention, attention.is_fused_attention) == (False, True)


@pytest.mark.parametrize(
    ("module", "name"), [("tensorrt", "TensorRtEngine"), ("tensorrt_rtx", "RtxEngine")], ids=["tensorrt", "rtx"]
)
def test_without_a_driver_the_gpu_is_asked_for_before_a_plan_is_loaded(module: str, name: str) -> None:
    """Without a driver, loading a plan would end the process, so ``check_gpu`` must come first."""
    code = (
        "import tensorrt_rtx as real, sys; from pathlib import Path\n"
        f"real.__version__ = '11.0'; sys.modules['{module}'] = real\n"
        "from runtime.engines.backends.base import BackendOptions\n"
        f"from runtime.engines.backends.{module} import {name} as Engine\n"
        "from runtime.errors import BackendError\n"
        "def loading(*_): raise SystemExit('a plan was to be loaded')\n"
        "real.Runtime = loading\n"
        "try: Engine(Path(sys.argv[1]), BackendOptions())\n"
        "except BackendError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(builtin_engine() / "encoder.onnx")],
        env={"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "GPU" in done.stdout or "driver" in done.stdout


@pytest.fixture(scope="module")
def nano_fused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export the built-in model in half precision with onnxruntime's operator for attention."""
    out = tmp_path_factory.mktemp("rtx") / "fused"
    export_engines(weights_file("nano"), out, ExportConfig(precision="fp16", attention="fused"))
    return out


def test_the_real_builder_takes_fused_attention(nano_fused: Path) -> None:
    messages: list[str] = []
    place, record = build_rtx_plans(nano_fused, capabilities=["8.6", "12.0"], progress=messages.append)
    assert place.parent == nano_fused / "tensorrt-rtx"
    assert {plan.layers["half_share"] >= LEAST_HALF_SHARE for plan in record.plans.values()} == {True}
    assert record.verification == (), "there is no GPU to run them"
    assert all((place / plan.file).stat().st_size > 1e6 for plan in record.plans.values())
    with pytest.raises(ExportError, match="fused attention"):
        list(report_engines(nano_fused))
