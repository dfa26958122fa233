"""Half-precision engines against the PyTorch model in float32: by what a user would notice, not by the last bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit

from export.verify import Arrays, load_stage, mask_decoder_reference, references, verification_image
from runtime.backends import Engine
from runtime.boxes import cxcywh_to_xyxy, select_boxes
from runtime.config import SegmentConfig
from runtime.manifest import Manifest
from runtime.preprocess import normalize_contrast
from training.model import CellSAM

F32 = NDArray[np.float32]

MOST_MASKS = 32
"""Detected boxes whose masks are compared, beside the fixed ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class HalfTolerance:
    """How far half precision may be from float32."""

    relative_error: float = 0.01
    """Of features and embedding: norm of the difference by the norm."""
    box_px: float = 1.0
    """Of the corners of kept boxes, in pixels of a 1024-pixel image."""
    kept_share: float = 0.01
    """Of the kept boxes, that may be kept by one side alone; one box always may."""
    mask_iou_mean: float = 0.995
    mask_iou_min: float = 0.94
    iou_estimate: float = 0.02


@dataclass(frozen=True, slots=True)
class GateCheck:
    """One measure of one engine's output beside its limit."""

    stage: str
    output: str
    measure: str
    value: float
    limit: float
    at_least: bool = False
    """Whether the value must reach the limit; else it must not exceed it."""

    @property
    def passed(self) -> bool:
        """NaN never passes."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        sign, verdict = ">=" if self.at_least else "<=", "ok" if self.passed else "FAILED"
        return f"{self.stage}.{self.output}: {verdict}, {self.measure} {self.value:.4g} (wanted {sign} {self.limit:g})"


def verify_half_engines(
    directory: Path,
    manifest: Manifest,
    model: CellSAM,
    *,
    image: NDArray[np.generic] | None = None,
    tolerance: HalfTolerance | None = None,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> list[GateCheck]:
    """Run every half-precision engine on the CPU; each stage gets PyTorch's output of the stage before.

    Args:
        directory: where the engine files lie.
        manifest: says which there are and how the image is prepared.
        model: the unreduced model, float32.
        image: what to run on; default, the image that comes with the package.
        tolerance: default, ``HalfTolerance()``.
        on_stage: called with the name of each stage before it runs.
    """
    limits = tolerance or HalfTolerance()
    normalized = normalize_contrast(verification_image() if image is None else image)
    checks: list[GateCheck] = []
    prompts = np.zeros((0, 4), np.float32)
    with torch.inference_mode():
        for stage, feeds, expected in references(model, manifest, normalized):
            on_stage(stage)
            engine = load_stage(directory, manifest, stage)
            if stage == "cellfinder":
                found = _run(engine, feeds)
                checks += _check_detections(found, expected, manifest, limits)
                boxes = select_boxes(expected["boxes_cxcywh_norm"][0], expected["logits"][0], manifest.config)[0]
                prompts = boxes[:MOST_MASKS] * np.float32(manifest.image_size)
            elif stage == "mask_decoder":
                checks += _check_masks(engine, feeds, expected, model, prompts, manifest.config, limits)
            else:
                found = _run(engine, feeds)
                checks += [_relative(stage, name, found[name], expected[name], limits) for name in expected]
    return checks


def _run(engine: Engine, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
    """Run an engine on float32 inputs, cast to what it takes."""
    return engine({tensor.name: feeds[tensor.name].astype(tensor.dtype) for tensor in engine.inputs})


def _relative(stage: str, output: str, found: NDArray[Any], expected: F32, limits: HalfTolerance) -> GateCheck:
    error = np.linalg.norm((found.astype(np.float64) - expected).ravel()) / np.linalg.norm(expected.ravel())
    return GateCheck(stage, output, "relative error", float(error), limits.relative_error)


def _check_detections(
    found: Arrays, expected: Mapping[str, F32], manifest: Manifest, limits: HalfTolerance
) -> list[GateCheck]:
    """The kept boxes of the first image: the same ones, in the same places."""
    kept = [_kept(outputs, manifest.config) for outputs in (found, expected)]
    both, either = kept[0] & kept[1], kept[0] | kept[1]
    corners = [cxcywh_to_xyxy(outputs["boxes_cxcywh_norm"][0][both]) for outputs in (found, expected)]
    moved = float(np.abs(corners[0] - corners[1]).max(initial=0.0)) * 1024
    alone, allowed = float((either & ~both).sum()), max(1.0, limits.kept_share * int(either.sum()))
    return [
        GateCheck("cellfinder", "boxes_cxcywh_norm", "pixels of 1024", moved, limits.box_px),
        GateCheck("cellfinder", "logits", "boxes kept by one alone", alone, allowed),
    ]


def _kept(outputs: Mapping[str, F32], config: SegmentConfig) -> NDArray[np.bool_]:
    """(A): queries of the first image of which any class passes the cut."""
    logits = outputs["logits"][0]
    cut = select_boxes(outputs["boxes_cxcywh_norm"][0], logits, config)[2]
    kept: NDArray[np.bool_] = expit(logits.astype(np.float64)).max(axis=1) > cut
    return kept


def _check_masks(
    engine: Engine,
    feeds: Arrays,
    expected: Mapping[str, F32],
    model: CellSAM,
    prompts: F32,
    config: SegmentConfig,
    limits: HalfTolerance,
) -> list[GateCheck]:
    """Masks of the fixed boxes and of the detected ones."""
    runs = [(feeds, expected)]
    if len(prompts):
        embedding = torch.from_numpy(feeds["image_embedding"][:1])
        index = torch.zeros(len(prompts), dtype=torch.long)
        runs.append(mask_decoder_reference(model, embedding, torch.from_numpy(prompts), index)[1:])
    overlaps, estimates = [], []
    for inputs, wanted in runs:
        found = _run(engine, inputs)
        a, b = (logits > config.mask_threshold_logit for logits in (found["mask_logits"], wanted["mask_logits"]))
        union = (a | b).sum(axis=(1, 2))
        overlaps.append(np.where(union, (a & b).sum(axis=(1, 2)) / np.maximum(union, 1), 1.0))
        estimates.append(np.abs(found["iou_predictions"] - wanted["iou_predictions"]))
    iou = np.concatenate(overlaps)
    estimate = float(np.concatenate(estimates).max())
    stage, masks = "mask_decoder", "mask_logits"
    return [
        GateCheck(stage, masks, "mean mask IoU", float(iou.mean()), limits.mask_iou_mean, at_least=True),
        GateCheck(stage, masks, "least mask IoU", float(iou.min()), limits.mask_iou_min, at_least=True),
        GateCheck(stage, "iou_predictions", "largest error", estimate, limits.iou_estimate),
    ]
