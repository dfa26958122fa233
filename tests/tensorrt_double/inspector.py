"""A double of TensorRT's engine inspector: one layer per ONNX node, in the words of 10.x or 11.x."""

from __future__ import annotations

import json
from typing import Any

import onnx
from onnx import TensorProto

WORDS = {
    TensorProto.FLOAT: ("Row major linear FP32", "Float"),
    TensorProto.FLOAT16: ("Row major linear FP16 format", "Half"),
    TensorProto.INT64: ("Row major linear Int64", "Int64"),
}


def engine_information(model: onnx.ModelProto, version: str, *, detailed: bool, all_float32: bool) -> str:
    """Return the JSON of ``get_engine_information``.

    Args:
        model: the model that the plan was built from.
        version: 10.3.0 or 11.1.
        detailed: whether the plan was built with ``ProfilingVerbosity.DETAILED``.
        all_float32: describe a plan that computes in float32 whatever the types in the file.
    """
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = {value.name: value for value in (*graph.value_info, *graph.input, *graph.output)}

    def tensor(name: str) -> dict[str, Any]:
        kind = values[name].type.tensor_type
        words = WORDS.get(kind.elem_type, ("N/A due to dynamic shapes", "Bool"))
        if all_float32 and kind.elem_type == TensorProto.FLOAT16:
            words = WORDS[TensorProto.FLOAT]
        dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim]
        described: dict[str, Any] = {"Name": name, "Location": "Device", "Dimensions": dims}
        if version.startswith("10."):
            return {**described, "Format/Datatype": words[0]}
        return {**described, "Format": "Row major linear", "DataType": words[1]}

    layers = [
        {
            "Name": f"{node.name}_myl0_{index}",
            "LayerType": "kgen",
            "Inputs": [tensor(name) for name in node.input if name in values],
            "Outputs": [tensor(name) for name in node.output if name in values],
            "TacticName": "none",
            "StreamId": 0,
            "Metadata": f"[ONNX Layer: {node.name}]",
        }
        for index, node in enumerate(graph.node)
    ]
    return json.dumps({"Layers": layers if detailed else [layer["Name"] for layer in layers]})
