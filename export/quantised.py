"""Encoders in 8-bit integers, for CPUs: products with constant weights in integers, everything else as it was.

Weights are int8, with a scale for each output channel. Inputs of the products are uint8, with one scale and zero point
for a tensor, from its least and largest value on given images (calibration, static and asymmetric). They are written as
QuantizeLinear and DequantizeLinear around each product, which onnxruntime and OpenVINO merge into integer kernels. The
products of an attention are of two computed tensors and stay as they were, as do convolutions, norms and residual sums.

Source: Jacob et al. 2018 (arXiv:1712.05877), section 2.1, for the scales and zero points; onnxruntime, "Quantize ONNX
models", for the form.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from runtime.backends.base import BackendOptions
from runtime.backends.ort import session_settings
from runtime.manifest import EngineName, Manifest, sha256_file
from runtime.preprocess import branch_inputs, normalize_contrast

F32 = NDArray[np.float32]
Range = tuple[float, float]
"""The least and the largest value of a tensor."""


def quantise_encoders(directory: Path, manifest: Manifest, images: Sequence[NDArray[np.generic]]) -> Manifest:
    """Write the encoders of float32 engines again, in integers; box detector and mask decoder stay as they are.

    Encoders take most of the time; boxes and outlines are drawn by the other two, where rounding would show as such.

    Args:
        directory: where the engine files lie; those of the encoders are replaced.
        manifest: of float32 engines with plain attention.
        images: (H, W) or (H, W, C <= 3) each, at least one, as ``Segmenter`` takes them: what ranges are taken from.

    Returns:
        The manifest with the new files.
    """
    engines = dict(manifest.engines)
    for name, inputs in encoder_inputs(images, manifest).items():
        spec = manifest.engines[name]
        path = directory / spec.file
        model = onnx.load(path)
        ranges = input_ranges(model, ({"pixel_values": pixels} for pixels in inputs))
        onnx.save(quantised(model, ranges), path)
        engines[name] = replace(spec, sha256=sha256_file(path), integers=True)
    return replace(manifest, precision="int8", engines=engines)


def encoder_inputs(images: Sequence[NDArray[np.generic]], manifest: Manifest) -> dict[EngineName, list[F32]]:
    """What every encoder gets of images, (1, 3, S, S) each; one trunk with two preprocessings gets both."""
    branches = [branch_inputs(normalize_contrast(image), manifest, detector=manifest.has_detector) for image in images]
    masks = [found.mask[None] for found in branches]
    boxes = [found.box[None] for found in branches if found.box is not None and found.box is not found.mask]
    if manifest.trunk == "separate":
        return {"encoder": masks, "detector_encoder": boxes or masks}
    return {"encoder": masks + boxes}


def constant_products(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The products of a computed tensor with a constant matrix, in the graph's order."""
    matrices = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) == 2}
    return [node for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in matrices]


def input_ranges(model: onnx.ModelProto, inputs: Iterable[Mapping[str, F32]]) -> dict[str, Range]:
    """The range of every constant product's input, by its name, over all runs.

    Args:
        model: in float32; run by onnxruntime on the CPU.
        inputs: what it is run on, arrays by input name, at least one.
    """
    names = sorted({node.input[0] for node in constant_products(model)})
    measured = onnx.ModelProto()
    measured.CopyFrom(model)
    del measured.graph.output[:]
    # Reduced in the graph: the tensors themselves would be gigabytes.
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
    """A copy whose constant products are of integers.

    Args:
        model: in float32.
        ranges: of every constant product's input, from ``input_ranges``; what lies beyond is clipped.
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
    """Rounds a computed tensor to uint8 and back; zero is exact."""
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
    """Puts an int8 matrix (in, out) in the place of a float32 one."""
    name, values = weight.name, numpy_helper.to_array(weight)
    largest = np.abs(values).max(axis=0)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    rounded = np.clip(np.rint(values / scale), -127, 127).astype(np.int8)
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
