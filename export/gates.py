"""What engines must reach that cannot match bit for bit: gates on what a user would notice.

Engines in half precision or integers and TensorRT plans are held to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from runtime.config import SegmentConfig
from runtime.engines.backends.base import Engine
from runtime.ops.boxes import cxcywh_to_xyxy, select_boxes
from runtime.types import Arrays


@dataclass(frozen=True, kw_only=True, slots=True)
class HalfTolerance:
    """How far engines may be from float32; the defaults are those of float16."""

    relative_error: float = 0.01
    """Of features and embedding: norm of the difference by the norm."""
    box_px: float = 1.0
    """Of the corners of kept boxes, in pixels of a 1024-pixel image."""
    kept_share: float = 0.01
    """Of the kept boxes, that may be kept by one side alone; one box always may."""
    mask_iou_mean: float = 0.995
    mask_iou_min: float = 0.94
    iou_estimate: float = 0.02


BFLOAT16 = HalfTolerance(relative_error=0.04)
"""Eight bits of a number where float16 has eleven: features differ more, what comes of them must not."""

INTEGERS = HalfTolerance(relative_error=0.04)
"""Of encoders in 8-bit integers: those of ``nano`` are off by 1.5 %, of a ViT-B of random weights by 3.3 %, both beside
bfloat16 (``benchmarks/results/int8-*.json``). Boxes and masks are those that come of the features."""


@dataclass(frozen=True, slots=True)
class GateCheck:
    """One measure of one engine's output beside its limit."""

    engine: str
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
        return f"{self.engine}.{self.output}: {verdict}, {self.measure} {self.value:.4g} (wanted {sign} {self.limit:g})"


def run_cast(engine: Engine, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
    """Run an engine on float32 inputs, cast to what it takes."""
    return engine({tensor.name: feeds[tensor.name].astype(tensor.dtype) for tensor in engine.inputs})


def check_relative(
    engine: str, output: str, found: NDArray[Any], expected: NDArray[Any], limits: HalfTolerance
) -> GateCheck:
    """Norm of the difference by the norm of what is expected."""
    error = np.linalg.norm((found.astype(np.float64) - expected).ravel()) / np.linalg.norm(
        expected.astype(np.float64).ravel()
    )
    return GateCheck(engine, output, "relative error", float(error), limits.relative_error)


def check_detections(
    found: Arrays, expected: Mapping[str, NDArray[Any]], config: SegmentConfig, limits: HalfTolerance
) -> list[GateCheck]:
    """The kept boxes of the first image: the same ones, in the same places."""
    kept = [_kept(outputs, config) for outputs in (found, expected)]
    both, either = kept[0] & kept[1], kept[0] | kept[1]
    corners = [cxcywh_to_xyxy(outputs["boxes_cxcywh_norm"][0][both]) for outputs in (found, expected)]
    moved = float(np.abs(corners[0] - corners[1]).max(initial=0.0)) * 1024
    alone, allowed = float((either & ~both).sum()), max(1.0, limits.kept_share * int(either.sum()))
    return [
        GateCheck("cellfinder", "boxes_cxcywh_norm", "pixels of 1024", moved, limits.box_px),
        GateCheck("cellfinder", "logits", "boxes kept by one alone", alone, allowed),
    ]


def _kept(outputs: Mapping[str, NDArray[Any]], config: SegmentConfig) -> NDArray[np.bool_]:
    """(A): queries of the first image of which any class passes the cut."""
    logits = outputs["logits"][0]
    cut = select_boxes(outputs["boxes_cxcywh_norm"][0], logits, config)[2]
    kept: NDArray[np.bool_] = expit(logits.astype(np.float64)).max(axis=1) > cut
    return kept


def check_masks(
    runs: Sequence[tuple[Arrays, Mapping[str, NDArray[Any]]]], config: SegmentConfig, limits: HalfTolerance
) -> list[GateCheck]:
    """Masks and IoU estimates of several decoder calls.

    Args:
        runs: what was found and what was expected, of each call.
        config: has the threshold of a mask.
        limits: how far they may be apart.
    """
    overlaps, estimates = [], []
    for found, wanted in runs:
        a, b = (logits > config.mask_threshold_logit for logits in (found["mask_logits"], wanted["mask_logits"]))
        union = (a | b).sum(axis=(1, 2))
        overlaps.append(np.where(union, (a & b).sum(axis=(1, 2)) / np.maximum(union, 1), 1.0))
        estimates.append(np.abs(found["iou_predictions"] - wanted["iou_predictions"]))
    iou = np.concatenate(overlaps)
    estimate = float(np.concatenate(estimates).max())
    engine, masks = "mask_decoder", "mask_logits"
    return [
        GateCheck(engine, masks, "mean mask IoU", float(iou.mean()), limits.mask_iou_mean, at_least=True),
        GateCheck(engine, masks, "least mask IoU", float(iou.min()), limits.mask_iou_min, at_least=True),
        GateCheck(engine, "iou_predictions", "largest error", estimate, limits.iou_estimate),
    ]
