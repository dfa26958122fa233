"""Graphs that would crash a backend, or make it compute gigabytes from a few bytes at load, raise an error."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from runtime import EngineError
from runtime.engines.onnx_check import MAX_VALUES, check_graph
from runtime.engines.onnx_graph import MAX_NODES

PATH = Path("engines/encoder.onnx")


def model(nodes: Sequence[onnx.NodeProto], **constants: Any) -> onnx.ModelProto:
    """Make a model of nodes on an input ``x``, with the arrays as initialisers."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 4, 4]) for name in "xy")
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "graph", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def check(found: onnx.ModelProto | bytes) -> None:
    check_graph(found if isinstance(found, bytes) else found.SerializeToString(), PATH)


def check_rejected(found: onnx.ModelProto | bytes, message: str, kind: str = "unsupported") -> None:
    with pytest.raises(EngineError, match=message) as info:
        check(found)
    assert info.value.kind == kind
    assert "expected" in str(info.value)


def node(operator: str, inputs: Sequence[str], output: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, inputs, [output], **attributes)


KERNEL = np.ones((1, 1, 1, 1), np.float32)


@pytest.mark.parametrize("name", ["strides", "dilations", "kernel_shape"])
@pytest.mark.parametrize("value", [0, -1, 1 << 40])
def test_windows_that_do_not_move(name: str, value: int) -> None:
    """Strides of zero crash onnxruntime 1.24 with a division by zero."""
    check_rejected(
        model([node("Conv", ["x", "k"], **{name: [1, value]})], k=KERNEL),
        rf"Conv \('y'\) with {name} {value}; expected 1 to",
    )


@pytest.mark.parametrize(
    ("operator", "attributes", "message"),
    [
        ("Conv", {"pads": [0, 0, -1, 0]}, "pads -1; expected 0 to 256"),
        ("Conv", {"pads": [0, 0, 1 << 30, 0]}, "pads 1073741824"),
        ("Conv", {"group": 0}, "group 0"),
        ("Split", {"num_outputs": 0}, "num_outputs 0"),
        ("Split", {"num_outputs": 1 << 20}, "num_outputs 1048576"),
        ("Softmax", {"axis": -(1 << 62)}, "axis -4611686018427387904"),
        ("Transpose", {"perm": [0, -1]}, "perm -1"),
        ("Cast", {"to": TensorProto.STRING}, r"to 8; expected one of \[1, "),
    ],
)
def test_attributes_out_of_range(operator: str, attributes: dict[str, Any], message: str) -> None:
    check_rejected(model([node(operator, ["x"], **attributes)]), message)


def test_an_attribute_that_is_there_twice() -> None:
    """Parsers differ in which of the two they use."""
    convolution = node("Conv", ["x", "k"], strides=[1, 1])
    convolution.attribute.append(helper.make_attribute("strides", [0, 0]))
    check_rejected(model([convolution], k=KERNEL), "has the same attribute twice", "damaged")


def test_functions_and_subgraphs() -> None:
    """A chain of 3000 functions, each calling the previous one, overflows the stack of onnxruntime."""
    found = model([node("F2999", ["x"], domain="mine")])
    for number in range(3000):
        body = node(f"F{number - 1}" if number else "Relu", ["x"], domain="mine" if number else "")
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("mine", 1)]
        found.functions.append(helper.make_function("mine", f"F{number}", ["x"], ["y"], [body], opsets))
    check_rejected(found, "has local functions; expected a graph alone")
    branch = helper.make_graph([node("Relu", ["x"])], "branch", [], [helper.make_tensor_value_info("y", 1, None)])
    check_rejected(
        model([node("If", ["x"], then_branch=branch, else_branch=branch)]), "has subgraphs; expected one graph"
    )
    training = model([node("Relu", ["x"])])
    training.training_info.add().initialization.name = "init"
    check_rejected(training, "has training information")


def sparse(size: int) -> onnx.SparseTensorProto:
    values, indices = (numpy_helper.from_array(np.ones(1, kind), "w") for kind in (np.float32, np.int64))
    return helper.make_sparse_tensor(values, indices, [size])


def test_sparse_tensors() -> None:
    """12 bytes of values can declare any number of values."""
    found = model([node("Add", ["x", "w"])])
    found.graph.sparse_initializer.append(sparse(1 << 40))
    check_rejected(found, "has sparse tensors; expected dense ones")
    constant = node("Constant", [])
    constant.attribute.append(helper.make_attribute("sparse_value", sparse(1 << 40)))
    check_rejected(model([constant]), "has sparse tensors")


