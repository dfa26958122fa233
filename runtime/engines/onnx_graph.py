"""Read the nodes and tensors of an ONNX file without the package ``onnx``, which is not needed to run engines.

Tensor contents are neither copied nor read until ``Tensor.values`` is called. Content that no export writes and that
could hide data from a check raises an error: data in other files, subgraphs, functions, sparse tensors, and repeated
fields that a parser would merge.

Source: onnx.proto of ONNX 1.18 for the field numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.engines.protobuf import Field, MalformedError, fields, integers

MAX_FIELDS = 500_000
"""Maximum number of fields of all messages together. The largest built-in engine has about 5,000."""

MAX_NODES = 20_000
"""Maximum number of nodes of a graph, and also of tensors and of inputs. A ViT-B encoder has about 600 nodes."""

ITEM_TYPES: dict[int, str] = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8"}
"""NumPy types by TensorProto.DataType: the types that exports write, booleans and float64."""

_FLOAT_FIELDS = (4, 10)
"""Fields ``float_data`` and ``double_data`` of TensorProto."""

MAX_DIMS = 64

_ORT_FORMAT = b"ORTM"
"""Bytes 4 to 7 of a file in onnxruntime's own format, which onnxruntime also loads."""


class UnsupportedError(Exception):
    """The file is ONNX but has content that no export writes."""


@dataclass(slots=True)
class Tensor:
    """A tensor that a file stores."""

    name: str = ""
    dims: list[int] = field(default_factory=list)
    item_type: int = 0
    raw: memoryview | None = None
    """The values, little-endian as in memory."""
    typed: dict[int, list[int | memoryview]] = field(default_factory=dict)
    """The values in typed fields, by field number, if ``raw`` is None."""

    @property
    def count(self) -> int:
        """Number of values that the dimensions declare."""
        return prod(self.dims)

    @property
    def extent(self) -> int:
        """Number of values with dimensions of 0 counted as 1: the size that a sum along an empty axis can reach."""
        return prod(max(size, 1) for size in self.dims)

    def check(self) -> None:
        """Check that the tensor has a known type and stores as many values as it declares.

        Raises:
            MalformedError: the dimensions or the stored values are invalid.
            UnsupportedError: exports do not write this type.
        """
        if self.item_type not in ITEM_TYPES:
            raise UnsupportedError(
                f"keeps tensor {shown(self.name)} in the type {self.item_type}; expected one of {[*ITEM_TYPES]}"
            )
        if min(self.dims, default=0) < 0 or len(self.dims) > MAX_DIMS:
            raise MalformedError(f"tensor {shown(self.name)} has the dimensions {self.dims[:8]}")
        if self.typed.keys() - (set() if self.raw is not None else {self._field}):
            raise MalformedError(f"tensor {shown(self.name)} stores values in fields of other types")
        if self.raw is not None:
            fits = len(self.raw) == self.count * self._dtype.itemsize
        else:
            parts = self.typed.get(self._field, [])
            least = self._dtype.itemsize if self._field in _FLOAT_FIELDS else 1
            fits = self.count * least <= sum(1 if isinstance(part, int) else len(part) for part in parts)
        if not fits:
            raise MalformedError(f"tensor {shown(self.name)} declares {self.count:,} values but stores another number")

    def values(self) -> NDArray[Any]:
        """Return the values as a flat array; meant for small tensors.

        Raises:
            MalformedError: there are fewer or more values than the dimensions declare.
        """
        if self.raw is not None:
            return np.frombuffer(self.raw, self._dtype)
        parts = self.typed.get(self._field, [])
        if self._field in _FLOAT_FIELDS:
            stored = b"".join(part for part in parts if not isinstance(part, int))
            found: NDArray[Any] = np.frombuffer(stored[: self.count * self._dtype.itemsize], self._dtype)
        else:
            found = np.array([number for part in parts for number in integers(part)], np.int64)
        if len(found) != self.count:
            raise MalformedError(f"tensor {shown(self.name)} declares {self.count:,} values but stores {len(found):,}")
        return found

    @property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype(ITEM_TYPES[self.item_type])

    @property
    def _field(self) -> int:
        """Number of the field that holds values of this type."""
        return {1: 4, 7: 7, 11: 10}.get(self.item_type, 5)


@dataclass(slots=True)
class Attribute:
    """The parts of a node's attribute that are checked."""

    name: str = ""
    integers: list[int] = field(default_factory=list)
    floats: int = 0
    """Number of floats."""
    tensors: list[Tensor] = field(default_factory=list)


@dataclass(slots=True)
class Node:
    """An operator with its inputs and outputs; an omitted input is ``""``."""

    operator: str = ""
    domain: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    attributes: list[Attribute] = field(default_factory=list)


@dataclass(slots=True)
class Graph:
    """The one graph of a file."""

    nodes: list[Node] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    """The initialisers."""


