"""Comparison of engines that cannot match bit for bit with PyTorch in float32, by differences that a user would notice.

This covers engines in half precision or integers, and any engine on another backend than onnxruntime on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.gates import GateCheck, HalfTolerance, check_detections, check_masks, check_relative, run_cast
from export.half_range import RangeCheck, check_range
from export.references import engine_outputs, mask_decoder_feeds, references
from export.sample_image import verification_image
from export.verify import load_named_engine
from runtime.engines.manifest import Manifest
from runtime.ops.boxes import select_boxes
from runtime.ops.preprocess import normalize_contrast
from runtime.types import F32, Arrays
from training.model import CellSAM

MOST_MASKS = 32
"""Most detected boxes whose masks are compared, besides the fixed ones."""


def verify_half_engines(
    directory: Path,
    manifest: Manifest,
    model: CellSAM,
    *,
    image: NDArray[np.generic] | None = None,
    backend: str = "cpu",
    tolerance: HalfTolerance | None = None,
    on_engine: Callable[[str], None] = lambda name: None,
) -> list[GateCheck | RangeCheck]:
    """Run each engine on PyTorch's output of the engine before it, and compare.

    If encoders use integers, the float32 engines after them get the encoders' own outputs, so boxes and masks show the
    effect of the rounding.

    For half-precision engines, magnitudes are measured on the same inputs; see ``export.half_range``.

    Args:
        directory: directory of the engine files.
        manifest: lists the engines and states how to prepare the image.
        model: the unreduced model, float32.
        image: image to run on; default, the image in the package.
        backend: name of the backend that runs the engines, as in ``load_engine``.
        tolerance: default, ``HalfTolerance()``.
        on_engine: called with the name of each engine before it runs.
    """
    limits = tolerance or HalfTolerance()
    normalized = normalize_contrast(verification_image() if image is None else image)
    checks: list[GateCheck | RangeCheck] = []
    prompts = np.zeros((0, 4), np.float32)
    features: Arrays = {}
    for engine_name, feeds, expected in references(model, manifest, normalized):
        on_engine(engine_name)
        cases = [(feeds, expected)]
        if engine_name == "mask_decoder":
            cases += _of_detected(model, feeds, prompts)
        cases = [({**inputs, **_instead(features, inputs)}, wanted) for inputs, wanted in cases]
        engine = load_named_engine(directory, manifest, engine_name, backend)
        runs = [(run_cast(engine, inputs), wanted) for inputs, wanted in cases]
        del engine  # frees memory for the next one
        if engine_name == "cellfinder":
            checks += check_detections(runs[0][0], expected, manifest.config, limits)
            boxes = select_boxes(expected["boxes_cxcywh_norm"][0], expected["logits"][0], manifest.config)[0]
            prompts = boxes[:MOST_MASKS] * np.float32(manifest.image_size)
        elif engine_name == "mask_decoder":
            checks += check_masks(runs, manifest.config, limits)
        else:
            found = runs[0][0]
            checks += [check_relative(engine_name, name, found[name], expected[name], limits) for name in expected]
        if manifest.engines[engine_name].integers:
            features |= runs[0][0]
        if manifest.precision == "fp16":
            path = directory / manifest.engines[engine_name].file
            checks.append(check_range(engine_name, path, [inputs for inputs, _ in cases]))
    return checks


def _instead(features: Arrays, inputs: Arrays) -> Arrays:
    """Replace PyTorch's features by an engine's; for two images, the second is the mirrored first."""
    return {
        name: found if len(inputs[name]) == 1 else np.concatenate((found, found[..., ::-1]))
        for name, found in features.items()
        if name in inputs
    }


def _of_detected(model: CellSAM, feeds: Arrays, prompts: F32) -> list[tuple[Arrays, dict[str, F32]]]:
    """Build decoder inputs for detected boxes of the first image, with PyTorch's outputs; empty without boxes."""
    if not len(prompts):
        return []
    index = np.zeros(len(prompts), np.int64)
    inputs = mask_decoder_feeds(feeds["image_embedding"][:1], prompts, index)
    return [(inputs, engine_outputs(model, "mask_decoder", inputs))]
