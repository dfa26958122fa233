"""Deterministic weights in the released checkpoint's format, for conformance tests and measurements.

``fill(state_dict, seed)`` overwrites every floating-point tensor of a CellSAM state dict with values that depend only
on (seed, key, shape). Two independent implementations with the same key names therefore have exactly the same weights,
for any initialisers and library versions.

The scales keep activations from vanishing or exploding and spread box scores over (0, 1).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from runtime.types import F32

Keys = dict[str, list[Any]]
"""[shape, dtype] by key."""


def tensor_for(
    key: str, shape: tuple[int, ...], seed: int = 0, class_bias: float = 0.0, class_gain: float = 15.0
) -> F32:
    """Return the float32 array for one state-dict key of the released checkpoint's naming."""
    rng = np.random.RandomState((zlib.crc32(key.encode()) + 7919 * seed) % 2**32)
    x: F32 = rng.standard_normal(shape).astype(np.float32)
    leaf = key.rsplit(".", 1)[-1]
    if key.endswith("transformer.position.weight"):  # anchor points, in [0, 1]
        return rng.uniform(0.02, 0.98, shape).astype(np.float32)
    if ".class_embed." in key and leaf == "bias":
        return np.array([class_bias, class_bias - 2.0], np.float32)
    if ".class_embed." in key:  # one direction for both classes, steep enough to separate the queries
        return np.repeat(class_gain * x[:1], shape[0], axis=0).astype(np.float32)
    if ".bbox_embed." in key and key.endswith("layers.2.bias"):
        return np.array([0.0, 0.0, -2.5, -2.5], np.float32) + 0.05 * x
    if ".bbox_embed." in key and key.endswith("layers.2.weight"):
        return 0.02 * x
    if "output_hypernetworks_mlps" in key and key.endswith("layers.2.bias"):
        return (-0.25 + 0.05 * x).astype(np.float32)
    if leaf == "bias":
        return 0.02 * x
    if len(shape) == 1:  # LayerNorm / GroupNorm gains
        return 1.0 + 0.05 * x
    if "rel_pos" in key or leaf == "pos_embed":
        return 0.2 * x if "rel_pos" in key else 0.1 * x
    if "positional_encoding_gaussian_matrix" in key:
        return x
    if (
        "token" in key
        or "point_embeddings" in key
        or "no_mask_embed" in key
        or "not_a_point" in key
        or "pattern" in key
    ):
        return 0.5 * x
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else shape[0]
    gain = 1.0
    if leaf == "in_proj_weight" or "adapt_pos" in key:  # attention that differs from query to query
        gain = 6.0 if ".cross_attn." in key else 3.0
    elif key.endswith("cross_attn.out_proj.weight"):
        gain = 4.0
    elif "output_upscaling" in key and len(shape) == 4:  # ConvTranspose2d: (in, out, k, k)
        fan_in = shape[0]
    scaled: F32 = (x * (gain / np.sqrt(fan_in))).astype(np.float32)
    return scaled


def fill(
    state_dict: Mapping[str, Any], seed: int = 0, class_bias: float = 0.0, class_gain: float = 15.0
) -> dict[str, F32]:
    """Return ``{key: float32 array}`` for every floating-point entry of ``state_dict`` (torch tensors or arrays).

    Entries that share storage by design get the values of index 0 (the six ``class_embed.N`` and ``bbox_embed.N`` heads
    are one module). ``class_bias`` and ``class_gain`` centre and spread the box scores of a golden file, which stores
    both.
    """
    out = {}
    for key, value in state_dict.items():
        canonical = key
        for head in ("class_embed", "bbox_embed"):
            for n in range(1, 6):
                canonical = canonical.replace(f"{head}.{n}.", f"{head}.0.")
        if "float" not in str(value.dtype):
            continue
        if key.endswith(("pixel_mean", "pixel_std")):
            continue
        out[key] = tensor_for(canonical, tuple(value.shape), seed, class_bias, class_gain)
    return out


def released_keys() -> Keys:
    """Return the keys of the released checkpoint, each with [shape, dtype]."""
    keys: Keys = json.loads(Path(__file__).with_name("released_keys.json").read_text(encoding="utf-8"))
    return keys


def released_checkpoint(keys: Keys, recipe: Mapping[str, Any]) -> dict[str, F32]:
    """Return ``{key: array}`` with the released checkpoint's keys and the weights of a golden file.

    Args:
        keys: output of ``released_keys``.
        recipe: ``seed``, ``class_bias``, ``mode`` and optionally ``class_gain``, as in a loaded golden file. In mode
            ``shared``, the ViT body of the box branch equals that of the mask branch (``model_cp``). With
            ``decoder_seed``, prompt encoder and mask decoder have another seed than the rest.
    """

    class Entry:
        def __init__(self, shape: list[int], dtype: str) -> None:
            self.shape, self.dtype = tuple(shape), dtype

    entries = {key: Entry(*spec) for key, spec in keys.items()}
    gain = float(recipe["class_gain"]) if "class_gain" in recipe else 15.0
    weights = fill(entries, int(recipe["seed"]), float(recipe["class_bias"]), gain)
    if "decoder_seed" in recipe:
        decoder = {key: entry for key, entry in entries.items() if key.startswith(_DECODER)}
        weights |= fill(decoder, int(recipe["decoder_seed"]))
    if str(recipe["mode"]) == "shared":
        body = "cellfinder.decode_head.backbone.body."
        for key in weights:
            if key.startswith(body):
                weights[key] = weights["model_cp.image_encoder." + key[len(body) :]]
    return weights


_DECODER = tuple(f"{branch}.{part}." for branch in ("model", "model_cp") for part in ("prompt_encoder", "mask_decoder"))


def save_released(path: Path, recipe: Mapping[str, Any]) -> Path:
    """Write a checkpoint of ``released_checkpoint``, 1.1 GB, and return its path."""
    weights = released_checkpoint(released_keys(), recipe)
    torch.save({key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in weights.items()}, path)
    return path
