"""Composition of the engines of a directory into one ONNX model, from a raw image to its labels.

The model does what ``Segmenter`` does with ``view_settings``: the whole image is one view. It neither estimates the
scale nor tries the other polarity.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from export.bioimageio.boxes import choose_boxes
from export.bioimageio.contrast import normalize_plane
from export.bioimageio.masks import decode_labels
from export.bioimageio.operators import Operators
from export.errors import ExportError
from runtime.config import SegmentConfig
from runtime.engines.engine_source import EngineSource
from runtime.engines.manifest import Manifest, read_manifest
from runtime.ops.model_input import SAM_MEAN, SAM_STD
from runtime.ops.preprocess import CLAHE_KERNEL_PX, channel_targets
from runtime.pipeline.prepare import lacks_pairs

IMAGE, LABELS = "image", "labels"


def view_settings(manifest: Manifest) -> SegmentConfig:
    """Return the settings of ``Segmenter`` that correspond to the composed model."""
    return replace(manifest.config, invert=False, view_diameter_px=None, diameter_px=None, diameter_um=None)


def compose(directory: Path, channels: int = 1) -> onnx.ModelProto:
    """Compose the engines of a directory.

    Args:
        directory: float32 engines with plain attention, such as those of the built-in model.
        channels: channels of the images, 1 to 3.

    Returns:
        A model from ``image`` (1, channels, S, S) float32, raw intensities, to ``labels`` (1, 1, S, S) int32, where S
        is the side of the model input.

    Raises:
        ExportError: the engines cannot be composed.
        EngineError: the directory is missing, incomplete or altered.
    """
    manifest = read_manifest(directory)
    _check(directory, manifest, channels)
    models = {
        name: onnx.load_model_from_string(EngineSource(directory / spec.file, spec.sha256).read())
        for name, spec in manifest.engines.items()
    }
    config, ops = view_settings(manifest), Operators()
    pixels = _model_input(ops, channels, manifest.image_size)
    encoded = ops.engine(models["encoder"], {"pixel_values": pixels})
    found = ops.engine(models["cellfinder"], {"patch_features": encoded["patch_features"]})
    prompts = choose_boxes(ops, found["boxes_cxcywh_norm"], found["logits"], manifest, config)
    labels = decode_labels(ops, models["mask_decoder"], encoded["image_embedding"], prompts, manifest, config)
    side = manifest.image_size
    batch = ops("Reshape", labels, ops.whole([1, 1, side, side]))
    ops.nodes.append(helper.make_node("Cast", [batch], [LABELS], to=TensorProto.INT32))
    given = helper.make_tensor_value_info(IMAGE, TensorProto.FLOAT, [1, channels, side, side])
    made = helper.make_tensor_value_info(LABELS, TensorProto.INT32, [1, 1, side, side])
    encoder = models["encoder"]
    model = ops.model(given, made, encoder.opset_import[0].version, encoder.ir_version)
    onnx.checker.check_model(model, full_check=True)
    return model


def _model_input(ops: Operators, channels: int, side: int) -> str:
    """Normalise the contrast of each channel and SAM's statistics, (1, 3, side, side), as ``paper_input`` does."""
    targets = {target: place for place, target in enumerate(channel_targets(channels))}
    planes = []
    for target in range(3):
        plane = ops.single(np.zeros((side, side)))
        if target in targets:
            chosen = ops("Gather", IMAGE, ops.whole(targets[target]), axis=1)  # (1, side, side)
            plane = normalize_plane(ops, ops("Reshape", chosen, ops.whole([side, side])), side)
        centred = ops("Sub", ops("Mul", plane, ops.single(255.0)), ops.single(SAM_MEAN[target]))
        planes.append(ops("Unsqueeze", ops("Div", centred, ops.single(SAM_STD[target])), ops.whole([0, 1])))
    return ops("Concat", *planes, axis=1)


def _check(directory: Path, manifest: Manifest, channels: int) -> None:
    """Raise an ``ExportError`` if the engines have a form that cannot be composed."""
    if channels not in (1, 2, 3):
        raise ExportError(f"channels is {channels}; expected 1, 2 or 3. Choose the channels of the images.")
    for right, came, expected in (
        (manifest.has_detector, "no detector", "one; use CellFinder weights"),
        (manifest.trunk == "shared", "separate encoders", "a shared one"),
        (manifest.profile == "paper", f"the preprocessing {manifest.profile!r}", "'paper'"),
        (
            manifest.precision == "fp32",
            f"the precision {manifest.precision!r}",
            "'fp32', from 'cellsam-engine export --precision fp32'",
        ),
        (
            all(engine.attention == "plain" for engine in manifest.engines.values()),
            "fused attention",
            "plain, from 'cellsam-engine export --attention plain'",
        ),
        (
            manifest.config.box_threshold_mode == "fixed",
            f"the box threshold mode {manifest.config.box_threshold_mode!r}",
            "'fixed', from 'cellsam-engine export --settings'",
        ),
        (manifest.config.overlap == "argmax", f"the overlap {manifest.config.overlap!r}", "'argmax'"),
        (
            manifest.image_size % CLAHE_KERNEL_PX == 0,
            f"an input of {manifest.image_size} pixels",
            f"a multiple of {CLAHE_KERNEL_PX}",
        ),
        (
            channels != 2 or not lacks_pairs(manifest.trained_channels),
            "weights that were trained on images of one channel",
            "such images: choose 1 channel",
        ),
    ):
        if not right:
            raise ExportError(
                f"{directory} has {came}; expected {expected}. Other engines run in the package itself.",
                kind="unsupported",
            )
