"""Arithmetic of an engine and rate of matrix products on this machine, which give a lower bound on run time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

Shape = Sequence[int]


def engine_flop(path: Path, dimensions: Mapping[str, int]) -> int:
    """Count the floating-point operations of one call: 2 per multiplication of MatMul, Gemm, Conv and ConvTranspose.

    Args:
        path: ONNX file.
        dimensions: sizes of the named dimensions of its inputs.

    Raises:
        ValueError: a dimension has no size, or a shape does not follow from those of the inputs.
    """
    import onnx

    model = onnx.load(str(path))
    for tensor in model.graph.input:
        for dimension in tensor.type.tensor_type.shape.dim:
            if dimension.dim_param:
                if dimension.dim_param not in dimensions:
                    raise ValueError(f"{path.name} has a dimension {dimension.dim_param!r}; expected its size.")
                dimension.dim_value = dimensions[dimension.dim_param]
    del model.graph.value_info[:]  # shape inference would keep these symbolic shapes
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
                raise ValueError(
                    f"{path.name}: the shape of {error} does not follow from those of the inputs."
                ) from error
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
    """Measure the best rate of square matrix products, FLOP/s.

    PyTorch computes the products; in float32 on a CPU, onnxruntime is tried as well. It is twice as fast on some
    processors, because PyTorch's float32 products use MKL, which uses AVX-512 on processors of one vendor only.

    Args:
        precision: ``fp32``, ``bf16`` or ``fp16``.
        device: device as PyTorch names it.
        side: side of the matrices.
        seconds: time to try each library, seconds.
    """
    ways = [_pytorch_product(precision, device, side)]
    if precision == "fp32" and device == "cpu":
        ways.append(_onnxruntime_product(side))
    best = math.inf
    for product in ways:
        end, tried = time.perf_counter() + seconds, False
        while time.perf_counter() < end or not tried:
            start = time.perf_counter()
            product()
            best, tried = min(best, time.perf_counter() - start), True
    return 2 * side**3 / best


def _pytorch_product(precision: str, device: str, side: int) -> Callable[[], object]:
    import torch

    kinds = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    a, b = (torch.ones(side, side, dtype=kinds[precision], device=device) for _ in range(2))

    def product() -> None:
        torch.mm(a, b)
        if device != "cpu":
            torch.cuda.synchronize(device)

    return product


def _onnxruntime_product(side: int) -> Callable[[], object]:
    """Return a float32 product with a constant matrix, as in the engines."""
    import numpy as np
    import onnx
    import onnxruntime

    ones = np.ones((side, side), np.float32)
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [side, side]) for name in ("x", "y")]
    node = onnx.helper.make_node("MatMul", ["x", "weight"], ["y"])
    graph = onnx.helper.make_graph(
        [node], "product", ends[:1], ends[1:], [onnx.numpy_helper.from_array(ones, "weight")]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": ones})
