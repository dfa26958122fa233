"""Read the fields of a protobuf message from its wire format, without a schema and without copies.

Source: protobuf, "Encoding".
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Field = tuple[int, int | memoryview]
"""Field number and value: an int, or the bytes of a field with a length or a fixed size."""


class MalformedError(Exception):
    """The bytes are not protobuf, or exceed a limit."""


def fields(data: memoryview) -> Iterator[Field]:
    """Yield the fields of one message in order, without parsing submessages.

    Raises:
        MalformedError: the bytes are not a message.
    """
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if tag >> 32 or number == 0:
            raise MalformedError(f"a tag of {tag}")
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind == _BYTES:
            size, at = _varint(data, at)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
        else:  # groups, which ONNX does not use
            raise MalformedError(f"wire type {kind}")
        if size > end - at:
            raise MalformedError("it is cut off")
        yield number, data[at : at + size]
        at += size


def integers(value: int | memoryview) -> Iterator[int]:
    """Yield the signed 64-bit integers of a repeated field, packed or not.

    Raises:
        MalformedError: the bytes are not integers.
    """
    if isinstance(value, int):
        yield _signed(value)
        return
    at = 0
    while at < len(value):
        found, at = _varint(value, at)
        yield _signed(found)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Read a number stored with 7 bits per byte; return it and the position after it."""
    value = 0
    for place in range(10):
        if at + place >= len(data):
            raise MalformedError("it is cut off")
        byte = data[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value & (2**64 - 1), at + place + 1
    raise MalformedError("a number of more than 10 bytes")
