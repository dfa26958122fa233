"""A small writer of ONNX graphs: operators by name, constants, loops, and the graphs of engines inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

INT64, DOUBLE, FLOAT, BOOL = TensorProto.INT64, TensorProto.DOUBLE, TensorProto.FLOAT, TensorProto.BOOL


class Operators:
    """Collects the nodes of one graph. Values are names; constants of all graphs belong to the outermost one."""

    def __init__(self, outer: Operators | None = None) -> None:
        """Begin a graph, inside ``outer`` if that is given."""
        self._root: Operators = self if outer is None else outer._root
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[tuple[str, tuple[int, ...], bytes], onnx.TensorProto] = {}
        self.weights: list[onnx.TensorProto] = []
        self._count = 0

    def new(self, word: str = "value") -> str:
        """Return a name that no other value has."""
        self._root._count += 1
        return f"{word}_{self._root._count}"

    def constant(self, values: ArrayLike, dtype: type[np.generic]) -> str:
        """Return a constant; equal ones are stored once."""
        array: NDArray[Any] = np.asarray(values, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._root.constants:
            self._root.constants[key] = numpy_helper.from_array(array, self.new("constant"))
        return self._root.constants[key].name

    def whole(self, values: ArrayLike) -> str:
        """Return an int64 constant."""
        return self.constant(values, np.int64)

    def single(self, values: ArrayLike) -> str:
        """Return a float32 constant."""
        return self.constant(values, np.float32)

    def double(self, values: ArrayLike) -> str:
        """Return a float64 constant."""
        return self.constant(values, np.float64)

    def __call__(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator with one output and return it."""
        (output,) = self.several(operator, *inputs, outputs=1, **attributes)
        return output

    def several(self, operator: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """Add an operator and return its outputs."""
        names = [self.new(operator) for _ in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, name=names[0], **attributes))
        return names

    def cast(self, value: str, to: int) -> str:
        """Convert a tensor to another type."""
        return self("Cast", value, to=to)

    def sum_of(self, value: str, axis: int, *, keep: bool = True) -> str:
        """Sum along an axis."""
        return self("ReduceSum", value, self.whole([axis]), keepdims=int(keep))

    def loop(
        self,
        trips: str,
        condition: str,
        state: Mapping[str, tuple[str, int, Sequence[int]]],
        body: Callable[[Operators, str, list[str]], tuple[str, list[str]]],
    ) -> list[str]:
        """Add a loop.

        Args:
            trips: int64 scalar, most iterations.
            condition: bool scalar, whether to begin.
            state: initial value, type and shape of each value that iterations pass to each other, by word.
            body: from the operators of the body, the number of the iteration and the state, the condition of the next
                iteration and the new state. It may use values of the outer graph.

        Returns:
            The last state.
        """
        inner = Operators(self)
        number, before = inner.new("iteration"), inner.new("condition")
        names = [inner.new(word) for word in state]
        after, results = body(inner, number, names)
        kinds = [(kind, list(shape)) for _, kind, shape in state.values()]
        # An output of a body must be computed in it, and only once.
        after, *results = [inner("Identity", value) for value in (after, *results)]
        given = [helper.make_tensor_value_info(number, INT64, []), helper.make_tensor_value_info(before, BOOL, [])]
        given += [helper.make_tensor_value_info(name, *kind) for name, kind in zip(names, kinds, strict=True)]
        made = [helper.make_tensor_value_info(after, BOOL, [])]
        made += [helper.make_tensor_value_info(name, *kind) for name, kind in zip(results, kinds, strict=True)]
        graph = helper.make_graph(inner.nodes, self.new("body"), given, made)
        first = [value for value, _, _ in state.values()]
        return self.several("Loop", trips, condition, *first, outputs=len(state), body=graph)

    def engine(self, model: onnx.ModelProto, feeds: Mapping[str, str]) -> dict[str, str]:
        """Add the graph of an engine.

        Args:
            model: the engine; without subgraphs and local functions.
            feeds: its inputs.

        Returns:
            Its outputs, by name.
        """
        names = {"": "", **feeds}
        for weight in model.graph.initializer:
            names[weight.name] = self.new("weight")
            copied = onnx.TensorProto()
            copied.CopyFrom(weight)
            copied.name = names[weight.name]
            self._root.weights.append(copied)
        for node in model.graph.node:
            for output in node.output:
                names.setdefault(output, self.new(node.op_type))
            copied_node = onnx.NodeProto()
            copied_node.CopyFrom(node)
            copied_node.name = names[node.output[0]]
            copied_node.input[:] = [names[name] for name in node.input]
            copied_node.output[:] = [names[name] for name in node.output]
            self.nodes.append(copied_node)
        return {output.name: names[output.name] for output in model.graph.output}

    def model(
        self, given: onnx.ValueInfoProto, made: onnx.ValueInfoProto, opset: int, ir_version: int
    ) -> onnx.ModelProto:
        """Return the outermost graph as a model with one input and one output."""
        weights = [*self.constants.values(), *self.weights]
        graph = helper.make_graph(self.nodes, "cellsam", [given], [made], weights)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version, producer_name="cellsam-engine"
        )
