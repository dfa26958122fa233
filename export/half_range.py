"""Check that float16 can hold the values of a half-precision engine: the largest magnitude of each float16 tensor.

onnxruntime has few float16 kernels for the CPU. It computes in float32 and drops adjacent casts, so a value beyond
float16's range stays finite there, but is infinite or NaN on a GPU. This check retypes the whole graph to float32,
where nothing overflows, and measures each tensor that was float16. It does not see sums inside a kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.errors import VerificationError
from export.plans.operators import tensor_types

LARGEST = 65504.0
"""The largest float16 number."""

CLOSE = 16384.0
"""A quarter of the range; images other than the measured one may exceed the range."""

_SHAPING = ("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Expand", "Tile", "Pad", "ConstantOfShape")
_CHOOSING = ("Constant", "Identity", "Slice", "Split", "Concat", "Gather", "GatherElements", "GatherND")
MOVES = frozenset((*_SHAPING, *_CHOOSING))
"""Operators that copy numbers from input to output. Cast is not one of them: to float16 it can overflow."""

NO_LARGER = frozenset(("Softmax", "Sigmoid", "Tanh", "Sin", "Cos", "Relu", "Neg", "Abs"))
"""Operators whose outputs are at most 1 in magnitude, or not larger than their inputs."""

NAMED = 8
"""Most nodes that a message names."""

_MEASURES = ("ReduceMax", "ReduceMin", "ReduceSum")
"""Reductions that, unlike Abs, do not copy the tensor. The sum detects NaN, which the other two may miss."""


@dataclass(frozen=True, slots=True)
class RangeCheck:
    """The largest magnitudes that one engine must hold in float16."""

    engine: str
    output: str
    """The node with the largest magnitude: its name, its operator and the nearest weights before it."""
    value: float
    nodes: Mapping[str, float]
    """Magnitude of each node with a float16 output, named as in ``output``, in the graph's order."""
    measure: str = "largest magnitude"
    limit: float = LARGEST

    @property
    def passed(self) -> bool:
        """Whether all magnitudes are within the range; NaN never is."""
        return not self._beyond(self.limit)

    @property
    def close(self) -> str:
        """A warning that names the nodes near the limit; empty if there are none."""
        close = self._beyond(CLOSE)
        if not close:
            return ""
        return (
            f"{self.engine} comes close to the limit of half precision ({self.limit:g}): {_named(close)}. "
            "Verify on more images, or export with precision='fp32'."
        )

    def __str__(self) -> str:
        if self.passed:
            return f"{self.engine}.{self.output}: ok, {self.measure} {self.value:.4g} (expected <= {self.limit:g})"
        return (
            f"{self.engine}: FAILED, exceeds the range of half precision ({self.limit:g}), so infinite or NaN on a "
            f"GPU: {_named(self._beyond(self.limit))}. Export with precision='fp32', or keep the modules in float32 "
            "(float32_parts of the graphs in export/graphs)."
        )

    def _beyond(self, limit: float) -> dict[str, float]:
        return {node: value for node, value in self.nodes.items() if not value <= limit}


