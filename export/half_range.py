"""Whether float16 can hold what a half-precision engine computes: the largest magnitude of every tensor typed so.

onnxruntime has few float16 kernels for the CPU: it computes in float32 and drops casts that stand back to back, so that
a value beyond float16's range stays finite there, and is infinite or NaN on a GPU. Here the whole graph is retyped to
float32, which nothing overflows, and every tensor that was float16 is measured. Sums inside a kernel are not seen.
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
"""The largest number of float16."""

CLOSE = 16384.0
"""A quarter of the range: an image unlike the one measured on may be beyond it."""

_SHAPING = ("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Expand", "Tile", "Pad", "ConstantOfShape")
_CHOOSING = ("Constant", "Identity", "Slice", "Split", "Concat", "Gather", "GatherElements", "GatherND")
MOVES = frozenset((*_SHAPING, *_CHOOSING))
"""Operators whose outputs are their inputs' numbers. Not Cast: to float16 it can overflow."""

NO_LARGER = frozenset(("Softmax", "Sigmoid", "Tanh", "Sin", "Cos", "Relu", "Neg", "Abs"))
"""Operators whose outputs are at most 1 or no larger than their inputs."""

NAMED = 8
"""Nodes that a message names."""

_MEASURES = ("ReduceMax", "ReduceMin", "ReduceSum")
"""Without a copy of the tensor, as Abs would make. The sum finds NaN, which the other two may pass over."""


@dataclass(frozen=True, slots=True)
class RangeCheck:
    """The largest magnitudes that one engine would have to hold in float16."""

    engine: str
    output: str
    """The node of the largest: its name, operator and the nearest weights before it."""
    value: float
    nodes: Mapping[str, float]
    """Magnitude of every node with a float16 output, named as ``output`` is, in the graph's order."""
    measure: str = "largest magnitude"
    limit: float = LARGEST

    @property
    def passed(self) -> bool:
        """NaN never passes."""
        return not self._beyond(self.limit)

    @property
    def close(self) -> str:
        """What nears the limit, in words; empty if nothing does."""
        close = self._beyond(CLOSE)
        if not close:
            return ""
        return (
            f"{self.engine} comes near the range of half precision ({self.limit:g}): {_named(close)}. "
            "Verify on more images, or export with precision='fp32'."
        )

    def __str__(self) -> str:
        if self.passed:
            return f"{self.engine}.{self.output}: ok, {self.measure} {self.value:.4g} (wanted <= {self.limit:g})"
        return (
            f"{self.engine}: FAILED, beyond the range of half precision ({self.limit:g}), so infinite or NaN on a GPU: "
            f"{_named(self._beyond(self.limit))}. Export with precision='fp32', or keep the modules in float32 "
            "(float32_parts of the graphs in export/graphs)."
        )

    def _beyond(self, limit: float) -> dict[str, float]:
        return {node: value for node, value in self.nodes.items() if not value <= limit}


def _named(nodes: Mapping[str, float]) -> str:
    shown = [f"{node} {value:.4g}" for node, value in list(nodes.items())[:NAMED]]
    more = len(nodes) - len(shown)
    return "; ".join(shown) + (f"; and {more} more" if more else "")


def check_range(engine: str, path: Path, runs: Iterable[Mapping[str, NDArray[Any]]]) -> RangeCheck:
    """Measure every float16 tensor of an engine in float32, on the CPU.

    Args:
        engine: name of the engine.
        path: its ONNX file.
        runs: the inputs of each run, float32 where the engine takes float16; the largest magnitude of all counts.

    Raises:
        VerificationError: the graph has no float16 tensor or one of unknown type, or onnxruntime cannot run it.
    """
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    probed = list(_half_outputs(model.graph, path.name))
    if not probed:
        raise VerificationError(
            f"{path.name} computes nothing in float16; export it with precision='fp16'.",
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
    """Label and tensor of every float16 output that a node computes."""
    types = tensor_types(graph)
    weights = {tensor.name for tensor in graph.initializer}
    places: dict[str, tuple[int, str]] = {}
    for position, node in enumerate(graph.node):
        own = [(position, name.rpartition(".")[0]) for name in node.input if name in weights and "." in name]
        place = max((*own, *(places[name] for name in node.input if name in places)), default=(-1, ""))
        for index, tensor in enumerate(node.output):
            places[tensor] = place
            if tensor and tensor not in types:
                raise VerificationError(f"{file}: no type is known of {tensor}, an output of {node.name}.")
            if types.get(tensor) == TensorProto.FLOAT16 and node.op_type not in MOVES | NO_LARGER:
                name = (node.name or node.output[0]) + (f"[{index}]" if index else "")
                yield f"{name} ({', '.join(filter(None, (node.op_type, place[1])))})", tensor


def _retype(model: onnx.ModelProto) -> None:
    """Make float32 of everything that is float16, in place."""
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
    """Give the graph scalars of the tensors as its only outputs: ``_MEASURES`` of each, in order."""
    index = {tensor: i for i, tensor in enumerate(tensors)}
    nodes = []
    for node in graph.node:
        nodes.append(node)
        # Right behind the node, so that the tensor is measured and freed before the next is computed.
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
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # measures what is written
    settings.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED  # the file's: see _add_probes
    settings.enable_cpu_mem_arena = settings.enable_mem_pattern = False
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises bare Exception subclasses of its own
        raise VerificationError(f"{file} cannot be loaded in float32 to measure its magnitudes: {error}") from error


def _measure(session: onnxruntime.InferenceSession, feeds: Mapping[str, NDArray[Any]], file: str) -> NDArray[Any]:
    """(N) magnitudes of the probed tensors; NaN where one has NaN."""
    inputs = {node.name: feeds[node.name] for node in session.get_inputs()}
    try:
        found = np.array(session.run(None, inputs), np.float64).reshape(-1, len(_MEASURES))
    except Exception as error:
        raise VerificationError(f"{file} cannot be run in float32 to measure its magnitudes: {error}") from error
    most, least, total = found.T
    return np.where(np.isnan(total), np.nan, np.maximum(most, -least))