def shown(name: str) -> str:
    """Format a name from the file for a message."""
    return ascii(name if len(name) <= 80 else name[:80] + "...")


def read_graph(content: bytes) -> Graph:
    """Read the graph of an ONNX file.

    Args:
        content: the file's content.

    Raises:
        MalformedError: the bytes are not an ONNX file, or exceed a limit.
        UnsupportedError: the file has content that no export writes but other programs would use; the message names it
            and what was expected.
    """
    if content[4:8] == _ORT_FORMAT:
        raise MalformedError("it is in onnxruntime's own format")
    reader, graph = _Reader(), None
    for number, value in reader.fields(memoryview(content), once={7}):
        if number == 7 and isinstance(value, memoryview):
            graph = reader.graph(value)
        elif number in (20, 25):
            what = "training information" if number == 20 else "local functions"
            raise UnsupportedError(f"has {what}; expected a graph alone")
    if graph is None:
        raise MalformedError("it has no graph")
    return graph


class _Reader:
    """Reader of messages that counts their fields."""

    def __init__(self) -> None:
        self._left = MAX_FIELDS

    def fields(self, data: memoryview, *, once: set[int]) -> Iterator[Field]:
        """Yield the fields of a message; those in ``once`` must not repeat, because parsers merge or replace them."""
        seen: set[int] = set()
        for number, value in fields(data):
            self._left -= 1
            if self._left < 0:
                raise MalformedError(f"more than {MAX_FIELDS:,} fields")
            if number in once:
                if number in seen:
                    raise MalformedError(f"field {number} appears twice")
                seen.add(number)
            yield number, value

    def graph(self, data: memoryview) -> Graph:
        graph = Graph()
        for number, value in self.fields(data, once=set()):
            if isinstance(value, int):
                continue
            if number == 1:
                graph.nodes.append(self.node(value))
            elif number == 5:
                graph.tensors.append(self.tensor(value))
            elif number == 11:
                graph.inputs.append(self._name_of(value))
            elif number == 15:
                raise UnsupportedError("has sparse tensors; expected dense ones")
            if max(len(graph.nodes), len(graph.tensors), len(graph.inputs)) > MAX_NODES:
                raise UnsupportedError(f"has more than {MAX_NODES:,} nodes, tensors or inputs; expected fewer")
        return graph

    def _name_of(self, data: memoryview) -> str:
        """Return the name of an input."""
        names = [_text(value) for number, value in self.fields(data, once={1}) if number == 1]
        return names[0] if names else ""

    def node(self, data: memoryview) -> Node:
        node = Node()
        for number, value in self.fields(data, once={4, 7, 8}):
            if number == 1:
                node.inputs.append(_text(value))
            elif number == 2:
                node.outputs.append(_text(value))
            elif number == 4:
                node.operator = _text(value)
            elif number == 5:
                node.attributes.append(self.attribute(_bytes(value)))
            elif number == 7:
                node.domain = _text(value)
        return node

    def attribute(self, data: memoryview) -> Attribute:
        found = Attribute()
        for number, value in self.fields(data, once={1, 2, 3, 4, 5}):
            if number == 1:
                found.name = _text(value)
            elif number in (2, 7):
                found.floats += 1 if isinstance(value, int) else len(value) // 4
            elif number in (3, 8):
                self._left -= 0 if isinstance(value, int) else len(value)
                if self._left < 0:
                    raise MalformedError(f"more than {MAX_FIELDS:,} fields")
                found.integers += integers(value)
            elif number in (5, 10):
                found.tensors.append(self.tensor(_bytes(value)))
            elif number in (6, 11):
                raise UnsupportedError("has subgraphs; expected one graph")
            elif number in (22, 23):
                raise UnsupportedError("has sparse tensors; expected dense ones")
        return found

    def tensor(self, data: memoryview) -> Tensor:
        tensor, external = Tensor(), False
        for number, value in self.fields(data, once={2, 3, 8, 9, 14}):
            if number == 1:
                tensor.dims += [size for size, _ in zip(integers(value), range(MAX_DIMS + 1), strict=False)]
            elif number == 2 and isinstance(value, int):
                tensor.item_type = value
            elif number in (4, 5, 6, 7, 10, 11):
                tensor.typed.setdefault(number, []).append(value)
            elif number == 8:
                tensor.name = _text(value)
            elif number == 9:
                tensor.raw = _bytes(value)
            external |= number == 13 or (number == 14 and value != 0)
        if external:
            raise UnsupportedError(
                f"keeps tensor {shown(tensor.name)} in another file (external data), which the manifest's hash does "
                "not cover; expected all weights within the file"
            )
        tensor.check()
        return tensor


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise MalformedError("a number in place of a text or message")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_bytes(value)).decode("utf-8", "surrogateescape")
