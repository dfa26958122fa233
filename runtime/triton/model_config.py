"""Model configurations of Triton in protobuf text format, ``config.pbtxt``.

Sources: triton-inference-server/server ``docs/user_guide/model_configuration.md`` and ``ragged_batching.md``;
triton-inference-server/common ``protobuf/model_config.proto``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from runtime.engines.manifest import EngineFile, TensorSpec, takes_boxes
from runtime.errors import EngineError

DTYPES = {"float32": "TYPE_FP32", "float16": "TYPE_FP16", "int64": "TYPE_INT64", "int32": "TYPE_INT32"}
"""Triton's data types by NumPy dtype."""

QUEUE_DELAY_US = 500
"""Microseconds that a request to a network waits for others to share its batch."""

POOL_DELAY_US = 5000
"""Microseconds that a request to the whole model waits for others to share its decoder calls."""


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a model as Triton describes it."""

    name: str
    data_type: str
    dims: Sequence[int]
    """Lengths without the batch axis; -1 is any length."""
    ragged: bool = False
    """Requests of different shapes may share a batch."""
    optional: bool = False

    def __str__(self) -> str:
        flags = " allow_ragged_batch: true" * self.ragged + " optional: true" * self.optional
        dims = ", ".join(map(str, self.dims))
        return f"{{ name: {json.dumps(self.name)} data_type: {self.data_type} dims: [ {dims} ]{flags} }}"


IMAGE, BOXES = "image", "boxes"
LABELS, CELL_BOXES, SCORES = "labels", "cell_boxes", "scores"

SEGMENTER_INPUTS = (
    Port(IMAGE, "TYPE_FP32", (-1, -1, -1), ragged=True),
    Port(BOXES, "TYPE_FP64", (-1, 4), ragged=True, optional=True),
)
"""(1, H, W, C) image, and (1, K, 4) xyxy boxes, image pixels, to decode in place of the detector's."""

SEGMENTER_OUTPUTS = (
    Port(LABELS, "TYPE_INT32", (-1, -1)),
    Port(CELL_BOXES, "TYPE_FP64", (-1, 4)),
    Port(SCORES, "TYPE_FP32", (-1,)),
)
"""(1, H, W) labels, and the boxes (1, n, 4) and scores (1, n) of the cells in the order of their labels."""


def network_config(name: str, engine: EngineFile, max_batch: int) -> str:
    """Configure one network, run by Triton's ONNX Runtime backend.

    The mask decoder has two leading axes, images and boxes, so Triton cannot batch its requests.

    Args:
        name: name of the model in the repository.
        engine: the engine.
        max_batch: most images per call of the encoder and the detector.

    Raises:
        EngineError: a tensor has a type that Triton lacks.
    """
    batched = not takes_boxes(engine.inputs)
    inputs = [_port(tensor, batched) for tensor in engine.inputs]
    outputs = [_port(tensor, batched) for tensor in engine.outputs]
    return _text(name, "onnxruntime", max_batch if batched else 0, inputs, outputs, QUEUE_DELAY_US if batched else None)


def segmenter_config(name: str, most_requests: int) -> str:
    """Configure the Python model that chains the networks.

    Args:
        name: name of the model in the repository.
        most_requests: most requests whose boxes share decoder calls.
    """
    head = _text(name, "python", most_requests, SEGMENTER_INPUTS, SEGMENTER_OUTPUTS, POOL_DELAY_US)
    return f"{head}instance_group [ {{ kind: KIND_CPU count: 1 }} ]\n"


def _port(tensor: TensorSpec, batched: bool) -> Port:
    if tensor.dtype not in DTYPES:
        raise EngineError(
            f"tensor {tensor.name} has dtype {tensor.dtype}; expected one of {', '.join(DTYPES)}. Export the engines "
            "again.",
            kind="unsupported",
        )
    dims = [dim if isinstance(dim, int) else -1 for dim in tensor.shape]
    return Port(tensor.name, DTYPES[tensor.dtype], dims[1:] if batched else dims)


def _text(
    name: str, backend: str, max_batch: int, inputs: Iterable[Port], outputs: Iterable[Port], delay_us: int | None
) -> str:
    """Write a configuration; ``delay_us`` is the batcher's longest delay, None for no batcher."""
    lines = [f"name: {json.dumps(name)}", f'backend: "{backend}"', f"max_batch_size: {max_batch}"]
    lines += [f"input [ {port} ]" for port in inputs]
    lines += [f"output [ {port} ]" for port in outputs]
    if delay_us is not None:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {delay_us} }}")
    return "\n".join(lines) + "\n"
