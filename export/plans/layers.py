"""Check of the layers of a built plan that compute in half precision, read from TensorRT's engine inspector.

A plan can be float32 throughout without any message. The build therefore counts, and fails if too few layers of a
half-precision export run in half precision. The export keeps some islands in float32 by design
(``export.graphs.half``). They are identified by their ONNX nodes, which the inspector names, and counted separately.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from export.errors import VerificationError

LEAST_HALF_SHARE = 0.8
"""Smallest share of the layers outside islands, and of the products in the file, in half precision."""

MOST_NAMED = 10
"""Most float32 layers that a message names."""

_ONNX_LAYER = re.compile(r"\[ONNX Layer: ([^\]]*)\]")

_TYPE_FIELDS = ("Datatype", "DataType", "Format/Datatype", "Format")
"""Fields with a tensor's type: 10.x has one field for format and type, 11.x has two."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """A layer of a plan that reads or writes floats."""

    name: str
    half: bool
    """Whether any of its tensors is half precision."""
    island: bool
    """Whether it is float32 because its ONNX nodes are."""
    elements: int
    """Elements of its largest tensor."""

    def __str__(self) -> str:
        return f"{self.name} ({self.elements} elements)"


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerTypes:
    """The types of a plan's layers."""

    layers: tuple[Layer, ...]

    @property
    def half(self) -> int:
        """Number of layers in half precision."""
        return sum(layer.half for layer in self.layers)

    @property
    def islands(self) -> list[Layer]:
        """Layers in float32 by design, largest first."""
        return _largest_first(layer for layer in self.layers if layer.island)

    @property
    def float32(self) -> list[Layer]:
        """Layers in float32 without a reason in the file, largest first."""
        return _largest_first(layer for layer in self.layers if not layer.half and not layer.island)

    @property
    def half_share(self) -> float:
        """Share of the layers outside islands in half precision; 0 if there are none."""
        return self.half / max(1, self.half + len(self.float32))

    def summary(self) -> dict[str, Any]:
        """Summarise the layers for the plans' record."""
        return {
            "half": self.half,
            "float32": len(self.float32),
            "islands": [str(layer) for layer in self.islands],
            "half_share": round(self.half_share, 4),
        }


def read_layers(information: str, float32_nodes: Collection[str]) -> LayerTypes:
    """Determine the types of a plan's layers.

    Args:
        information: the inspector's JSON for a plan built with detailed verbosity.
        float32_nodes: names of the ONNX nodes that the file types float32.

    Raises:
        VerificationError: the JSON does not contain the layers' types.
    """
    try:
        described = json.loads(information)["Layers"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise VerificationError(
            f"TensorRT's engine inspector returned no layers ({error!r}); expected their JSON description."
        ) from error
    if not described or not all(isinstance(layer, dict) for layer in described):
        raise VerificationError(
            "TensorRT's engine inspector returned only names of layers; expected their types, too. Build the "
            "plans again."
        )
    return layer_types(described, float32_nodes)


def layer_types(described: Iterable[dict[str, Any]], float32_nodes: Collection[str]) -> LayerTypes:
    """Determine the types of layers in the inspector's form; arguments as in ``read_layers``."""
    return LayerTypes(layers=tuple(_floating(described, frozenset(float32_nodes))))


def _floating(described: Iterable[dict[str, Any]], float32_nodes: frozenset[str]) -> Iterator[Layer]:
    for layer in described:
        tensors = [*layer.get("Inputs", ()), *layer.get("Outputs", ())]
        types = {_type_of(tensor) for tensor in tensors}
        if not types & {"half", "float32"}:
            continue  # shapes and indices
        nodes = set(_ONNX_LAYER.findall(str(layer.get("Metadata", ""))))
        half = "half" in types
        yield Layer(
            name=str(layer.get("Name", "unnamed")),
            half=half,
            island=not half and bool(nodes) and nodes <= float32_nodes,
            elements=max(math.prod(abs(dim) for dim in tensor.get("Dimensions", ())) for tensor in tensors),
        )


def _type_of(tensor: dict[str, Any]) -> str | None:
    text = " ".join(str(tensor[field]) for field in _TYPE_FIELDS if field in tensor).upper()
    if re.search(r"\b(HALF|FP16|FLOAT16)\b", text):
        return "half"
    return "float32" if re.search(r"\b(FLOAT|FP32|FLOAT32)\b", text) else None


def _largest_first(layers: Iterator[Layer]) -> list[Layer]:
    return sorted(layers, key=lambda layer: -layer.elements)


def check_half(engine: str, layers: LayerTypes, products: tuple[int, int]) -> None:
    """Check that the plan of a half-precision export runs in half precision.

    Args:
        engine: name of the engine, for the message.
        layers: layers of the plan.
        products: number of matrix products and convolutions that the ONNX file types half, and of all of them.

    Raises:
        VerificationError: fewer than 80 % of the layers outside islands, or of the file's products, are half precision.
    """
    half, of = products
    if half < LEAST_HALF_SHARE * of:
        raise VerificationError(
            f"{engine}.onnx types {half} of {of} products half precision; expected {LEAST_HALF_SHARE:.0%} for a "
            "half-precision export. Export again: cellsam-engine export --precision fp16."
        )
    if layers.half_share < LEAST_HALF_SHARE:
        named = "\n  ".join(str(layer) for layer in layers.float32[:MOST_NAMED])
        raise VerificationError(
            f"{engine}: {layers.half_share:.1%} of the plan's layers outside the float32 islands run in half "
            f"precision; expected {LEAST_HALF_SHARE:.0%}. The largest in float32:\n  {named}\n"
            f"(float32 islands by design: {len(layers.islands)})"
        )
