"""Gates for engines that cannot match PyTorch bit for bit: limits on differences that a user would notice.

They apply to engines in half precision or integers, and to TensorRT plans. Polygraphy compares outputs element by
element or by a norm that it does not relate to the values; it knows neither boxes nor masks.
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
    """Limits on differences from float32; the defaults are for float16."""

    relative_error: float = 0.01
    """Limit for features and embedding: norm of the difference divided by the norm."""
    box_px: float = 1.0
    """Limit for the corners of kept boxes, in pixels of a 1024-pixel image."""
    kept_share: float = 0.01
    """Share of the kept boxes that only one side may keep; one box is always allowed."""
    mask_iou_mean: float = 0.995
    mask_iou_min: float = 0.94
    iou_estimate: float = 0.02


BFLOAT16 = HalfTolerance(relative_error=0.04)
"""For bfloat16, with 8 significant bits instead of 11: features may differ more, boxes and masks may not."""

INTEGERS = HalfTolerance(relative_error=0.04)
"""For encoders in 8-bit integers. Those of ``nano`` differ by 1.5 %, those of a ViT-B with random weights by 3.3 %,
both beside bfloat16 (``benchmarks/results/int8-*.json``). Boxes and masks are checked on these encoders' features."""


@dataclass(frozen=True, slots=True)
class GateCheck:
    """One measure of one engine's output, with its limit."""

    engine: str
    output: str
    measure: str
    value: float
    limit: float
    at_least: bool = False
    """Whether the value must reach the limit; otherwise it must not exceed it."""

    @property
    def passed(self) -> bool:
        """Whether the value is within its limit; NaN never is."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        sign, verdict = ">=" if self.at_least else "<=", "ok" if self.passed else "FAILED"
        return (
            f"{self.engine}.{self.output}: {verdict}, {self.measure} {self.value:.4g} (expected {sign} {self.limit:g})"
        )


def run_cast(engine: Engine, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
    """Run an engine on float32 inputs, cast to the dtypes of its inputs."""
    return engine({tensor.name: feeds[tensor.name].astype(tensor.dtype) for tensor in engine.inputs})


def check_relative(
    engine: str, output: str, found: NDArray[Any], expected: NDArray[Any], limits: HalfTolerance
) -> GateCheck:
    """Check the norm of the difference divided by the norm of the expected values."""
    error = np.linalg.norm((found.astype(np.float64) - expected).ravel()) / np.linalg.norm(
        expected.astype(np.float64).ravel()
    )
    return GateCheck(engine, output, "relative error", float(error), limits.relative_error)


def check_detections(
    found: Arrays, expected: Mapping[str, NDArray[Any]], config: SegmentConfig, limits: HalfTolerance
) -> list[GateCheck]:
    """Check that both sides keep the same boxes of the first image, in the same places."""
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
    """Return (A,) the queries of the first image with a class above the cut."""
    logits = outputs["logits"][0]
    cut = select_boxes(outputs["boxes_cxcywh_norm"][0], logits, config)[2]
    kept: NDArray[np.bool_] = expit(logits.astype(np.float64)).max(axis=1) > cut
    return kept


def check_masks(
    runs: Sequence[tuple[Arrays, Mapping[str, NDArray[Any]]]], config: SegmentConfig, limits: HalfTolerance
) -> list[GateCheck]:
    """Check the masks and IoU estimates of several decoder calls.

    Args:
        runs: the found and the expected outputs of each call.
        config: has the mask threshold.
        limits: the limits on differences.
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