def _named(nodes: Mapping[str, float]) -> str:
    shown = [f"{node} {value:.4g}" for node, value in list(nodes.items())[:NAMED]]
    more = len(nodes) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def check_range(engine: str, path: Path, runs: Iterable[Mapping[str, NDArray[Any]]]) -> RangeCheck:
    """Measure each float16 tensor of an engine in float32, on the CPU.

    Args:
        engine: name of the engine.
        path: its ONNX file.
        runs: inputs of each run, float32 in place of float16; the largest magnitude over all runs counts.

    Raises:
        VerificationError: the graph has no float16 tensor or one of unknown type, or onnxruntime cannot run it.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    probed = list(_half_outputs(model.graph, path.name))
    if not probed:
        raise VerificationError(
            f"{path.name} computes nothing in float16; expected half precision. Export it with precision='fp16'.",
            kind="unsupported",
            field="precision",
        )
    _retype(model)
    _add_probes(model.graph, [tensor for _, tensor in probed])
    session = _session(model, path.name)
    del model
    largest = np.zeros(len(probed))
    for feeds in runs:
        largest = np.maximum(largest, _measure(session, feeds, path.name))
    nodes = {label: float(value) for (label, _), value in zip(probed, largest, strict=True)}
    worst = max(nodes, key=lambda node: nodes[node] if nodes[node] == nodes[node] else np.inf)
    return RangeCheck(engine, worst, nodes[worst], nodes)


def _half_outputs(graph: onnx.GraphProto, file: str) -> Iterator[tuple[str, str]]:
    """Yield label and name of each float16 tensor that a node computes."""
    types = tensor_types(graph)
    weights = {tensor.name for tensor in graph.initializer}
    places: dict[str, tuple[int, str]] = {}
    for position, node in enumerate(graph.node):
        own = [(position, name.rpartition(".")[0]) for name in node.input if name in weights and "." in name]
        place = max((*own, *(places[name] for name in node.input if name in places)), default=(-1, ""))
        for index, tensor in enumerate(node.output):
            places[tensor] = place
            if tensor and tensor not in types:
                raise VerificationError(
                    f"{file}: the type of {tensor}, an output of {node.name}, is unknown; expected a typed graph. "
                    "Export the engines again."
                )
            if types.get(tensor) == TensorProto.FLOAT16 and node.op_type not in MOVES | NO_LARGER:
                name = (node.name or node.output[0]) + (f"[{index}]" if index else "")
                yield f"{name} ({', '.join(filter(None, (node.op_type, place[1])))})", tensor


def _retype(model: onnx.ModelProto) -> None:
    """Convert all float16 types to float32, in place."""
    graph = model.graph
    assert not model.functions, "the exporter inlines them"
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for tensor in graph.initializer:
        _widen(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            assert not attribute.HasField("g"), "the exporter writes no control flow"
            _widen(attribute.t)
            if attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT16:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))


def _add_probes(graph: onnx.GraphProto, tensors: list[str]) -> None:
    """Make scalars of the tensors the graph's only outputs: ``_MEASURES`` of each tensor, in order."""
    index = {tensor: i for i, tensor in enumerate(tensors)}
    nodes = []
    for node in graph.node:
        nodes.append(node)
        # Directly behind the node, so the tensor is measured and freed before the next one is computed.
        nodes += [
            helper.make_node(measure, [tensor], [_probe(measure, index[tensor])], keepdims=0)
            for tensor in node.output
            if tensor in index
            for measure in _MEASURES
        ]
    probes = [_probe(measure, i) for i in range(len(tensors)) for measure in _MEASURES]
    del graph.node[:], graph.output[:]
    graph.node.extend(nodes)
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, []) for name in probes)


def _probe(measure: str, index: int) -> str:
    return f"range/{measure}/{index}"


def _session(model: onnx.ModelProto, file: str) -> onnxruntime.InferenceSession:
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # measures the graph as is
    settings.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED  # keeps the file's order, see _add_probes
    settings.enable_cpu_mem_arena = settings.enable_mem_pattern = False
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own subclasses of Exception
        raise VerificationError(f"{file} cannot be loaded in float32 to measure its magnitudes: {error}") from error


def _measure(session: onnxruntime.InferenceSession, feeds: Mapping[str, NDArray[Any]], file: str) -> NDArray[Any]:
    """Return (N,) magnitudes of the probed tensors; NaN for tensors that contain NaN."""
    inputs = {node.name: feeds[node.name] for node in session.get_inputs()}
    try:
        found = np.array(session.run(None, inputs), np.float64).reshape(-1, len(_MEASURES))
    except Exception as error:
        raise VerificationError(f"{file} cannot be run in float32 to measure its magnitudes: {error}") from error
    most, least, total = found.T
    return np.where(np.isnan(total), np.nan, np.maximum(most, -least))
