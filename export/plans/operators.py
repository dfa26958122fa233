"""Check whether TensorRT's ONNX parser accepts an engine's graph: operators, types, and no data-dependent shapes.

The list of operators and types is NVIDIA's for TensorRT 10.1 (``data/tensorrt_operators.json`` names the source). That
is older than 10.3, the oldest version that plans are built with.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

TYPES: dict[int, str] = {
    TensorProto.FLOAT: "FP32",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.BOOL: "BOOL",
}
"""Names of ONNX types in the list. Others are rejected, including DOUBLE, which TensorRT would round to FP32."""

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)

AVOIDED = {
    "If": "control flow keeps TensorRT from fusing across it",
    "Loop": "control flow keeps TensorRT from fusing across it",
    "Scan": "control flow keeps TensorRT from fusing across it",
    "NonZero": "its output's shape depends on data",
    "NonMaxSuppression": "its output's shape depends on data",
    "CumSum": "wrong results if several run on different axes (TensorRT 10.8, NVIDIA/TensorRT#4551)",
    "ScatterND": "its opset 18 form is right only from TensorRT 10.9 on (onnx/onnx-tensorrt#618)",
    "OneHot": "cannot be used to compute a shape",
    "GridSample": "wrong results in TensorRT 11.1 (NVIDIA/TensorRT#4813)",
}
"""Operators that the parser accepts but these graphs must avoid."""

CONSTANT_INPUTS = {
    "Pad": (3,),
    "ReduceMean": (1,),
    "ReduceMax": (1,),
    "ReduceSum": (1,),
    "Slice": (3,),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
}
"""Inputs, the axes, that must be initialisers, according to the list's column of restrictions."""

SHAPE_INPUTS = {
    "Reshape": (1,),
    "Expand": (1,),
    "Tile": (1,),
    "ConstantOfShape": (0,),
    "Range": (0, 1, 2),
    "Slice": (1, 2, 4),
    "Pad": (1,),
    "Split": (1,),
    "Resize": (2, 3),
    "TopK": (1,),
}
"""Inputs that determine an output's shape."""


def operator_table() -> dict[str, Any]:
    """Read the parser's list: ``source``, ``version``, ``opset`` (least, most) and ``operators`` (types by name)."""
    table: dict[str, Any] = json.loads((files("export") / "data" / "tensorrt_operators.json").read_text("utf-8"))
    return table


def find_problems(path: Path) -> list[str]:
    """List the parts of an ONNX file that TensorRT would reject; empty if it should accept all."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True)
    table = operator_table()
    problems = [f"{path.name}: {problem}" for problem in _of_model(model, table)]
    operators, types, shapes = table["operators"], tensor_types(model.graph), _static_shapes(model.graph)
    initializers = {tensor.name for tensor in model.graph.initializer}
    initializers |= {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    of_data = _of_data(model.graph)
    for node in model.graph.node:
        found = [
            *_of_operator(node, operators, types),
            *_of_inputs(node, initializers, of_data),
            *_of_squeeze(node, shapes),
        ]
        problems += [f"{path.name}: {node.op_type} {node.name}: {problem}" for problem in found]
    return problems


def _of_model(model: onnx.ModelProto, table: dict[str, Any]) -> Iterator[str]:
    least, most = table["opset"]
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx"):
            if not least <= opset.version <= most:
                yield f"opset {opset.version}; TensorRT {table['version']} parses {least} to {most}"
        elif any(node.domain == opset.domain for node in model.graph.node):
            yield (f"operators of {opset.domain}: a graph optimised for another runtime; build from the exported files")
    if model.functions:
        yield "local functions"


def _of_operator(node: onnx.NodeProto, operators: dict[str, str], types: dict[str, int]) -> Iterator[str]:
    if node.domain not in ("", "ai.onnx"):
        return  # reported once for the model
    if node.op_type not in operators:
        yield "not in the parser's list of operators"
        return
    if node.op_type in AVOIDED:
        yield AVOIDED[node.op_type]
    tensors = [name for name in (*node.input[:1], *node.output) if name]
    unknown = [name for name in tensors if name not in types]
    if unknown:
        yield f"the type of {', '.join(unknown)} is unknown"
        return
    # The list refers to the type of an operator's first input; the outputs of Cast and Shape have another type.
    listed = operators[node.op_type].split()
    for name in tensors[:1] if node.op_type == "Shape" else tensors:
        kind = TYPES.get(types[name])
        if kind not in listed:
            yield f"{name} is {kind or TensorProto.DataType.Name(types[name])}; the parser accepts {', '.join(listed)}"
    floats = {types[name] for name in node.input if types.get(name) in FLOATS}
    if len(floats) > 1:
        kinds = ", ".join(sorted(TYPES[kind] for kind in floats))
        yield f"inputs of several types, {kinds}, in a strongly typed network"


def _of_inputs(node: onnx.NodeProto, initializers: set[str], of_data: set[str]) -> Iterator[str]:
    for index in CONSTANT_INPUTS.get(node.op_type, ()):
        if index < len(node.input) and node.input[index] and node.input[index] not in initializers:
            yield f"input {index} ({node.input[index]}) is computed; the parser requires an initialiser"
    for index in SHAPE_INPUTS.get(node.op_type, ()):
        if index < len(node.input) and node.input[index] in of_data:
            yield f"its output's shape depends on data ({node.input[index]})"


def _of_squeeze(node: onnx.NodeProto, static: set[str]) -> Iterator[str]:
    if node.op_type == "Squeeze" and len(node.input) < 2 and node.input[0] not in static:
        yield "has no axes, and its input's shape varies"


def tensor_types(graph: onnx.GraphProto) -> dict[str, int]:
    """Return the element types (``TensorProto.DataType``) by tensor, as far as the graph declares them."""
    values = (*graph.value_info, *graph.input, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}


def _static_shapes(graph: onnx.GraphProto) -> set[str]:
    """Return the tensors with known sizes along all axes."""
    return {
        value.name
        for value in (*graph.value_info, *graph.input, *graph.output)
        if value.type.tensor_type.HasField("shape")
        and all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)
    }


def _of_data(graph: onnx.GraphProto) -> set[str]:
    """Return the tensors whose values depend on the values of the inputs, not only on their shapes."""
    found = {value.name for value in graph.input}
    for node in graph.node:
        if node.op_type not in ("Shape", "Size") and found.intersection(node.input):
            found.update(node.output)
    return found


def half_products(path: Path) -> tuple[int, int]:
    """Count the matrix products and convolutions of a graph that are typed half precision, and all of them."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False)).graph
    types = tensor_types(graph)
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm", "Conv", "ConvTranspose")]
    return sum(types.get(node.output[0]) == TensorProto.FLOAT16 for node in products), len(products)


def float32_nodes(path: Path) -> set[str]:
    """Return the names of the nodes that compute in float32: the islands of a half-precision export."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False)).graph
    types = tensor_types(graph)
    return {
        node.name
        for node in graph.node
        if any(types.get(name) == TensorProto.FLOAT for name in (*node.input, *node.output))
        and not (node.op_type != "Cast" and any(types.get(name) == TensorProto.FLOAT16 for name in node.output))
    }
