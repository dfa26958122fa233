"""How much arithmetic an engine does, and how fast this machine multiplies matrices: what bounds any run from below."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

Shape = Sequence[int]


def engine_flop(path: Path, dimensions: Mapping[str, int]) -> int:
    """Floating-point operations of one call: 2 per multiplication of MatMul, Gemm, Conv and ConvTranspose.

    Args:
        path: ONNX file.
        dimensions: sizes of the named dimensions of its inputs.

    Raises:
        ValueError: a dimension is not named, or a shape does not follow from the inputs'.
    """
    import onnx

    model = onnx.load(str(path))
    for tensor in model.graph.input:
        for dimension in tensor.type.tensor_type.shape.dim:
            if dimension.dim_param:
                if dimension.dim_param not in dimensions:
                    raise ValueError(f"{path.name} has a dimension {dimension.dim_param!r}; expected its size.")
                dimension.dim_value = dimensions[dimension.dim_param]
    del model.graph.value_info[:]  # shapes in the names of the dimensions, which inference would keep
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes: dict[str, list[int]] = {weight.name: list(weight.dims) for weight in graph.initializer}
    for value in [*graph.value_info, *graph.input, *graph.output]:
        sizes = value.type.tensor_type.shape.dim
        if all(size.HasField("dim_value") for size in sizes):
            shapes[value.name] = [size.dim_value for size in sizes]
    total = 0
    for node in graph.node:
        if node.op_type in _FLOP:
            try:
                first, second, out = (shapes[name] for name in (*node.input[:2], node.output[0]))
            except KeyError as error:
                raise ValueError(f"{path.name}: the shape of {error} does not follow from the inputs'.") from error
            total += 2 * _FLOP[node.op_type](first, second, out)
    return total


_FLOP: dict[str, Callable[[Shape, Shape, Shape], int]] = {
    "MatMul": lambda first, second, out: math.prod(out) * first[-1],
    "Gemm": lambda first, second, out: math.prod(out) * math.prod(first) // first[0],
    "Conv": lambda first, second, out: math.prod(out) * math.prod(second[1:]),
    "ConvTranspose": lambda first, second, out: math.prod(first) * math.prod(second[1:]),
}
"""Multiplications by operator, from the shapes of the first two inputs and the output."""


def matrix_product_rate(precision: str, device: str = "cpu", *, side: int = 4096, seconds: float = 3.0) -> float:
    """Best rate of square matrix products by PyTorch (on a CPU, oneDNN), FLOP/s.

    Args:
        precision: ``fp32``, ``bf16`` or ``fp16``.
        device: as PyTorch names it.
        side: of the matrices.
        seconds: how long to try.
    """
    import torch

    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    a, b = (torch.ones(side, side, dtype=kinds[precision], device=device) for _ in range(2))
    best, end = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end or best == math.inf:
        start = time.perf_counter()
        torch.mm(a, b)
        if device != "cpu":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best