def raw(size: Sequence[int], content: bytes, item_type: int = TensorProto.FLOAT) -> TensorProto:
    return TensorProto(name="w", dims=size, data_type=item_type, raw_data=content)


@pytest.mark.parametrize(
    "tensor",
    [
        raw([1 << 30], b"\0" * 4),
        raw([1], b"\0" * 5),
        raw([-1], b""),
        raw([1] * 65, b"\0" * 4),
        TensorProto(name="w", dims=[9], data_type=TensorProto.FLOAT),
        TensorProto(name="w", dims=[9], data_type=TensorProto.FLOAT, float_data=[1.0]),
        TensorProto(name="w", dims=[9], data_type=TensorProto.INT64, int64_data=[1]),
        TensorProto(name="w", dims=[1], data_type=TensorProto.INT64, float_data=[1.0]),
    ],
)
def test_tensors_that_store_something_else_than_they_claim(tensor: TensorProto) -> None:
    found = model([node("Relu", ["x"])])
    found.graph.initializer.append(tensor)
    check_rejected(found, "is not an ONNX file .*tensor 'w'", "damaged")


def test_types_that_exports_do_not_have() -> None:
    found = model([node("Relu", ["x"])])
    found.graph.initializer.append(TensorProto(name="w", data_type=TensorProto.STRING, dims=[1], string_data=[b"a"]))
    check_rejected(found, r"tensor 'w' in the type 8; expected one of \[1, ")


def test_a_small_file_that_asks_for_582_mb() -> None:
    shape = numpy_helper.from_array(np.array([145_500_000]), "s")
    found = model([node("ConstantOfShape", ["s"])], s=[145_500_000])
    assert found.ByteSize() < 120
    check_rejected(
        found, f"ConstantOfShape .* makes 145,500,000 values from a constant; expected at most {MAX_VALUES:,}"
    )
    check_rejected(
        model([node("Constant", [], "s", value=shape), node("ConstantOfShape", ["s"])]), "makes 145,500,000 values"
    )


@pytest.mark.parametrize(
    ("operator", "inputs", "constants", "values"),
    [
        ("Expand", ["x", "s"], {"s": [1 << 20, 1 << 20]}, 1 << 40),
        ("Expand", ["w", "s"], {"w": np.zeros(1 << 10), "s": [1 << 20, 1]}, 1 << 30),
        ("Tile", ["w", "s"], {"w": np.zeros(1 << 10), "s": [1 << 20]}, 1 << 30),
        ("Range", ["a", "b", "c"], {"a": np.int64(0), "b": np.int64(1 << 40), "c": np.int64(1)}, (1 << 40) + 1),
        ("Range", ["a", "b", "c"], {"a": 0.0, "b": -1e9, "c": -0.5}, 2_000_000_001),
        ("Range", ["a", "b", "c"], {"a": 0.0, "b": 1e300, "c": 1e-300}, 10**18 + 1),
    ],
)
def test_outputs_whose_size_is_a_constant(
    operator: str, inputs: list[str], constants: dict[str, Any], values: int
) -> None:
    check_rejected(
        model([node(operator, inputs)], **constants), f"{operator} .* makes {values:,} values from a constant"
    )


def test_empty_tensors_with_large_dimensions() -> None:
    """They store no values, but become large if the empty dimension is summed over."""
    axis, empty = np.array([0]), np.zeros((0, 1 << 28), np.float32)
    summed = node("ReduceSum", ["w", "axis"])
    check_rejected(model([summed], w=empty, axis=axis), "computes from its constants more than twice")
    check_rejected(model([node("MatMul", ["w", "w"])], w=empty), "computes from its constants more than twice")
    wide = node("ConstantOfShape", ["s"], "w")
    check_rejected(model([wide, summed], s=[0, 1 << 40], axis=axis), f"makes {1 << 40:,} values")
    reshaped = node("Reshape", ["nothing", "s"], "w", allowzero=1)
    check_rejected(
        model([reshaped, summed], nothing=np.zeros(0), s=[0, 1 << 40], axis=axis), f"Reshape .* makes {1 << 40:,}"
    )
    check(model([node("Reshape", ["x", "s"])], s=[0, -1, 16]))
    check(model([node("Reshape", ["x", "s"])], s=[-1, 12, 4096, 4096]))  # attention of a whole image


