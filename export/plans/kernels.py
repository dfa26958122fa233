"""Kernels of a plan and the bytes they move, from the list that the builder of TensorRT for RTX logs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

BYTES = {
    "Double": 8,
    "Int64": 8,
    "Float": 4,
    "Int32": 4,
    "Half": 2,
    "BFloat16": 2,
    "Int8": 1,
    "UInt8": 1,
    "Bool": 1,
    "FP8": 1,
}
"""Bytes per element, by the name of its type in the list."""

NO_KERNELS = ("signal", "wait", "shape_call")
"""Kinds of entries that synchronise streams or compute shapes on the host."""

_FIELDS = re.compile(r", (LayerType|Inputs|Constants|Outputs|TacticName|StreamId|Metadata): ")
_TENSOR = re.compile(r"\{ Name: (?P<name>.*?), Dimensions: \[(?P<dims>[^\]]*)\].*?Datatype: (?P<type>\w+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """One entry of the list."""

    name: str
    kind: str
    """``gemm``, ``kgen`` (generated code), ``conv`` and so on."""
    moved_bytes: int
    """Bytes that it reads and writes, each tensor counted once and whole, which is an upper bound for a gather."""

    @property
    def is_fused_attention(self) -> bool:
        """Whether it is a whole attention: two products with a softmax between them."""
        return "_mha" in self.name


def parse_layers(text: str) -> list[dict[str, Any]]:
    """Parse the list into the form of ``EngineInspector``: a dictionary per line that begins with ``Name:``."""
    layers = []
    for line in text.splitlines():
        if line.startswith("Name: "):
            name, *rest = _FIELDS.split(line.removeprefix("Name: "))
            fields = dict(zip(rest[::2], rest[1::2], strict=True))
            tensors = {key: list(_tensors(fields.get(key, ""))) for key in ("Inputs", "Constants", "Outputs")}
            layers.append(
                {
                    "Name": name,
                    "LayerType": fields.get("LayerType", ""),
                    "Metadata": fields.get("Metadata", ""),
                    **tensors,
                }
            )
    return layers


def read_kernels(layers: list[dict[str, Any]]) -> list[Kernel]:
    """Select the entries that run on the GPU."""
    return [
        Kernel(
            name=layer["Name"],
            kind=layer["LayerType"],
            moved_bytes=sum(_size(tensor) for key in ("Inputs", "Constants", "Outputs") for tensor in layer[key]),
        )
        for layer in layers
        if layer["LayerType"] not in NO_KERNELS
    ]


def _tensors(text: str) -> Iterator[dict[str, Any]]:
    for found in _TENSOR.finditer(text):
        dims = [int(dim) for dim in found["dims"].split(",") if dim]
        yield {"Name": found["name"], "Dimensions": dims, "Datatype": found["type"]}


def _size(tensor: dict[str, Any]) -> int:
    elements = math.prod(max(int(dim), 1) for dim in tensor["Dimensions"])
    return BYTES[tensor["Datatype"]] * elements
