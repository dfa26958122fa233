"""Quantisation of encoders for CPUs: products with constant weights in 8-bit integers, everything else unchanged.

Weights use 7 bits, -63 to 63 in int8, with one scale per output channel. With 8 bits, sums of two products silently
overflow 16 bits on x86 processors without VNNI. Inputs of the products are uint8, with one scale and zero point per
tensor, computed from its smallest and largest value on given images (static, asymmetric calibration). The graph has
QuantizeLinear and DequantizeLinear around each product, which onnxruntime and OpenVINO merge into integer kernels.
Products within an attention multiply two computed tensors and stay unchanged, as do convolutions, norms and residual
sums.

Source: Jacob et al. 2018 (arXiv:1712.05877), section 2.1, for the scales and zero points; onnxruntime, "Quantize ONNX
models", for the form and the overflow.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.errors import ExportError
from runtime import Segmenter
from runtime.engines.backends.base import BackendOptions, Engine
from runtime.engines.backends.ort import session_settings
from runtime.engines.manifest import EngineName, Manifest, read_manifest, sha256_file
from runtime.pipeline.load import load_pipeline
from runtime.pipeline.pipeline import Pipeline
from runtime.types import F32, Tensor, Tensors

Range = tuple[float, float]
"""Smallest and largest value of a tensor."""

_LARGEST_WEIGHT = 63
"""2 * 255 * 63 < 2 ** 15, so the sum of two products of a uint8 and a weight fits into 16 bits."""


def quantise_encoders(directory: Path, images: Sequence[NDArray[np.generic]]) -> Manifest:
    """Rewrite the encoders of float32 engines in integers; box detector and mask decoder stay unchanged.

    Encoders take most of the time. The other two engines draw boxes and outlines, where rounding would be visible.

    Args:
        directory: float32 engines with plain attention; the encoder files and the manifest are replaced.
        images: (H, W) or (H, W, C <= 3) each, at least one, to measure ranges on.

    Returns:
        The new manifest.

    Raises:
        ExportError: the engines have another precision.
    """
    manifest = read_manifest(directory)
    if manifest.precision != "fp32":
        raise ExportError(
            f"{directory} has engines in {manifest.precision}; expected float32 to quantise. Export with "
            "precision='fp32', or directly with precision='int8'.",
            kind="unsupported",
            field="precision",
        )
    engines = dict(manifest.engines)
    for name, inputs in encoder_inputs(directory, images).items():
        spec = manifest.engines[name]
        path = directory / spec.file
        model = onnx.load(path)
        ranges = input_ranges(model, ({"pixel_values": pixels} for pixels in inputs))
        onnx.save(quantised(model, ranges), path)
        engines[name] = replace(spec, sha256=sha256_file(path), integers=True)
    found = replace(manifest, precision="int8", engines=engines)
    found.write(directory)
    return found


def encoder_inputs(directory: Path, images: Sequence[NDArray[np.generic]]) -> dict[EngineName, list[F32]]:
    """Record the inputs of each encoder while the runtime segments images: (N, 3, S, S) per call.

    The engines run unchanged on the CPU, with the views and preprocessing of the manifest.
    """
    loaded = load_pipeline(directory, backend="cpu")
    manifest, engines = loaded.manifest, dict(loaded.engines)
    seen: dict[EngineName, list[F32]] = {name: [] for name in engines if name.endswith("encoder")}
    engines |= {name: _RecordingEngine(engines[name], inputs) for name, inputs in seen.items()}
    with Segmenter.from_pipeline(Pipeline(engines, manifest, images_per_call=1)) as segmenter:
        for image in images:
            segmenter.encode(image, detector=manifest.has_detector)
    return seen


class _RecordingEngine(Engine):
    """An encoder that records its inputs."""

    def __init__(self, engine: Engine, seen: list[F32]) -> None:
        self._engine, self._seen = engine, seen
        self.inputs, self.outputs = engine.inputs, engine.outputs

    def run(self, feeds: Mapping[str, Tensor], *, keep: Collection[str] = ()) -> Tensors:
        """Run the encoder; see ``Engine``."""
        self._seen.append(np.asarray(feeds["pixel_values"]))
        return self._engine.run(feeds, keep=keep)


def constant_products(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the products of a computed tensor with a constant matrix, in the graph's order."""
    matrices = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    return [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in matrices]


