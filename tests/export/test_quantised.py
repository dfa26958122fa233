"""Encoders in 8-bit integers: results of their graphs, checks of the export, and backends that run them."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from benchmarks.agreement import compare_cells
from export import exporter
from export.errors import ExportError, VerificationError
from export.exporter import ExportConfig, export_engines, verify_directory
from export.gates import GateCheck, HalfTolerance
from export.plans.build import check_buildable
from export.plans.builder import BuildOptions
from export.quantised import constant_products, encoder_inputs, input_ranges, quantise_encoders, quantised
from runtime import BackendError, ConfigError, InputError, SegmentConfig, Segmenter
from runtime.commands.app import app
from runtime.engines.backends import choice
from runtime.engines.backends.base import BACKENDS, ON_GPU, BackendOptions
from runtime.engines.backends.load import load_engine
from runtime.engines.builtin import builtin_engine, sample_images
from runtime.engines.engine_source import check_files
from runtime.engines.manifest import Manifest, read_manifest
from runtime.errors import EngineError
from runtime.files.plain import read_image
from runtime.ops.model_input import branch_inputs
from runtime.ops.preprocess import normalize_contrast
from runtime.types import F32
from tests.small import CALM, SMALL, calm_model
from training.checkpoint import save_checkpoint
from training.weights import weights_file


def two_products(first: F32, second: F32) -> onnx.ModelProto:
    """Build x @ first, x @ second, and their product, which has no constant factor."""
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["a"]),
        helper.make_node("MatMul", ["x", "second"], ["b"]),
        helper.make_node("Transpose", ["b"], ["c"]),
        helper.make_node("MatMul", ["a", "c"], ["d"]),
    ]
    shapes = {"a": ["rows", 3], "b": ["rows", 3], "d": ["rows", "rows"]}
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(
        nodes,
        "two products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", len(first)])],
        outputs,
        [numpy_helper.from_array(first, "first"), numpy_helper.from_array(second, "second")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model: onnx.ModelProto, x: F32) -> list[F32]:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs: list[F32] = session.run(None, {"x": x})
    return outputs


def rounded_input(x: F32, least: float, largest: float) -> NDArray[np.float64]:
    scale = (largest - least) / 255
    zero = round(-least / scale)
    return (np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale


def rounded_weight(weight: F32) -> NDArray[np.float64]:
    scale = np.abs(weight).max(axis=0) / 63.0
    return np.rint(weight / scale) * scale


def test_products_are_of_rounded_numbers() -> None:
    random = np.random.default_rng(0)
    first, second = (random.normal(size=(6, 3)).astype(np.float32) for _ in range(2))
    seen = random.normal(size=(2, 40, 6)).astype(np.float32)
    model = two_products(first, second)
    before = model.SerializeToString()
    ranges = input_ranges(model, ({"x": x} for x in seen))
    assert ranges == {"x": (seen.min(), seen.max())}, "over all runs"
    x = random.normal(size=(40, 6)).astype(np.float32) * 2  # some beyond the range
    found = run(quantised(model, ranges), x)
    assert model.SerializeToString() == before
    inputs = rounded_input(x, *ranges["x"])
    a, b = (inputs @ rounded_weight(weight) for weight in (first, second))
    for output, expected in zip(found, (a, b, a @ b.T), strict=True):
        np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-4)


def test_sums_of_two_products_fit_into_16_bits() -> None:
    """x86 processors without VNNI add two products of bytes in 16 bits, and clip them silently."""
    weight = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    graph = quantised(two_products(weight, weight), {"x": (-1.0, 1.0)}).graph
    integers = [numpy_helper.to_array(t) for t in graph.initializer if t.data_type == TensorProto.INT8 and t.dims[1:]]
    assert [np.abs(values).max() for values in integers] == [63, 63]
    assert 2 * 255 * 63 < 2**15


def test_zeros_stay_zeros() -> None:
    weight = np.zeros((6, 3), np.float32)
    model = two_products(weight, weight)
    for output in run(quantised(model, {"x": (0.0, 0.0)}), np.zeros((2, 6), np.float32)):
        np.testing.assert_array_equal(output, 0)


def test_only_products_with_constants_are_of_integers(small_engines: Path) -> None:
    model = onnx.load(small_engines / "encoder.onnx")
    assert len(constant_products(model)) == 4 * SMALL.encoder_depth  # two in the attention, two in the MLP
    ranges = {node.input[0]: (-1.0, 1.0) for node in constant_products(model)}
    kinds = [node.op_type for node in quantised(model, ranges).graph.node]
    unchanged = [kind for kind in kinds if kind not in ("QuantizeLinear", "DequantizeLinear")]
    assert unchanged == [node.op_type for node in model.graph.node]
    assert kinds.count("QuantizeLinear") == 4 * SMALL.encoder_depth


def test_the_encoder_alone_is_of_integers(integer_engines: Path) -> None:
    manifest = read_manifest(integer_engines)
    check_files(integer_engines, manifest)
    assert manifest.precision == "int8"
    assert {name for name, spec in manifest.engines.items() if spec.integers} == {"encoder"}
    for name, spec in manifest.engines.items():
        kinds = [node.op_type for node in onnx.load(integer_engines / spec.file).graph.node]
        assert ("QuantizeLinear" in kinds) == (name == "encoder")
    assert manifest.verification["calibration"] == "the package's sample images"


@pytest.fixture(scope="module")
def builtin_in_integers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("builtin") / "nano"
    export_engines(weights_file("nano"), out, ExportConfig(precision="int8", settings=read_config(builtin_engine())))
    return out


def read_config(directory: Path) -> SegmentConfig:
    return read_manifest(directory).config


@pytest.mark.parametrize("backend", ["cpu", "openvino"])
def test_cells_are_those_of_float32(builtin_in_integers: Path, backend: str) -> None:
    """Trained weights, including the detector, on an image that the export did not check."""
    image = next(read_image(path) for path in sample_images() if "u2os" in path.name)
    expected = Segmenter(backend="cpu")(image)
    found = Segmenter(builtin_in_integers, backend=backend)(image)
    compared = compare_cells([(expected.labels, found.labels)])
    assert len(expected) > 50
    assert compared["matched"] > 0.97
    assert compared["mean_iou"] > 0.97


def test_boxes_come_of_the_rounded_features(builtin_in_integers: Path) -> None:
    outputs = read_manifest(builtin_in_integers).verification["outputs"]
    (moved,) = (entry["value"] for entry in outputs if entry["output"] == "boxes_cxcywh_norm")
    assert moved > 0.01, "pixels of 1024: on PyTorch's features a float32 detector would be exact"


@pytest.mark.parametrize("backend", ["cpu", "openvino"])
def test_masks_come_of_the_rounded_features(integer_engines: Path, calm_checkpoint: Path, backend: str) -> None:
    checks = verify_directory(integer_engines, calm_checkpoint, backend=backend)
    assert all(isinstance(check, GateCheck) and check.passed for check in checks)
    errors = {(check.engine, check.output): check.value for check in checks if isinstance(check, GateCheck)}
    assert errors["encoder", "patch_features"] > 1e-4
    assert errors["mask_decoder", "iou_predictions"] > 1e-5, "in float32 on PyTorch's features it would be right"


def test_each_encoder_of_two_trunks_sees_its_own_input(tmp_path: Path, image: Any) -> None:
    save_checkpoint(tmp_path / "two.pt", calm_model(replace(CALM, trunk="separate")), licence="test weights")
    config = ExportConfig(precision="int8", profile="cellsam-1.2")
    manifest = export_engines(tmp_path / "two.pt", tmp_path / "out", config, calibration=[image, image[:200]])
    assert {name for name, spec in manifest.engines.items() if spec.integers} == {"encoder", "detector_encoder"}
    assert manifest.verification["calibration"] == "2 given images"
    mask, box = inputs_of(image, manifest)
    seen = encoder_inputs(tmp_path / "out", [image])
    np.testing.assert_array_equal(seen["encoder"], [mask])
    np.testing.assert_array_equal(seen["detector_encoder"], [box])


def test_one_trunk_sees_both_inputs(integer_engines: Path, tmp_path: Path, image: Any) -> None:
    directory = tmp_path / "engines"
    shutil.copytree(integer_engines, directory)
    manifest = replace(read_manifest(directory), profile="cellsam-1.2")
    manifest.write(directory)
    np.testing.assert_array_equal(encoder_inputs(directory, [image])["encoder"], inputs_of(image, manifest))


def inputs_of(image: Any, manifest: Manifest) -> tuple[F32, F32]:
    branches = branch_inputs(normalize_contrast(image), manifest)
    assert branches.box is not None
    return branches.mask[None], branches.box[None]


def test_ranges_are_of_the_views_of_the_runtime() -> None:
    """The built-in model sees an image first whole, then in tiles at the scale of the cells."""
    image = next(read_image(path) for path in sample_images() if "u2os" in path.name)
    inputs = encoder_inputs(builtin_engine(), [image])["encoder"]
    assert len(inputs) > 2
    assert {pixels.shape for pixels in inputs} == {(1, 3, 512, 512)}


def test_the_command_takes_images_to_calibrate_on(
    tmp_path: Path, calm_checkpoint: Path, integer_engines: Path, image: Any
) -> None:
    np.save(tmp_path / "dark.npy", (image // 8).astype(np.uint8)[:200, :200])
    command = ["export", "--checkpoint", str(calm_checkpoint), "--precision", "int8", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*command, "--calibrate", str(tmp_path / "dark.npy")])
    assert done.exit_code == 0, done.stderr
    assert read_manifest(tmp_path / "out").verification["calibration"] == "1 given images"
    ours, usual = ((path / "encoder.onnx").read_bytes() for path in (tmp_path / "out", integer_engines))
    assert ours != usual, "ranges are of the given image"


def test_only_float32_engines_are_quantised(half_engines: Path) -> None:
    with pytest.raises(ExportError, match="has engines in fp16; expected float32 to quantise"):
        quantise_encoders(half_engines, [np.zeros((9, 9))])


def test_a_manifest_that_contradicts_itself(integer_engines: Path, tmp_path: Path) -> None:
    content = json.loads((integer_engines / "manifest.json").read_text())
    for change in ({"precision": "fp32"}, {"integers": "yes"}):
        changed = json.loads(json.dumps(content)) | {k: v for k, v in change.items() if k == "precision"}
        changed["engines"]["encoder"] |= {k: v for k, v in change.items() if k == "integers"}
        (tmp_path / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(EngineError, match=r"engines\.encoder\.integers is"):
            read_manifest(tmp_path)


def test_a_failed_gate_leaves_nothing(calm_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "INTEGERS", HalfTolerance(relative_error=1e-9))
    with pytest.raises(
        VerificationError,
        match=r"(?s)encoder.patch_features: FAILED, relative error .* \(expected <= 1e-09.*you segment as calibration=",
    ):
        export_engines(calm_checkpoint, tmp_path / "out", ExportConfig(precision="int8"))
    assert not list(tmp_path.iterdir())


def test_options_that_exclude_each_other(tmp_path: Path, image: Any) -> None:
    with pytest.raises(ConfigError, match="calibration images came with precision 'fp16'; only int8"):
        export_engines(tmp_path / "w.pt", tmp_path / "out", ExportConfig(precision="fp16"), calibration=[image])
    with pytest.raises(ConfigError, match="precision is 'int8', for CPUs, but attention is 'fused'"):
        ExportConfig(precision="int8", attention="fused")
    with pytest.raises(ConfigError, match="precision is 'FP16'; expected one of 'fp32', 'fp16', 'int8'"):
        ExportConfig(precision="FP16")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="calibration image 2 "):
        export_engines(
            tmp_path / "w.pt",
            tmp_path / "out",
            ExportConfig(precision="int8"),
            calibration=[image, image[..., None, None]],
        )
    wrong = ["export", "--checkpoint", "nano", "--out", str(tmp_path / "out"), "--calibrate", str(sample_images()[0])]
    assert CliRunner().invoke(app, wrong).exit_code == 2, "calibration without int8"
    done = CliRunner().invoke(
        app, ["export", "--checkpoint", "nano", "--out", str(tmp_path / "out"), "--calibrate", str(tmp_path / "no.png")]
    )
    assert done.exit_code == 1
    assert "no.png" in done.stderr


@pytest.mark.parametrize("backend", ON_GPU)
def test_backends_of_gpus_reject_them(integer_engines: Path, backend: str) -> None:
    assert set(BACKENDS) == {*ON_GPU, "auto", "cpu", "openvino"}
    spec = read_manifest(integer_engines).engines["encoder"]
    with pytest.raises(BackendError, match=r"encoder.onnx computes in 8-bit integers.*--precision fp16"):
        load_engine(integer_engines / spec.file, spec, backend=backend, options=BackendOptions())


def test_plans_are_not_built_of_them(integer_engines: Path) -> None:
    with pytest.raises(ExportError, match=r"computes in 8-bit integers.*export --precision fp16"):
        list(check_buildable(integer_engines, BuildOptions()))


def test_auto_leaves_a_gpu_unused(integer_engines: Path, calm_engines: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "count_gpus", lambda: 1)
    monkeypatch.setattr(choice, "onnxruntime_providers", lambda: ("CUDAExecutionProvider",))
    assert choice.choose_backend(calm_engines).backend == "cuda"
    chosen = choice.choose_backend(integer_engines)
    assert chosen.backend in ("cpu", "openvino")
    assert "the GPU is not used: engines with 8-bit integers are for CPUs" in str(chosen)


def test_info_says_so(integer_engines: Path) -> None:
    done = CliRunner().invoke(app, ["info", str(integer_engines)])
    assert "8-bit integers" in done.stdout
    assert done.stdout.count("8-bit integers") == 1
