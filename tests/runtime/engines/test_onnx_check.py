"""Graphs that refer to other files, or have content that no export writes, raise before a backend loads them."""

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
from runtime.engines.onnx_check import check_graph
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


def by_entries_alone() -> onnx.ModelProto:
    tensor = external()
    tensor.ClearField("data_location")
    return model(helper.make_node("Add", ["x", "weights"], ["y"]), initializers=[tensor])


@pytest.mark.parametrize("make", [in_constant, by_entries_alone])
def test_external_data_is_rejected(make: Callable[[], onnx.ModelProto]) -> None:
    with pytest.raises(EngineError, match=r"'weights' in another file \(external data\).*expected.*Export") as info:
        check_graph(make().SerializeToString(), PATH)
    assert info.value.kind == "unsupported"


def test_onnxruntime_is_not_given_a_file_with_external_data(tmp_path: Path) -> None:
    """onnxruntime itself would load the file, and a change of the other file would change the result."""
    (tmp_path / "weights.bin").write_bytes(np.ones(4, np.float32).tobytes())
    path = tmp_path / "encoder.onnx"
    onnx.save(model(helper.make_node("Add", ["x", "weights"], ["y"]), initializers=[external()]), path)
    with pytest.raises(EngineError, match="external data"):
        OrtEngine(source_of(path), BackendOptions())


@pytest.mark.parametrize(
    ("domain", "operator"),
    [("com.microsoft", "EPContext"), ("mine", "Add"), ("com.microsoft.nchwc", "Conv"), ("", "Loop"), ("", "Det")],
)
def test_operators_that_no_export_has_are_rejected(domain: str, operator: str) -> None:
    with pytest.raises(EngineError, match=rf"operator '{operator}' of the domain '{domain}'; expected") as info:
        check_graph(model(helper.make_node(operator, ["x"], ["y"], domain=domain)).SerializeToString(), PATH)
    assert info.value.kind == "unsupported"


def test_exports_pass() -> None:
    for path in builtin_engine().glob("*.onnx"):
        check_graph(path.read_bytes(), path)
    fused = helper.make_node("MultiHeadAttention", ["x"], ["y"], domain="com.microsoft", num_heads=2)
    check_graph(model(fused, helper.make_node("Relu", ["y"], ["z"], domain="ai.onnx")).SerializeToString(), PATH)


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
        (b"\x3a\x02\x0a\x00\x3a\x00", "field 7 appears twice"),
        (b"\x3a\x04\x0a\x02\x08\x01", "a number in place of"),
    ],
)
def test_files_that_are_not_onnx(content: bytes, message: str) -> None:
    with pytest.raises(EngineError, match=f"is not an ONNX file .*{message}.*expected.*Export") as info:
        check_graph(content, PATH)
    assert info.value.kind == "damaged"


def test_the_number_of_fields_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.engines.onnx_graph.MAX_FIELDS", 1000)
    many = b"\x08\x01" * 1001
    with pytest.raises(EngineError, match="more than 1,000 fields"):
        check_graph(many, PATH)


def test_random_bytes_raise_nothing_else() -> None:
    whole = (builtin_engine() / "mask_decoder.onnx").read_bytes()[:4000]
    rng = np.random.default_rng(0)
    for content in [rng.bytes(50) for _ in range(200)] + [whole[: rng.integers(4000)] for _ in range(50)]:
        with pytest.raises(EngineError):
            check_graph(content, PATH)
