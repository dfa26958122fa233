"""8-bit copies of engines compute what their scales say; the command measures every way. No time is asserted."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks import int8
from benchmarks.int8 import WAYS
from benchmarks.quantised import constant_products, input_ranges, quantised
from runtime.manifest import check_files, read_manifest
from tests.small import SMALL

F32 = NDArray[np.float32]


def two_products(first: F32, second: F32) -> onnx.ModelProto:
    """x @ first, x @ second, and their product, which has no constant factor."""
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
    scale = np.abs(weight).max(axis=0) / 127.0
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


def test_zeros_stay_zeros() -> None:
    weight = np.zeros((6, 3), np.float32)
    model = two_products(weight, weight)
    for output in run(quantised(model, {"x": (0.0, 0.0)}), np.zeros((2, 6), np.float32)):
        np.testing.assert_array_equal(output, 0)


def test_only_products_with_constants_are_of_integers(small_engines: Path) -> None:
    model = onnx.load(small_engines / "encoder.onnx")
    assert len(constant_products(model)) == 4 * SMALL.encoder_depth  # in and out of attention and MLP
    ranges = {node.input[0]: (-1.0, 1.0) for node in constant_products(model)}
    kinds = [node.op_type for node in quantised(model, ranges).graph.node]
    unchanged = [kind for kind in kinds if kind not in ("QuantizeLinear", "DequantizeLinear")]
    assert unchanged == [node.op_type for node in model.graph.node]
    assert kinds.count("QuantizeLinear") == 4 * SMALL.encoder_depth


def test_the_command_measures_every_way(
    small_engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["int8", "--engines", str(small_engines), "--runs", "2", "--threads", "1", "--out", str(tmp_path)]
    )
    int8.main()
    (path,) = tmp_path.glob("int8-*px_*.json")
    assert capsys.readouterr().out.splitlines()[-1] == str(path)
    record = json.loads(path.read_text())
    assert [row["way"] for row in record["encoder"]] == list(WAYS)
    assert [row["backend"] for row in record["labels"]] == list(WAYS)[1:]
    assert record["products_in_integers"] == 4 * SMALL.encoder_depth
    assert record["encoder_mib"]["int8"] < record["encoder_mib"]["fp32"]
    for row in record["encoder"]:
        assert 0 < row["ms"]["p50"] <= row["ms"]["p99"]
        wanted = {"onnxruntime, fp32": 1e-9, "OpenVINO, fp32": 1e-3}.get(row["way"], 0.2)
        assert all(error < wanted for error in row["relative_error"].values()), row
        if WAYS[row["way"]].int8:
            assert all(error > 1e-4 for error in row["relative_error"].values()), "nothing was rounded"
    check_files(small_engines, read_manifest(small_engines))  # the engines themselves are as they were
    assert str(tmp_path) not in path.read_text(), "no paths of this machine"
