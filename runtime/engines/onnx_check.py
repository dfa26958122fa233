"""Check an ONNX graph, before a backend sees it, for what would lead outside the file or outside the exports.

An initialiser with external data names another file, which no hash of the manifest covers. Operators of other domains
than the exports' may do the same (onnxruntime's ``EPContext`` names a file too) or need a library of their own.

The package ``onnx`` is not needed to run engines, so the check walks protobuf's wire format itself, and only as far as
tensors and operators: contents of tensors are skipped, not read.

Source: protobuf, "Encoding"; onnx.proto of ONNX 1.18 for the field numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from runtime.errors import EngineError

OPERATORS: dict[str, frozenset[str] | None] = {
    "": None,
    "ai.onnx": None,
    "com.microsoft": frozenset({"MultiHeadAttention"}),
}
"""Operators that exports have, by domain; None for all of the domain."""

MAX_DEPTH = 40
"""Messages within messages. An export has 5; protobuf itself reads 100."""

MAX_FIELDS = 2_000_000
"""Of all messages together. The largest of the built-in engines has some 5,000."""

_Message = Literal["model", "training", "graph", "function", "node", "attribute", "sparse", "tensor"]

_CHILDREN: dict[_Message, dict[int, _Message]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
"""Fields that lead to tensors or operators, by message."""

_GRAPH, _OP_TYPE, _DOMAIN, _TENSOR_NAME, _EXTERNAL_DATA, _DATA_LOCATION = 7, 4, 7, 8, 13, 14

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_ORT_FORMAT = b"ORTM"
"""At byte 4 of onnxruntime's own file format, which it reads in place of ONNX."""

Field = tuple[int, int | memoryview]
"""Number, and value: an int, or the bytes of a field with a length."""


class _Malformed(Exception):
    """The bytes are not protobuf, or exceed a limit."""


def check_graph(content: bytes, path: Path) -> None:
    """Check every tensor and operator of an ONNX file, those of subgraphs and functions included.

    Args:
        content: the file.
        path: where it came from, for messages.

    Raises:
        EngineError: not an ONNX file, a tensor with external data, or an operator that no export writes.
    """
    try:
        _walk(content, path)
    except _Malformed as error:
        raise EngineError(
            f"{path} is not an ONNX file ({error}); expected one written by cellsam-engine export. "
            "Export the engines again."
        ) from error


def _walk(content: bytes, path: Path) -> None:
    if content[4:8] == _ORT_FORMAT:
        raise _Malformed("it is in onnxruntime's own format")
    fields, graphs = 0, 0
    pending: list[tuple[_Message, memoryview, int]] = [("model", memoryview(content), 1)]
    while pending:
        message, data, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise _Malformed(f"more than {MAX_DEPTH} messages within each other")
        strings: dict[int, str] = {}
        external = False
        for number, value in _fields(data):
            fields += 1
            if fields > MAX_FIELDS:
                raise _Malformed(f"more than {MAX_FIELDS:,} fields")
            if isinstance(value, int):
                external |= message == "tensor" and number == _DATA_LOCATION and value != 0
                continue
            graphs += message == "model" and number == _GRAPH
            external |= message == "tensor" and number == _EXTERNAL_DATA
            if number in _CHILDREN[message]:
                pending.append((_CHILDREN[message][number], value, depth + 1))
            elif (message, number) in (("node", _OP_TYPE), ("node", _DOMAIN), ("tensor", _TENSOR_NAME)):
                strings[number] = bytes(value[:200]).decode("utf-8", "replace")
        if external:
            _refuse_external(path, strings.get(_TENSOR_NAME, ""))
        if message == "node":
            _check_operator(path, strings.get(_DOMAIN, ""), strings.get(_OP_TYPE, ""))
    if graphs == 0:
        raise _Malformed("it has no graph")


def _refuse_external(path: Path, name: str) -> None:
    raise EngineError(
        f"{path} keeps tensor {name!r} in another file (external data), which the manifest's hash does not cover; "
        "expected all weights within the file. Export the engines again: cellsam-engine export.",
        kind="unsupported",
    )


def _check_operator(path: Path, domain: str, operator: str) -> None:
    known = OPERATORS.get(domain, frozenset())
    if known is not None and operator not in known:
        raise EngineError(
            f"{path} has the operator {operator!r} of the domain {domain!r}; expected ONNX's own operators and "
            "com.microsoft.MultiHeadAttention. Export the engines again: cellsam-engine export.",
            kind="unsupported",
        )


def _fields(data: memoryview) -> Iterator[Field]:
    """The fields of one message, in order; contents of submessages are not looked into."""
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if tag >> 32 or number == 0:
            raise _Malformed(f"a tag of {tag}")
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:  # groups, which ONNX never had
            raise _Malformed(f"wire type {kind}")
        if size > end - at:
            raise _Malformed("it is cut off")
        if kind == _BYTES:
            yield number, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of 7 bits a byte, and where the next thing begins."""
    value = 0
    for place in range(10):
        if at + place >= len(data):
            raise _Malformed("it is cut off")
        byte = data[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value & (2**64 - 1), at + place + 1
    raise _Malformed("a number of more than 10 bytes")
