"""Reference outputs: PyTorch's results for each engine on a real image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.rounding import OtherRounding, double_precision
from export.sample_image import FIXED_BOXES, FIXED_IMAGES
from runtime.engines.manifest import EngineName, Manifest
from runtime.ops.boxes import LOGITS_PER_TOKEN
from runtime.ops.model_input import branch_inputs
from runtime.types import F32, F64, Arrays
from training.model import CellSAM, ModelConfig
from training.model.windowed import Windows


def references(
    model: CellSAM, manifest: Manifest, normalized: F32
) -> Iterator[tuple[EngineName, Arrays, dict[str, F32]]]:
    """Yield each engine's input and PyTorch's outputs for it, float32; inputs are PyTorch's outputs of earlier engines.

    Args:
        model: the unreduced model, float32.
        manifest: states how to prepare the image.
        normalized: (H, W, 3), see ``runtime.ops.preprocess``.
    """
    branches = branch_inputs(normalized, manifest)
    assert branches.box is not None
    feeds: Arrays = {"pixel_values": branches.mask[None]}
    outputs = engine_outputs(model, "encoder", feeds)
    yield "encoder", feeds, outputs
    embedding = outputs["image_embedding"]
    if model.detector_encoder is not None:
        feeds = {"pixel_values": branches.box[None]}
        outputs = engine_outputs(model, "detector_encoder", feeds)
        yield "detector_encoder", feeds, outputs
    if model.cellfinder is not None:
        feeds = {"patch_features": outputs["patch_features"]}
        yield "cellfinder", feeds, engine_outputs(model, "cellfinder", feeds)
    mirrored = np.concatenate((embedding, embedding[..., ::-1]))  # two images, the second one mirrored
    boxes = FIXED_BOXES * np.float32(model.config.image_size)
    feeds = mask_decoder_feeds(mirrored, boxes, FIXED_IMAGES)
    if model.config.windowed_decoder:
        feeds |= _half_windows(boxes, model.config)
    yield "mask_decoder", feeds, engine_outputs(model, "mask_decoder", feeds)


def mask_decoder_feeds(image_embedding: F32, boxes_xyxy_model: F32, image_index: NDArray[np.int64]) -> Arrays:
    """Build inputs of the mask decoder for whole masks.

    Args:
        image_embedding: (B, C, G, G).
        boxes_xyxy_model: (K, 4), model pixels.
        image_index: (K,), the image of each box.
    """
    tokens = np.tile(np.arange(image_embedding.shape[-1]), (len(boxes_xyxy_model), 1))
    return {
        "image_embedding": image_embedding,
        "image_index": image_index,
        "boxes_xyxy_model": boxes_xyxy_model,
        "window_rows": tokens,
        "window_cols": tokens,
    }


def _half_windows(boxes_xyxy_model: F32, config: ModelConfig) -> Arrays:
    """Build windows of half the grid's side, centred on the boxes, for a decoder that sees nothing beyond them."""
    side = config.grid_size // 2
    middle = (boxes_xyxy_model[:, :2] + boxes_xyxy_model[:, 2:]) / 2 * (config.grid_size / config.image_size)
    first = np.clip(middle.astype(np.int64) - side // 2, 0, config.grid_size - side)
    columns, rows = (first[:, axis, None] + np.arange(side) for axis in (0, 1))
    return {"window_rows": rows, "window_cols": columns}


@torch.inference_mode()
def engine_outputs(model: CellSAM, engine: EngineName, feeds: Arrays) -> dict[str, F32]:
    """Compute PyTorch's float32 outputs for an engine, named as the engine's; whole masks for the mask decoder.

    Args:
        model: the unreduced model, float32.
        engine: name of the engine.
        feeds: the engine's inputs.
    """
    inputs = {name: torch.from_numpy(array) for name, array in feeds.items()}
    return {name: tensor.numpy() for name, tensor in _outputs(model, engine, inputs).items()}


@torch.inference_mode()
def exact_outputs(model: CellSAM, engine: EngineName, feeds: Arrays) -> dict[str, F64]:
    """Compute the outputs in float64 from the same float32 inputs; see ``double_precision``."""
    inputs = {name: torch.from_numpy(array) for name, array in feeds.items()}
    with double_precision(model):
        return {name: tensor.numpy() for name, tensor in _outputs(model, engine, inputs).items()}


@torch.inference_mode()
def rerounded_outputs(model: CellSAM, engine: EngineName, feeds: Arrays, seed: int) -> dict[str, F32]:
    """Compute the float32 outputs with inputs and weights changed by up to one unit in the last place.

    Args:
        model: the unreduced model, float32.
        engine: name of the engine.
        feeds: the engine's inputs.
        seed: seed of the changes.
    """
    rounding = OtherRounding(seed)
    inputs = {name: torch.from_numpy(array) for name, array in feeds.items()}
    moved = {name: rounding.last_bits(x) if x.is_floating_point() else x for name, x in inputs.items()}
    with rounding:
        return {name: tensor.numpy() for name, tensor in _outputs(model, engine, moved).items()}


def _outputs(model: CellSAM, engine: EngineName, feeds: dict[str, Tensor]) -> dict[str, Tensor]:
    if engine == "encoder":
        features, embedding = model.encode(feeds["pixel_values"])
        shared = model.cellfinder is not None and model.detector_encoder is None
        return {"patch_features": features, "image_embedding": embedding} if shared else {"image_embedding": embedding}
    if engine == "detector_encoder":
        return {"patch_features": model.detector_features(feeds["pixel_values"])}
    if engine == "cellfinder":
        found = model.detect(feeds["patch_features"])
        return {"boxes_cxcywh_norm": found.boxes_cxcywh_norm, "logits": found.logits}
    embeddings = feeds["image_embedding"]
    windowed = model.config.windowed_decoder
    masks, estimates = [], []
    names = ("image_index", "boxes_xyxy_model", "window_rows", "window_cols")
    for i, box, rows, columns in zip(*(feeds[name] for name in names), strict=True):
        seen = [Windows(torch.zeros(1, dtype=torch.long), rows[None], columns[None])] if windowed else None
        decoded = model.decode(embeddings[i : i + 1], box[None], windows=seen)
        low_res = decoded.low_res_masks[0, 0]
        masks.append(_cut(low_res, rows, columns) if windowed else low_res)
        estimates.append(decoded.iou_predictions[:, 0])
    return {"mask_logits": torch.stack(masks), "iou_predictions": torch.cat(estimates)}


def _cut(mask: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Cut the part of a mask (4G, 4G) that belongs to consecutive token rows and columns."""
    y, x = (LOGITS_PER_TOKEN * int(tokens[0]) for tokens in (rows, columns))
    return mask[y : y + LOGITS_PER_TOKEN * len(rows), x : x + LOGITS_PER_TOKEN * len(columns)]
