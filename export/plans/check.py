"""Comparison of plans on the GPU with the same ONNX files in onnxruntime on the CPU, engine by engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.gates import GateCheck, HalfTolerance, check_detections, check_masks, check_relative, run_cast
from export.sample_image import FIXED_BOXES, FIXED_IMAGES, verification_image
from runtime.engines.backends.base import BackendOptions, Engine
from runtime.engines.backends.load import load_engine
from runtime.engines.manifest import EngineName, Manifest
from runtime.ops.boxes import select_boxes, token_windows
from runtime.ops.model_input import branch_inputs
from runtime.ops.preprocess import normalize_contrast
from runtime.types import F32, Arrays


def check_plans(
    directory: Path,
    manifest: Manifest,
    plans: Mapping[EngineName, Engine],
    *,
    max_batch: int,
    max_boxes: int,
    image: NDArray[np.generic] | None = None,
    tolerance: HalfTolerance | None = None,
    on_engine: Callable[[str], None] = lambda name: None,
) -> list[GateCheck]:
    """Run each plan on onnxruntime's output of the engine before it, so an error shows where it arises.

    Args:
        directory: directory of the ONNX files.
        manifest: lists the engines and states how to prepare the image.
        plans: the engines to check.
        max_batch: most images per encoder call; two are sent if it takes two.
        max_boxes: most boxes per call of the mask decoder.
        image: image to run on; default, the image in the package.
        tolerance: default, the gates of half precision.
        on_engine: called with the name of each engine before it runs.
    """
    limits = tolerance or HalfTolerance()
    normalized = normalize_contrast(verification_image() if image is None else image)
    branches = branch_inputs(normalized, manifest, detector=manifest.has_detector)

    def on_cpu(name: EngineName) -> Engine:
        on_engine(name)
        spec = manifest.engines[name]
        return load_engine(directory / spec.file, spec, backend="cpu", options=BackendOptions())

    checks: list[GateCheck] = []
    batch = np.stack((branches.mask, branches.mask[..., ::-1]))
    encoder = on_cpu("encoder")
    expected = run_cast(encoder, {"pixel_values": batch})
    checks += _relative("encoder", plans, {"pixel_values": batch[:max_batch]}, expected, limits)
    prompts = FIXED_BOXES[:0]
    if branches.box is not None:
        pixels = {"pixel_values": branches.box[None]}
        if manifest.trunk == "separate":
            found = run_cast(on_cpu("detector_encoder"), pixels)
            checks += _relative("detector_encoder", plans, pixels, found, limits)
        else:
            found = run_cast(encoder, pixels)
        features = {"patch_features": found["patch_features"]}
        boxes = run_cast(on_cpu("cellfinder"), features)
        checks += check_detections(run_cast(plans["cellfinder"], features), boxes, manifest.config, limits)
        prompts = select_boxes(boxes["boxes_cxcywh_norm"][0], boxes["logits"][0], manifest.config)[0]
    decoder = on_cpu("mask_decoder")
    runs = [
        (run_cast(plans["mask_decoder"], feeds), run_cast(decoder, feeds))
        for feeds in _decoder_feeds(expected["image_embedding"], prompts, manifest, max_boxes)
    ]
    return checks + check_masks(runs, manifest.config, limits)


def _relative(
    engine: EngineName, plans: Mapping[EngineName, Engine], feeds: Arrays, expected: Arrays, limits: HalfTolerance
) -> Iterator[GateCheck]:
    found = run_cast(plans[engine], feeds)
    for name, array in found.items():
        yield check_relative(engine, name, array, expected[name][: len(array)], limits)


def _decoder_feeds(embeddings: F32, detected: F32, manifest: Manifest, most: int) -> Iterator[Arrays]:
    """Yield decoder calls: the fixed boxes of both images, as whole masks and windows; then the detected boxes.

    Args:
        embeddings: (2, C, G, G).
        detected: boxes (K, 4) xyxy of the first image, as fractions of its sides.
        manifest: has the sizes.
        most: most boxes per call.
    """
    fixed = FIXED_BOXES, FIXED_IMAGES
    found = detected[:most], np.zeros(len(detected[:most]), np.int64)
    for (boxes, images), full in ((fixed, True), (fixed, False), (found, False)):
        in_model = boxes * np.float32(manifest.image_size)
        origin, side = token_windows(in_model, manifest.image_size, manifest.grid_size, full=full)
        for length in np.unique(side):
            chosen = np.flatnonzero(side == length)[:most]
            tokens = np.arange(length)
            yield {
                "image_embedding": embeddings,
                "image_index": images[chosen],
                "boxes_xyxy_model": in_model[chosen],
                "window_rows": origin[chosen, :1] + tokens,
                "window_cols": origin[chosen, 1:] + tokens,
            }