def input_ranges(model: onnx.ModelProto, inputs: Iterable[Mapping[str, F32]]) -> dict[str, Range]:
    """Measure the range of each constant product's input over all runs, by tensor name.

    Args:
        model: a float32 model, run by onnxruntime on the CPU.
        inputs: inputs of the runs, arrays by name, at least one.
    """
    names = sorted({node.input[0] for node in constant_products(model)})
    measured = onnx.ModelProto()
    measured.CopyFrom(model)
    del measured.graph.output[:]
    # Reduced inside the graph, because the tensors themselves would take gigabytes.
    for operator in ("ReduceMin", "ReduceMax"):
        for name in names:
            found = f"{name}.{operator}"
            measured.graph.node.append(helper.make_node(operator, [name], [found], keepdims=0))
            measured.graph.output.append(helper.make_tensor_value_info(found, TensorProto.FLOAT, []))
    settings = session_settings(BackendOptions())
    settings.enable_cpu_mem_arena = False
    session = onnxruntime.InferenceSession(
        measured.SerializeToString(), settings, providers=["CPUExecutionProvider"], enable_fallback=0
    )
    extremes = np.array([session.run(None, dict(feeds)) for feeds in inputs], np.float64).reshape(-1, 2, len(names))
    least, largest = extremes[:, 0].min(axis=0), extremes[:, 1].max(axis=0)
    return dict(zip(names, zip(least.tolist(), largest.tolist(), strict=True), strict=True))


def quantised(model: onnx.ModelProto, ranges: Mapping[str, Range]) -> onnx.ModelProto:
    """Return a copy of a model with constant products in integers.

    Args:
        model: a float32 model.
        ranges: range of each constant product's input, from ``input_ranges``; values beyond it are clipped.
    """
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    graph = copied.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    before: dict[str, list[onnx.NodeProto]] = {}
    seen: set[str] = set()
    for node in constant_products(copied):
        source, weight = node.input
        added = before.setdefault(node.output[0], [])
        if source not in seen:
            added += _quantised_tensor(graph, source, ranges[source])
        if weight not in seen:
            added.append(_quantised_weight(graph, weights[weight]))
        seen |= {source, weight}
        node.input[:] = [f"{source}.in_8_bits", f"{weight}.in_8_bits"]
    ordered = [entry for node in graph.node for entry in (*before.get(node.output[0], ()), node)]
    del graph.node[:]
    graph.node.extend(ordered)
    return copied


def _quantised_tensor(graph: onnx.GraphProto, name: str, span: Range) -> list[onnx.NodeProto]:
    """Add nodes that round a computed tensor to uint8 and back; zero stays exact."""
    least, largest = min(span[0], 0.0), max(span[1], 0.0)
    scale = np.float32((largest - least) / 255 or 1.0)
    zero = np.uint8(np.clip(round(-least / float(scale)), 0, 255))
    parameters = [_constant(graph, f"{name}.scale", np.array(scale)), _constant(graph, f"{name}.zero", np.array(zero))]
    return [
        helper.make_node("QuantizeLinear", [name, *parameters], [f"{name}.uint8"], name=f"{name}.quantize"),
        helper.make_node(
            "DequantizeLinear", [f"{name}.uint8", *parameters], [f"{name}.in_8_bits"], name=f"{name}.dequantize"
        ),
    ]


def _quantised_weight(graph: onnx.GraphProto, weight: onnx.TensorProto) -> onnx.NodeProto:
    """Replace a float32 matrix by an int8 matrix (in, out)."""
    name, values = weight.name, numpy_helper.to_array(weight)
    largest = np.abs(values).max(axis=0)
    scale = np.where(largest > 0, largest / _LARGEST_WEIGHT, 1).astype(np.float32)
    rounded = np.rint(values / scale).astype(np.int8)
    weight.CopyFrom(numpy_helper.from_array(rounded, f"{name}.int8"))
    parameters = [
        weight.name,
        _constant(graph, f"{name}.scale", scale),
        _constant(graph, f"{name}.zero", np.zeros(len(scale), np.int8)),
    ]
    return helper.make_node(
        "DequantizeLinear", parameters, [f"{name}.in_8_bits"], name=f"{name}.dequantize", axis=values.ndim - 1
    )


def _constant(graph: onnx.GraphProto, name: str, value: NDArray[np.generic]) -> str:
    graph.initializer.append(numpy_helper.from_array(value, name))
    return name
