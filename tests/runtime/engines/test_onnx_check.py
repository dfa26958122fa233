"""Graphs that lead outside their file, or have what no export has, are refused before a backend sees them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from runtime import BackendOptions, EngineError
from runtime.engines.backends.ort import OrtEngine
from runtime.engines.builtin import builtin_engine
from runtime.engines.onnx_check import MAX_DEPTH, check_graph
from tests.engine_sources import source_of

PATH = Path("engines/encoder.onnx")


def external(location: str = "weights.bin") -> TensorProto:
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "weights")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def graph(nodes: list[onnx.NodeProto], initializers: list[TensorProto] | None = None) -> onnx.GraphProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    return helper.make_graph(nodes, "graph", [x], [y], initializers or [])


def model(*nodes: onnx.NodeProto, initializers: list[TensorProto] | None = None) -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph(list(nodes), initializers), opset_imports=opsets, ir_version=8)


def in_constant() -> onnx.ModelProto:
    return model(helper.make_node("Constant", [], ["y"], value=external()))


def in_subgraph() -> onnx.ModelProto:
    branch = graph([helper.make_node("Add", ["x", "weights"], ["y"])], [external()])
    return model(helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch))


def in_function() -> onnx.ModelProto:
    found = model(helper.make_node("Identity", ["x"], ["y"]))
    constant = helper.make_node("Constant", [], ["y"], value=external())
    found.functions.append(helper.make_function("", "Mine", ["x"], ["y"], [constant], [helper.make_opsetid("", 17)]))
    return found


def in_sparse_initializer() -> onnx.ModelProto:
    found = model(helper.make_node("Add", ["x", "weights"], ["y"]))
    indices = numpy_helper.from_array(np.arange(4), "indices")
    found.graph.sparse_initializer.append(helper.make_sparse_tensor(external(), indices, [4]))
    return found


def by_entries_alone() -> onnx.ModelProto:
    tensor = external()
    tensor.ClearField("data_location")
    return model(helper.make_node("Add", ["x", "weights"], ["y"]), initializers=[tensor])


def in_training_graph() -> onnx.ModelProto:
    found = model(helper.make_node("Identity", ["x"], ["y"]))
    found.training_info.add().initialization.initializer.append(external())
    return found


@pytest.mark.parametrize(
    "make", [in_constant, in_subgraph, in_function, in_sparse_initializer, by_entries_alone, in_training_graph]
)
def test_external_data_is_refused_wherever_it_is(make: Callable[[], onnx.ModelProto]) -> None:
    with pytest.raises(EngineError, match=r"'weights' in another file \(external data\).*expected.*Export") as info:
        check_graph(make().SerializeToString(), PATH)
    assert info.value.kind == "unsupported"


def test_onnxruntime_is_not_given_a_file_with_external_data(tmp_path: Path) -> None:
    """onnxruntime alone loads it, and whoever changes the other file changes the result."""
    (tmp_path / "weights.bin").write_bytes(np.ones(4, np.float32).tobytes())
    path = tmp_path / "encoder.onnx"
    onnx.save(model(helper.make_node("Add", ["x", "weights"], ["y"]), initializers=[external()]), path)
    with pytest.raises(EngineError, match="external data"):
        OrtEngine(source_of(path), BackendOptions())


@pytest.mark.parametrize(
    ("domain", "operator"), [("com.microsoft", "EPContext"), ("mine", "Add"), ("com.microsoft.nchwc", "Conv")]
)
def test_operators_that_no_export_has_are_refused(domain: str, operator: str) -> None:
    with pytest.raises(EngineError, match=rf"operator '{operator}' of the domain '{domain}'; expected") as info:
        check_graph(model(helper.make_node(operator, ["x"], ["y"], domain=domain)).SerializeToString(), PATH)
    assert info.value.kind == "unsupported"


def test_exports_pass() -> None:
    for path in builtin_engine().glob("*.onnx"):
        check_graph(path.read_bytes(), path)
    fused = helper.make_node("MultiHeadAttention", ["x"], ["y"], domain="com.microsoft", num_heads=2)
    check_graph(model(fused, helper.make_node("Relu", ["x"], ["y"], domain="ai.onnx")).SerializeToString(), PATH)


def nested(levels: int) -> bytes:
    """A node within a graph within a node, and so on, by hand: protobuf itself writes no more than 100 levels."""
    inner = b""
    for _ in range(levels):
        for tag in (0x32, 0x2A, 0x0A):  # graph of an attribute of a node of a graph
            inner = bytes([tag]) + length(inner) + inner
    return bytes([0x3A]) + length(inner) + inner


def length(data: bytes) -> bytes:
    size, found = len(data), b""
    while size >= 0x80:
        found, size = found + bytes([size & 0x7F | 0x80]), size >> 7
    return found + bytes([size])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a model", "wire type"),
        (b"", "no graph"),
        (b"\x3a", "cut off"),
        (b"\x3a\x05", "cut off"),
        (b"\x08" + b"\xff" * 10, "more than 10 bytes"),
        (b"\x00\x00", "a tag of 0"),
        (b"\xba\xff\xff\xff\xff\x01\x00", "a tag of"),
        (b"\x32\x80\x80\x01ORTM", "onnxruntime's own format"),
        (nested(MAX_DEPTH), f"more than {MAX_DEPTH} messages"),
    ],
)
def test_files_that_are_not_onnx(content: bytes, message: str) -> None:
    with pytest.raises(EngineError, match=f"is not an ONNX file .*{message}.*expected.*Export") as info:
        check_graph(content, PATH)
    assert info.value.kind == "damaged"


def test_the_number_of_fields_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.engines.onnx_check.MAX_FIELDS", 1000)
    many = b"\x08\x01" * 1001
    with pytest.raises(EngineError, match="more than 1,000 fields"):
        check_graph(many, PATH)


def test_random_bytes_raise_nothing_else() -> None:
    whole = (builtin_engine() / "mask_decoder.onnx").read_bytes()[:4000]
    rng = np.random.default_rng(0)
    for content in [rng.bytes(50) for _ in range(200)] + [whole[: rng.integers(4000)] for _ in range(50)]:
        with pytest.raises(EngineError):
            check_graph(content, PATH)
