"""Tensors in requests and answers of the Open Inference Protocol, as JSON or binary. Pure functions on bytes.

Source: kserve/open-inference-protocol ``specification/protocol/inference_rest.md``; triton-inference-server/server
``docs/protocol/extension_binary_data.md``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError

Array = NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""Types of the protocol that tensors here may have."""

MOST_AXES = 8


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output that a request asks for."""

    name: str
    binary: bool


@dataclass(frozen=True, slots=True, eq=False)
class InferRequest:
    """A parsed request."""

    inputs: Mapping[str, Array]
    outputs: Sequence[RequestedOutput] | None = None
    """None asks for all outputs."""
    identity: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    binary_output: bool = False
    """Whether outputs are binary that are not listed."""


def parse_request(body: bytes, header_length: str | None, *, json_limit: int, values_limit: int) -> InferRequest:
    """Parse the body of an inference request.

    Args:
        body: the body.
        header_length: value of the header ``Inference-Header-Content-Length``: bytes of JSON, after which binary
            tensors follow; None if all is JSON.
        json_limit: most bytes of JSON.
        values_limit: most values of a tensor.

    Raises:
        InputError: the body is not a request of the protocol.
    """
    length = len(body) if header_length is None else _length(header_length, len(body))
    if length > json_limit:
        raise InputError(
            f"the request has {length} bytes of JSON; expected at most {json_limit}. Send tensors as binary data.",
            kind="too_large",
        )
    try:
        content = json.loads(body[:length])
    except (ValueError, RecursionError) as error:
        raise InputError(f"the request is not JSON ({str(error)[:200]}); expected an inference request.") from error
    content = _of_kind(content, dict, "the request", "an object")
    rest = memoryview(body)[length:]
    inputs: dict[str, Array] = {}
    for entry in _of_kind(content.get("inputs"), list, "inputs", "a list of tensors"):
        name, tensor, rest = _parse_tensor(_of_kind(entry, dict, "an input", "an object"), rest, values_limit)
        if name in inputs:
            _reject(f"input {name!r} is given twice", "each input once", "inputs")
        inputs[name] = tensor
    if len(rest):
        _reject(f"{len(rest)} bytes follow the last tensor", "none", "inputs")
    parameters = _of_kind(content.get("parameters") or {}, dict, "parameters", "an object")
    identity = content.get("id")
    if identity is not None:
        _of_kind(identity, str, "id", "a string")
    binary = parameters.get("binary_data_output", False) is True
    outputs = None
    if content.get("outputs"):
        outputs = [_output(one, binary) for one in _of_kind(content["outputs"], list, "outputs", "a list")]
    own = {name: value for name, value in parameters.items() if name != "binary_data_output"}
    return InferRequest(inputs, outputs, identity, own, binary)


def _length(text: str, most: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19) or int(text) > most:
        _reject(
            f"Inference-Header-Content-Length is {text[:40]!r}",
            f"the bytes of JSON, at most {most}",
            "Inference-Header-Content-Length",
        )
    return int(text)


def _parse_tensor(entry: Mapping[str, Any], rest: memoryview, values_limit: int) -> tuple[str, Array, memoryview]:
    """Read a tensor from JSON, or from the binary data; return what follows it."""
    name = _of_kind(entry.get("name"), str, "name of an input", "a string")
    datatype, shape = entry.get("datatype"), _of_kind(entry.get("shape"), list, f"shape of {name}", "a list")
    if not isinstance(datatype, str) or datatype not in DTYPES:
        _reject(f"datatype of {name} is {str(datatype)[:40]!r}", f"one of {', '.join(DTYPES)}", name)
    if len(shape) > MOST_AXES or not all(type(side) is int and 0 <= side < 1 << 40 for side in shape):
        _reject(f"shape of {name} is {str(shape)[:80]}", f"at most {MOST_AXES} whole numbers", name)
    count = math.prod(shape)
    if count > values_limit:
        raise InputError(
            f"{name} has {count} values; expected at most {values_limit}. Send a smaller image, or raise the limit of "
            "the server.",
            kind="too_large",
            field=name,
        )
    dtype = DTYPES[datatype]
    size = _of_kind(entry.get("parameters") or {}, dict, f"parameters of {name}", "an object").get("binary_data_size")
    if size is None:
        return name, _from_json(entry.get("data"), dtype, count, name).reshape(shape), rest
    if type(size) is not int or size != count * dtype.itemsize or size > len(rest):
        _reject(
            f"binary_data_size of {name} is {str(size)[:40]}",
            f"{count * dtype.itemsize} bytes for {datatype} of shape {shape}, and as many in the body",
            name,
        )
    return name, np.frombuffer(rest[:size], dtype).reshape(shape), rest[size:]


def _from_json(data: Any, dtype: np.dtype[Any], count: int, name: str) -> Array:
    """Convert nested or flat JSON values to a flat array."""
    data = _of_kind(data, list, f"data of {name}", "a list")
    try:
        values = np.array(data).reshape(-1)
        if dtype == DTYPES["UINT64"] and values.dtype.kind == "f":  # numpy has no common type for numbers beyond int64
            whole = np.array(data, object).reshape(-1)
            values = whole.astype(dtype) if all(type(value) is int for value in whole) else whole
    except OverflowError:
        _reject(f"data of {name} has values that {dtype} cannot hold", "values of its datatype", name)
    except ValueError as error:  # sequences of several lengths
        raise InputError(f"data of {name} is ragged ({error}); expected rows of equal length.", field=name) from error
    if values.size == 0:
        values = values.astype(dtype)
    if values.dtype.kind not in "biuf" or values.size != count:
        _reject(f"data of {name} has {values.size} values of type {values.dtype}", f"{count} numbers", name)
    with np.errstate(all="ignore"):
        converted = values.astype(dtype)
    if dtype.kind in "iub" and not np.array_equal(converted, values):
        _reject(f"data of {name} has values that {dtype} cannot hold", "values of its datatype", name)
    return converted


def _output(entry: Any, binary: bool) -> RequestedOutput:
    entry = _of_kind(entry, dict, "an output", "an object")
    name = _of_kind(entry.get("name"), str, "name of an output", "a string")
    parameters = _of_kind(entry.get("parameters") or {}, dict, f"parameters of {name}", "an object")
    if parameters.get("classification"):
        _reject(f"classification is asked of {name}", "no classification", name)
    return RequestedOutput(name, parameters.get("binary_data", binary) is True)


def write_response(
    outputs: Mapping[str, Array], request: InferRequest, *, model: str, version: str
) -> tuple[bytes, int | None]:
    """Write an answer.

    Args:
        outputs: all outputs of the model.
        request: chooses the outputs and how they are written.
        model: name of the model.
        version: version of the model.

    Returns:
        The body, and the bytes of JSON at its beginning if binary tensors follow, else None.

    Raises:
        InputError: the request asks for an output that the model lacks.
    """
    wanted = request.outputs or [RequestedOutput(name, request.binary_output) for name in outputs]
    described, parts = [], []
    for one in wanted:
        if one.name not in outputs:
            _reject(f"output {one.name[:80]!r} is asked for", f"some of {', '.join(outputs)}", "outputs")
        array = outputs[one.name]
        entry: dict[str, Any] = {"name": one.name, "datatype": datatype_of(array.dtype), "shape": list(array.shape)}
        if one.binary:
            parts.append(np.ascontiguousarray(array).astype(DTYPES[entry["datatype"]], copy=False).tobytes())
            entry["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            entry["data"] = _json_values(array)
        described.append(entry)
    content: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": described}
    if request.identity is not None:
        content["id"] = request.identity
    head = json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
    return b"".join([head, *parts]), len(head) if parts else None


def datatype_of(dtype: np.dtype[Any]) -> str:
    """Return the protocol's name of a type."""
    return next(name for name, kind in DTYPES.items() if kind == dtype)


def _json_values(array: Array) -> list[Any]:
    """List the values of an array, flat; None in place of NaN, which JSON does not know."""
    if array.dtype.kind != "f":
        return list(array.reshape(-1).tolist())
    return [value if math.isfinite(value) else None for value in array.reshape(-1).tolist()]


def _of_kind(value: Any, kind: type, name: str, expected: str) -> Any:
    if not isinstance(value, kind):
        _reject(f"{name} is {'missing' if value is None else f'of type {type(value).__name__}'}", expected, name)
    return value


def _reject(came: str, expected: str, field: str) -> NoReturn:
    raise InputError(f"{came}; expected {expected}. Correct the request.", kind="invalid", field=field)
