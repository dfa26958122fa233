"""Check an ONNX graph for content that no export writes, before a backend loads it.

An untrusted file may name other files, need custom operator libraries, crash a backend (strides of zero) or make it
compute gigabytes at load (a constant that is expanded). Backends fold all nodes that depend on constants alone.
Therefore the check follows constants through the graph and bounds the number of values computed from them.

The check reads only the structure of the file (``runtime.engines.onnx_graph``) and takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from runtime.engines.onnx_graph import ITEM_TYPES, MAX_DIMS, Graph, Node, Tensor, UnsupportedError, read_graph, shown
from runtime.engines.protobuf import MalformedError
from runtime.errors import EngineError

SAME_OR_FEWER = frozenset(
    (
        *("Abs", "Cast", "Clip", "Cos", "DequantizeLinear", "Erf", "Exp", "Flatten", "Floor", "Gelu"),
        *("Identity", "InstanceNormalization", "LayerNormalization", "Neg", "Not", "QuantizeLinear"),
        *("Reciprocal", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Relu", "Reshape", "Round"),
        *("Sigmoid", "Sin", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Tanh", "Transpose", "Unsqueeze"),
    )
)
"""Operators whose outputs each have at most as many values as the first input."""

PRODUCTS = frozenset(
    (
        *("Add", "And", "Div", "Equal", "Gather", "Gemm", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
        *("MatMul", "Max", "Min", "Mul", "Or", "Pow", "Sub", "Where"),
    )
)
"""Operators whose output has at most as many values as the product of the sizes of all inputs."""

BY_VALUE = frozenset(("ConstantOfShape", "Expand", "Range", "Tile"))
"""Operators whose output size is given by the values of an input."""

OPERATORS: Mapping[str, frozenset[str]] = {
    "": SAME_OR_FEWER | PRODUCTS | BY_VALUE | {"Concat", "Constant", "Conv", "ConvTranspose", "Shape"},
    "com.microsoft": frozenset({"MultiHeadAttention"}),
}
"""Operators by domain: those of exports, and those that other versions of PyTorch write for the same layers."""

ALLOWED: Mapping[str, Collection[int]] = {
    "strides": range(1, 257),
    "dilations": range(1, 257),
    "kernel_shape": range(1, 257),
    "pads": range(257),
    "output_padding": range(257),
    "group": range(1, 1 << 16),
    "num_heads": range(1, 1 << 10),
    "num_outputs": range(1, 1 << 10),
    "axis": range(-MAX_DIMS, MAX_DIMS),
    "perm": range(MAX_DIMS),
    "to": ITEM_TYPES,
}
"""Allowed values of attributes, for all operators; other attributes may have any value."""

_INT64 = 7

MAX_VALUES = 1 << 26
"""Maximum values of a tensor whose size a stored constant gives: 256 MiB of float32. Exports have no such tensor."""

MAX_FOLDED = 1 << 22
"""Maximum values computed from constants, in addition to twice as many as the file stores. Exports dequantise, reshape
and transpose their weights."""

ADVICE = "Export the engines again: cellsam-engine export."


@dataclass(frozen=True, slots=True)
class _Constant:
    """A tensor that a backend can compute at load."""

    count: int
    """Maximum number of values, with dimensions of 0 counted as 1."""
    stored: Tensor | None = None
    """The stored tensor; None if the constant is computed from others."""


def check_graph(content: bytes, path: Path) -> None:
    """Check every tensor and operator of an ONNX file.

    Args:
        content: the file's content.
        path: its path, for messages.

    Raises:
        EngineError: the file is not ONNX, keeps data in other files, has subgraphs, functions or operators that no
            export writes, has attributes out of range, or has constants that would grow far beyond what it stores.
    """
    try:
        _check(read_graph(content))
    except MalformedError as error:
        raise EngineError(
            f"{path} is not an ONNX file ({error}); expected one written by cellsam-engine export. "
            "Export the engines again."
        ) from error
    except UnsupportedError as error:
        raise EngineError(f"{path} {error}. {ADVICE}", kind="unsupported") from error


def _check(graph: Graph) -> None:
    constants = {tensor.name: _Constant(tensor.extent, tensor) for tensor in graph.tensors}
    if len(constants) < len(graph.tensors):
        raise MalformedError("two of its tensors have the same name")
    known = {*graph.inputs, *constants, ""}
    left = MAX_FOLDED + 2 * sum(tensor.count for tensor in graph.tensors)
    for node in graph.nodes:
        _check_operator(node)
        _check_attributes(node)
        _check_names(node, known)
        requested = _requested(node, constants)
        if requested is not None and requested > MAX_VALUES:
            raise UnsupportedError(
                f"has {_named(node)} that makes {requested:,} values from a constant; expected at most {MAX_VALUES:,}"
            )
        if all(name in constants for name in node.inputs if name):
            found = _folded(node, constants, requested)
            left -= 0 if found.stored is not None else found.count * len(node.outputs)
            if left < 0:
                raise UnsupportedError(
                    f"computes from its constants more than twice the values it stores, the last with {_named(node)}; "
                    "expected weights in the form in which they are used"
                )
            constants |= dict.fromkeys(filter(None, node.outputs), found)


def _check_operator(node: Node) -> None:
    domain = "" if node.domain == "ai.onnx" else node.domain
    if node.operator not in OPERATORS.get(domain, ()):
        raise UnsupportedError(
            f"has the operator {shown(node.operator)} of the domain {shown(node.domain)}; expected those of exports, "
            "which are some of ONNX's own and com.microsoft.MultiHeadAttention"
        )


def _check_attributes(node: Node) -> None:
    names = [attribute.name for attribute in node.attributes]
    if len(set(names)) < len(names):
        raise MalformedError(f"{_named(node)} has the same attribute twice")
    for attribute in node.attributes:
        allowed = ALLOWED.get(attribute.name)
        wrong = [] if allowed is None else [value for value in attribute.integers if value not in allowed]
        if allowed is not None and wrong:
            expected = f"{min(allowed)} to {max(allowed)}" if isinstance(allowed, range) else f"one of {list(allowed)}"
            raise UnsupportedError(f"has {_named(node)} with {attribute.name} {wrong[0]}; expected {expected}")


def _check_names(node: Node, known: set[str]) -> None:
    """Check that inputs are defined before their use, as ONNX requires, and that output names are unique."""
    for name in node.inputs:
        if name not in known:
            raise MalformedError(f"{_named(node)} takes {shown(name)}, which is not defined before it")
    for name in filter(None, node.outputs):
        if name in known:
            raise MalformedError(f"{_named(node)} makes {shown(name)}, which exists already")
        known.add(name)


def _requested(node: Node, constants: Mapping[str, _Constant]) -> int | None:
    """Return the number of output values that stored inputs request; None if they do not determine it."""
    reshapes = node.operator == "Reshape" and any(name in constants for name in node.inputs[:1])
    if not (node.operator in BY_VALUE or reshapes) or not node.inputs:
        return None
    if node.operator == "Range":
        return _range_length(_stored(node.inputs, constants))
    (sizes,) = _stored(node.inputs[-1:], constants)
    if sizes is None:
        return None
    if sizes.count > MAX_DIMS or sizes.item_type != _INT64:
        raise MalformedError(f"{_named(node)} has a size that is not a list of up to {MAX_DIMS} integers")
    values = [int(value) for value in sizes.values()]
    if reshapes:  # -1: the remaining values; 0: as in the input
        return prod(max(value, 1) for value in values)
    if min(values, default=0) < 0:
        raise UnsupportedError(f"has {_named(node)} with the size {min(values)}; expected 0 or more")
    data = constants.get(node.inputs[0]) if node.operator != "ConstantOfShape" else None
    return prod(max(value, 1) for value in values) * (1 if data is None else data.count)


def _range_length(limits: Sequence[Tensor | None]) -> int | None:
    if len(limits) != 3 or any(limit is None or limit.count != 1 for limit in limits):
        return None
    start, stop, step = (float(limit.values()[0]) for limit in limits if limit is not None)
    if not np.isfinite([start, stop, step]).all() or step == 0:
        raise UnsupportedError(f"has a Range from {start} to {stop} by {step}; expected finite numbers, and a step")
    return 1 + int(min(max((stop - start) / step, 0.0), 1e18))


def _stored(names: Sequence[str], constants: Mapping[str, _Constant]) -> list[Tensor | None]:
    return [constants[name].stored if name in constants else None for name in names]


def _folded(node: Node, constants: Mapping[str, _Constant], requested: int | None) -> _Constant:
    """Return the output of a node whose inputs are all constants."""
    counts = [constants[name].count for name in node.inputs if name]
    if node.operator == "Constant":
        return _constant(node)
    if node.operator in SAME_OR_FEWER and counts:
        return _Constant(counts[0])
    if node.operator in PRODUCTS:
        return _Constant(prod(counts))
    if node.operator == "Concat":
        return _Constant(sum(counts))
    if node.operator == "Shape":
        return _Constant(MAX_DIMS)
    if requested is None:
        raise UnsupportedError(f"computes a constant with {_named(node)}; expected its values in the file")
    return _Constant(requested)


def _constant(node: Node) -> _Constant:
    tensors = [tensor for attribute in node.attributes for tensor in attribute.tensors]
    if len(tensors) == 1:
        return _Constant(tensors[0].extent, tensors[0])
    return _Constant(sum(len(attribute.integers) + attribute.floats for attribute in node.attributes))


def _named(node: Node) -> str:
    name = next(iter(node.outputs), "")
    return f"{shown(node.operator)[1:-1]} ({shown(name)})"
