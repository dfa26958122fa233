"""Builds of TensorRT plans, with a test double of TensorRT."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import typer
from onnx import TensorProto, helper
from typer.testing import CliRunner

from export.commands.build import build_command
from export.errors import ExportError, VerificationError
from export.plans.build import build_plans
from export.plans.builder import BuildOptions
from export.plans.layers import check_half, read_layers
from runtime import BackendError, ConfigError, EngineError
from runtime.engines.backends.input_shapes import DECODER_IMAGES, profile_ranges
from runtime.engines.backends.plan_record import RECORD_NAME, read_record
from runtime.engines.manifest import read_manifest, sha256_file
from runtime.ops.boxes import token_window_sides
from runtime.pipeline.engine_calls import per_call
from tests.engine_sources import renew_sums
from tests.plans import FEW, copy_engines
from tests.tensorrt_double import Double, install
from tests.tensorrt_double.trt import plan_header


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Double:
    return install(monkeypatch, "10.3.0")


@pytest.fixture
def engines(small_engines: Path, tmp_path: Path) -> Path:
    return copy_engines(small_engines, tmp_path / "engines")


@pytest.fixture
def halves(half_engines: Path, tmp_path: Path) -> Path:
    return copy_engines(half_engines, tmp_path / "halves")


def left(directory: Path) -> list[str]:
    """List what a build left that looks like plans."""
    return sorted(
        str(path.relative_to(directory)) for path in directory.glob("tensorrt/**/*") if path.suffix != ".timing"
    )


@pytest.mark.parametrize("version", ["10.3.0", "11.1"])
def test_a_build_writes_plans_and_their_record(halves: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    double = install(monkeypatch, version)
    messages: list[str] = []
    place, built = build_plans(
        halves, BuildOptions(max_batch=3, max_boxes=20, workspace_mib=64), progress=messages.append
    )
    assert place.parent == halves / "tensorrt"
    assert place.name.startswith("NVIDIA-H100-80GB-HBM3+sm9.0+trt1")
    assert place.name.endswith("+cuda13+driver13.0+fp16")
    record = read_record(place)
    assert record == built
    manifest = read_manifest(halves)
    assert record.plans.keys() == manifest.engines.keys()
    for name, plan in record.plans.items():
        assert plan.sha256 == sha256_file(place / plan.file)
        assert plan.onnx_sha256 == manifest.engines[name].sha256
        assert plan.layers["half_share"] >= 0.8
        assert plan.layers["islands"]
        header = plan_header(place / plan.file)
        assert header["workspace"] == 64 << 20
        assert {k: tuple(map(tuple, v)) for k, v in header["profile"].items()} == dict(plan.ranges)
    assert {check["engine"] for check in record.verification} == set(manifest.engines)
    order = [call for call in double.calls if call in ("parse", "build", "deserialize")]
    assert order == ["parse", "build", "deserialize"] * 3
    assert any("of the layers in half precision" in line for line in messages)
    assert "encoder: Building Engine, 2 steps" in messages
    assert not any("Tactics" in line for line in messages), "inner phases are not reported"


def test_the_timing_cache_is_used_again(engines: Path, double: Double) -> None:
    build_plans(engines, FEW)
    first = next(engines.glob("tensorrt/*.timing")).read_bytes()
    build_plans(engines, FEW)
    assert double.caches[0] == b""
    assert first in double.caches
    next(engines.glob("tensorrt/*.timing")).write_bytes(b"a cache of something else")
    messages: list[str] = []
    build_plans(engines, FEW, progress=messages.append)
    assert "the timing cache belongs to another GPU or version: measuring again" in messages
    assert len(list(engines.glob("tensorrt/*/plans.json"))) == 1


def test_ranges_cover_what_the_runtime_sends(small_engines: Path) -> None:
    manifest = read_manifest(small_engines)
    ranges = profile_ranges(manifest.engines["mask_decoder"], manifest.grid_size, max_batch=2, max_boxes=40)
    sides = token_window_sides(manifest.grid_size)
    assert [shape[0] for shape in ranges["image_index"]] == [1, 40, 40]
    assert [shape[0] for shape in ranges["image_embedding"]] == [1, 2, DECODER_IMAGES]
    least, best, most = ranges["window_rows"]
    assert (least[1], most[1]) == (sides[0], sides[-1])
    assert best[1] in sides
    encoder = profile_ranges(manifest.engines["encoder"], manifest.grid_size, max_batch=2)
    assert [shape[0] for shape in encoder["pixel_values"]] == [1, 2, 2]


def test_plans_are_tuned_for_what_the_runtime_sends_by_default(small_engines: Path) -> None:
    manifest = read_manifest(small_engines)
    images, boxes = per_call("tensorrt", None, None)
    for most in ({}, {"max_batch": images + 3, "max_boxes": boxes + 36}):
        encoder = profile_ranges(manifest.engines["encoder"], manifest.grid_size, **most)
        assert encoder["pixel_values"][1][0] == images
        decoder = profile_ranges(manifest.engines["mask_decoder"], manifest.grid_size, **most)
        assert decoder["boxes_xyxy_model"][1][0] == boxes
        assert decoder["image_embedding"][1][0] == images


def test_all_parser_errors_are_reported_and_nothing_is_left(engines: Path, double: Double) -> None:
    double.parser_errors = ["no importer for Op", "axes must be an initializer"]
    with pytest.raises(ExportError, match=r"cannot parse (.|\n)*no importer for Op(.|\n)*axes must be an initializer"):
        build_plans(engines, FEW)
    assert left(engines) == []
    assert "build" not in double.calls


def test_a_failed_build_says_why_and_keeps_earlier_plans(engines: Path, double: Double) -> None:
    place, _ = build_plans(engines, FEW)
    before = left(engines), (place / RECORD_NAME).read_bytes()
    double.build_fails = True
    with pytest.raises(ExportError, match=r"cannot build .*encoder\.onnx: out of memory for tactic 7"):
        build_plans(engines, FEW)
    assert (left(engines), (place / RECORD_NAME).read_bytes()) == before


def test_what_a_killed_build_left_goes(engines: Path, double: Double) -> None:
    place, _ = build_plans(engines, FEW)
    before = sorted(path.name for path in place.parent.iterdir())
    place.with_name(f".{place.name}.4194303.partial").mkdir()
    place.with_name(f".{place.name}.timing.4194303.partial").write_bytes(b"half")
    build_plans(engines, FEW)
    assert sorted(path.name for path in place.parent.iterdir()) == before


def test_a_plan_in_float32_fails_the_gate(halves: Path, double: Double) -> None:
    double.all_float32 = True
    with pytest.raises(
        VerificationError, match=r"encoder: 0\.0% of the plan's layers .* The largest in float32:\n  node_"
    ):
        build_plans(halves, FEW)
    assert left(halves) == []


def test_float32_engines_have_no_such_gate(engines: Path, double: Double) -> None:
    record = build_plans(engines, FEW)[1]
    assert {plan.layers["half"] for plan in record.plans.values()} == {0}


def test_inexact_plans_fail_the_comparison(engines: Path, double: Double) -> None:
    double.noise = 0.05
    with pytest.raises(VerificationError, match=r"encoder\.image_embedding: FAILED, relative error 0\.05"):
        build_plans(engines, FEW)
    assert left(engines) == []


def test_without_a_gpu_or_tensorrt_nothing_is_made(engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, "10.3.0").gpu.count = 0
    with pytest.raises(BackendError, match="no NVIDIA GPU"):
        build_plans(engines, FEW)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendError, match="needs TensorRT"):
        build_plans(engines, FEW)
    assert not (engines / "tensorrt").exists()


def test_altered_engines_are_rejected(engines: Path, double: Double) -> None:
    (engines / "encoder.onnx").write_bytes(b"")
    with pytest.raises(EngineError, match="was altered"):
        build_plans(engines, FEW)


def test_a_build_is_for_the_device_that_is_asked_for(engines: Path, double: Double) -> None:
    double.gpu.count, double.gpu.others = 2, {1: ("NVIDIA RTX A6000", (8, 6))}
    place, record = build_plans(engines, replace(FEW, device=1))
    assert (record.key.gpu, record.key.sm) == ("NVIDIA RTX A6000", "8.6")
    assert plan_header(place / "encoder.plan")["sm"] == [8, 6]
    with pytest.raises(BackendError, match="device is 2"):
        build_plans(engines, replace(FEW, device=2))


@pytest.mark.parametrize(
    "wrong", [{"max_batch": 0}, {"max_boxes": 0}, {"device": -1}, {"optimization_level": 6}, {"workspace_mib": 0}]
)
def test_options_are_checked(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        BuildOptions(**wrong)


def layer(name: str, kind: str, *, dims: tuple[int, ...] = (2, 8), nodes: tuple[str, ...] = ()) -> dict[str, Any]:
    tensors = [{"Name": "t", "Dimensions": list(dims), "Format/Datatype": kind}]
    metadata = "\x1e".join(f"[ONNX Layer: {node}]" for node in nodes)
    return {"Name": name, "LayerType": "kgen", "Inputs": tensors, "Outputs": tensors, "Metadata": metadata}


def test_layers_are_distinguished() -> None:
    layers = [
        layer("products", "Half"),
        layer("vectorised", "Channel major FP16 format where channel % 4 == 0"),
        layer("norm", "Row major linear FP32", nodes=("norm",)),
        layer("fused", "Float", nodes=("norm", "product"), dims=(4, -1, 100)),
        layer("nameless", "Row major linear FP32"),
        layer("indices", "Int64"),
        layer("brain", "BFloat16"),
    ]
    read = read_layers(json.dumps({"Layers": layers}), {"norm"})
    assert read.half == 2
    assert [found.name for found in read.islands] == ["norm"]
    assert [found.name for found in read.float32] == ["fused", "nameless"], "the largest first"
    assert read.half_share == 0.5


@pytest.mark.parametrize("information", ['{"Layers": ["a", "b"]}', "{}", "no JSON", '{"Layers": []}'])
def test_layers_without_types_are_rejected(information: str) -> None:
    with pytest.raises(VerificationError):
        read_layers(information, ())


def test_files_typed_float32_fail_the_gate() -> None:
    read = read_layers(json.dumps({"Layers": [layer("a", "Half")]}), ())
    check_half("encoder", read, (8, 10))
    with pytest.raises(VerificationError, match="types 7 of 10 products half precision"):
        check_half("encoder", read, (7, 10))


@pytest.fixture
def build() -> Callable[..., Any]:
    app = typer.Typer()
    app.command()(build_command)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_command_builds(engines: Path, double: Double, build: Callable[..., Any]) -> None:
    done = build(engines, "--max-boxes", 16, "--max-batch", 1, "--optimization-level", 1)
    assert done.exit_code == 0, done.output
    place = Path(done.stdout.splitlines()[-1])
    assert plan_header(place / "encoder.plan")["level"] == 1
    assert read_record(place).options["max_boxes"] == 16
    double.build_fails = True
    failed = build(engines)
    assert failed.exit_code == 1
    assert build(engines, "--max-boxes", 0).exit_code == 2


def test_a_dry_run_needs_no_tensorrt(engines: Path, build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    done = build(engines, "--dry-run", "--max-boxes", 33)
    assert done.exit_code == 0, done.output
    assert "encoder.onnx: all operators in the ONNX parser's list of TensorRT 10.1" in done.stdout
    assert "  boxes_xyxy_model: least [1, 4], best [33, 4], most [33, 4]" in done.stdout
    assert not (engines / "tensorrt").exists()


def test_a_dry_run_rejects_what_the_parser_would(engines: Path, build: Callable[..., Any]) -> None:
    path = engines / "encoder.onnx"
    model = onnx.load(path)
    model.graph.node.append(helper.make_node("Cast", ["patch_features"], ["wide"], to=TensorProto.DOUBLE))
    model.graph.node.append(helper.make_node("Relu", ["wide"], ["positive"], name="wrong"))
    onnx.save(model, path)
    content = json.loads((engines / "manifest.json").read_text())
    content["engines"]["encoder"]["sha256"] = sha256_file(path)
    (engines / "manifest.json").write_text(json.dumps(content))
    renew_sums(engines)
    done = build(engines, "--dry-run")
    assert done.exit_code == 1
    assert "wide is DOUBLE" in " ".join(done.output.split())