@pytest.mark.parametrize(
    ("operator", "inputs", "constants", "message"),
    [
        ("Range", ["a", "b", "c"], {"a": 0.0, "b": 1.0, "c": 0.0}, "by 0.0; expected finite numbers, and a step"),
        ("Range", ["a", "b", "c"], {"a": 0.0, "b": float("nan"), "c": 1.0}, "to nan"),
        ("ConstantOfShape", ["s"], {"s": [3, -1]}, "with the size -1"),
    ],
)
def test_sizes_that_are_none(operator: str, inputs: list[str], constants: dict[str, Any], message: str) -> None:
    check_rejected(model([node(operator, inputs)], **constants), message)
    check_rejected(model([node("Tile", ["x", "s"])], s=[1.0]), "a list of up to 64 integers", "damaged")
    check_rejected(model([node("Tile", ["x", "s"])], s=np.ones(65, np.int64)), "up to 64 integers", "damaged")


def doubled(operator: str) -> onnx.ModelProto:
    """Make a chain of nodes that each double the number of values, or square it."""
    names = [f"w{number}" for number in range(60)]
    steps = [node(operator, [a, a], b, **({"axis": 0} if operator == "Concat" else {})) for a, b in pairwise(names)]
    return model(steps, w0=np.ones((4, 1), np.float32))


def many_transposes() -> onnx.ModelProto:
    return model(
        [node("Transpose", ["w"], f"y{number}") for number in range(9000)], w=np.ones((8, 1 << 10), np.float32)
    )


@pytest.mark.parametrize(
    "make", [lambda: doubled("Concat"), lambda: doubled("Mul"), lambda: doubled("MatMul"), many_transposes]
)
def test_constants_that_grow_step_by_step(make: Callable[[], onnx.ModelProto]) -> None:
    check_rejected(make(), "computes from its constants more than twice the values it stores")


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Conv", ["w", "w"])],
        [node("Concat", ["s", "s"], "long", axis=0), node("ConstantOfShape", ["long"])],
        [node("Shape", ["w"], "long"), node("Expand", ["w", "long"])],
        [node("MultiHeadAttention", ["w"], domain="com.microsoft", num_heads=1)],
    ],
)
def test_constants_whose_size_is_not_in_the_file(nodes: list[onnx.NodeProto]) -> None:
    check_rejected(model(nodes, w=KERNEL, s=[1 << 30]), "computes a constant with .*; expected its values in the file")


def test_what_exports_make_of_constants() -> None:
    nodes = [
        node("DequantizeLinear", ["w", "scale", "zero"], "weights"),
        node("Reshape", ["weights", "s"], "reshaped"),
        node("Transpose", ["reshaped"], "turned"),
        node("Shape", ["x"], "shape"),
        node("Concat", ["shape", "s"], "wanted", axis=0),
        node("Expand", ["turned", "wanted"]),
    ]
    scale, zero = np.float32(0.5), np.uint8(3)
    check(model(nodes, w=np.ones((8, 1 << 16), np.uint8), scale=scale, zero=zero, s=[1 << 16, 8]))


def test_names() -> None:
    check_rejected(model([node("Relu", ["z"])]), "takes 'z', which is not defined before it", "damaged")
    check_rejected(
        model([node("Relu", ["x"], "a"), node("Relu", ["x"], "a")]), "makes 'a', which exists already", "damaged"
    )
    twice = model([node("Relu", ["x"])], w=[1])
    twice.graph.initializer.append(twice.graph.initializer[0])
    check_rejected(twice, "two of its tensors have the same name", "damaged")


def test_the_number_of_nodes_is_bounded() -> None:
    check_rejected(model([node("Relu", ["x"], f"y{n}") for n in range(MAX_NODES + 1)]), "more than 20,000 nodes")


def test_tensors_are_not_read() -> None:
    """The time of the check does not depend on tensor sizes."""
    content = model([node("MatMul", ["x", "w"])], w=np.zeros(1 << 26, np.float32)).SerializeToString()
    start = time.process_time()
    check(content)
    assert time.process_time() - start < 0.05


@given(st.binary(max_size=200), st.integers(0, 1 << 30), st.integers(1, 64))
def test_bytes_put_in_anywhere(added: bytes, place: int, removed: int) -> None:
    content = bytearray(
        model(
            [node("Expand", ["w", "s"]), node("Range", ["a", "a", "a"], "z")], w=KERNEL, s=[1], a=1.0
        ).SerializeToString()
    )
    place %= len(content)
    content[place : place + removed] = added
    with suppress(EngineError):
        check(bytes(content))
