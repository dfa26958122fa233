"""Engines that cannot match bit for bit against the PyTorch model in float32: by what a user would notice.

Engines in half precision or integers, and engines of any precision on another backend than onnxruntime on the CPU.
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
"""Detected boxes whose masks are compared, beside the fixed ones."""


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
    """Run every engine; each gets PyTorch's output for the engine before.

    Where encoders are in integers, the float32 engines after them get the encoders' own: boxes and masks then show what
    the rounding does to them.

    The magnitudes of half-precision engines are measured on the same inputs, see ``export.half_range``.

    Args:
        directory: where the engine files lie.
        manifest: says which there are and how the image is prepared.
        model: the unreduced model, float32.
        image: what to run on; default, the image that comes with the package.
        backend: what runs the engines, as ``load_engine`` takes it.
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
        del engine  # the next one needs its memory
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
    """An engine's features in the place of PyTorch's; of two images, the second is the first mirrored."""
    return {
        name: found if len(inputs[name]) == 1 else np.concatenate((found, found[..., ::-1]))
        for name, found in features.items()
        if name in inputs
    }


def _of_detected(model: CellSAM, feeds: Arrays, prompts: F32) -> list[tuple[Arrays, dict[str, F32]]]:
    """Inputs of the mask decoder for detected boxes of the first image, and PyTorch's outputs; none without boxes."""
    if not len(prompts):
        return []
    index = np.zeros(len(prompts), np.int64)
    inputs = mask_decoder_feeds(feeds["image_embedding"][:1], prompts, index)
    return [(inputs, engine_outputs(model, "mask_decoder", inputs))]
