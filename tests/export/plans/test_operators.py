"""TensorRT's ONNX parser accepts all operators of exported graphs, and unsupported ones are detected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.plans.operators import find_problems, float32_nodes, half_products, operator_table
from runtime.engines.builtin import builtin_engine
from runtime.engines.manifest import read_manifest

FLOAT, HALF, INT64, DOUBLE = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.DOUBLE


def engine_files(directory: Path) -> list[Path]:
    return [directory / spec.file for spec in read_manifest(directory).engines.values()]


def test_exported_graphs_are_taken(small_engines: Path, half_engines: Path) -> None:
    for directory in (small_engines, half_engines, builtin_engine()):
        for path in engine_files(directory):
            assert find_problems(path) == []
            nodes = [node.name for node in onnx.load(path).graph.node]
            assert all(nodes), "the inspector identifies layers by the names of their nodes"
            assert len(set(nodes)) == len(nodes)


def test_exported_graphs_stay_on_a_gpu(small_engines: Path, half_engines: Path) -> None:
    """Exported graphs avoid operators that onnxruntime's CUDA provider lacks.

    Before 2026, these have no CUDA kernel at opset 20 (issues 26393 and 27729 of onnxruntime). They would run on the
    CPU, and copy their tensors there and back.
    """
    late = {"Pad", "ReduceMax", "ReduceMin", "ConstantOfShape"}
    for directory in (small_engines, half_engines, builtin_engine()):
        for path in engine_files(directory):
            assert not late & {node.op_type for node in onnx.load(path).graph.node}, path


def test_islands_of_half_precision_files(half_engines: Path) -> None:
    for path in engine_files(half_engines):
        half, products = half_products(path)
        assert half >= 0.8 * products
        islands = float32_nodes(path)
        graph = onnx.load(path).graph
        norms = {node.name for node in graph.node if node.op_type in ("LayerNormalization", "InstanceNormalization")}
        assert norms
        assert norms <= islands
        assert len(islands) < 0.5 * len(graph.node)


def test_the_table_names_its_source() -> None:
    table = operator_table()
    assert table["version"] == "10.1"
    assert table["source"].startswith("https://github.com/onnx/onnx-tensorrt/")
    assert table["operators"]["LayerNormalization"] == "FP32 FP16 BF16"
    assert len(table["operators"]) > 140


def saved(
    path: Path, nodes: list[Any], *, kind: int = FLOAT, weights: dict[str, Any] | None = None, opset: int = 20
) -> Path:
    """Build a model of some nodes from ``x`` (n, 4) to ``y``."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, ["n", 4])],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()],
    )
    domains = {node.domain for node in nodes if node.domain}
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    onnx.save(helper.make_model(graph, opset_imports=imports), path)
    return path


def node(op: str, inputs: list[str], output: str = "y", **attributes: Any) -> Any:
    return helper.make_node(op, inputs, [output], name=f"the_{op}", **attributes)


CASES = {
    "unknown operator": ([node("Det", ["x"])], {}, "Det the_Det: not in the parser's list"),
    "of another runtime": (
        [node("FusedMatMul", ["x", "x"], domain="com.microsoft")],
        {},
        "operators of com.microsoft: a graph optimised for another runtime",
    ),
    "two sums": ([node("CumSum", ["x", "a"])], {"weights": {"a": np.int64(0)}}, "CumSum the_CumSum: wrong results"),
    "shape of data": (
        [node("NonZero", ["x"])],
        {},
        "its output's shape depends on data",
    ),
    "reshaped by data": (
        [node("Cast", ["x"], "i", to=INT64), node("Reshape", ["x", "i"])],
        {},
        r"Reshape the_Reshape: its output's shape depends on data \(i\)",
    ),
    "double": ([node("Relu", ["x"])], {"kind": DOUBLE}, "x is DOUBLE; the parser accepts"),
    "integer product": (
        [node("MatMul", ["x", "w"])],
        {"kind": INT64, "weights": {"w": np.ones((4, 2), np.int64)}},
        "x is INT64",
    ),
    "computed axes": (
        [node("Shape", ["x"], "s"), node("ReduceMean", ["x", "s"])],
        {},
        r"ReduceMean the_ReduceMean: input 1 \(s\) is computed",
    ),
    "squeezed at will": ([node("Squeeze", ["x"])], {}, "has no axes, and its input's shape varies"),
    "old opset": ([node("Relu", ["x"])], {"opset": 8}, "opset 8; TensorRT 10.1 parses 9 to 20"),
    "new opset": ([node("Relu", ["x"])], {"opset": 21}, "opset 21"),
}


@pytest.mark.parametrize("case", CASES)
def test_unsupported_operators_are_found(case: str, tmp_path: Path) -> None:
    nodes, given, message = CASES[case]
    problems = find_problems(saved(tmp_path / "m.onnx", nodes, **given))
    assert problems, case
    import re

    assert any(re.search(message, problem) for problem in problems), problems


def test_mixed_types_are_found(tmp_path: Path) -> None:
    """The types are given, because onnx's own inference rejects the model."""
    path = saved(tmp_path / "m.onnx", [node("Add", ["x", "w"])], kind=HALF, weights={"w": np.ones(4, np.float32)})
    model = onnx.load(path)
    model.graph.output[0].type.tensor_type.elem_type = HALF
    onnx.save(model, path)
    assert any("inputs of several types, FP16, FP32" in problem for problem in find_problems(path))


def test_shapes_of_shapes_are_taken(tmp_path: Path) -> None:
    nodes = [node("Shape", ["x"], "s"), node("Expand", ["w", "s"], "e"), node("Add", ["x", "e"])]
    assert find_problems(saved(tmp_path / "m.onnx", nodes, weights={"w": np.ones((1, 4), np.float32)})) == []
