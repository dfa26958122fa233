"""Baselines of the engines: PyTorch with the same weights, and the network of Cellpose-SAM.

All variants get the same image, decode the same boxes and return a label map.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measure import StepTimes, Variant
from export.sample_image import verification_image
from runtime import SegmentConfig
from runtime.engines.manifest import read_manifest
from runtime.ops.boxes import scale_xyxy, select_boxes
from runtime.ops.masks import LabelCanvas, finish_labels
from runtime.ops.model_input import branch_inputs
from runtime.ops.preprocess import normalize_contrast
from training.checkpoint import load_checkpoint

TOGETHER = 32
"""Boxes per call if PyTorch batches them."""
KEEP_ALL = SegmentConfig(iou_threshold=-1e9, mask_window="box")


@dataclass(frozen=True)
class Case:
    """Image and boxes of a measurement."""

    size_px: int
    boxes: int

    def image(self) -> NDArray[np.generic]:
        """Return a real image of nuclei, mirrored to the size."""
        small = verification_image()
        return np.pad(small, [(0, max(0, self.size_px - side)) for side in small.shape], mode="reflect")[
            : self.size_px, : self.size_px
        ]

    def prompts(self) -> NDArray[np.float64]:
        """Return boxes of the size of nuclei, spread over the image, (boxes, 4) xyxy."""
        rng = np.random.default_rng(0)
        sides = rng.uniform(0.03, 0.08, (self.boxes, 2)) * self.size_px
        corner = rng.uniform(0, self.size_px - sides)
        return np.concatenate((corner, corner + sides), 1)


class Clock:
    """Seconds by step; waits for work queued on a GPU."""

    def __init__(self, device: str = "cpu") -> None:
        self.steps: StepTimes = {}
        self._device = device

    def time(self, step: str, work: Callable[[], Any]) -> Any:
        """Run ``work`` as a step."""
        start = time.perf_counter()
        result = work()
        if self._device != "cpu":
            torch.cuda.synchronize(self._device)
        self.steps[step] = time.perf_counter() - start
        return result


def in_model_frame(case: Case, image_size: int) -> tuple[NDArray[np.generic], tuple[int, int], torch.Tensor]:
    """Return the image, its size, and the prompts in model pixels, (K, 4) float32."""
    image = case.image()
    size_hw = (image.shape[0], image.shape[1])
    boxes = scale_xyxy(case.prompts(), size_hw, (image_size, image_size))
    return image, size_hw, torch.from_numpy(boxes.astype(np.float32))


def paint_masks(canvas: LabelCanvas, first: int, logits: torch.Tensor, *sizes_hw: tuple[int, int]) -> None:
    """Resize whole masks (K, 1, h, w) from size to size, as SAM does, and paint them from index ``first`` on."""
    for size_hw in sizes_hw:
        logits = torch.nn.functional.interpolate(logits, size_hw, mode="bilinear", align_corners=False)
    for index, mask in enumerate(logits[:, 0].cpu().numpy(), start=first):
        canvas.add(index, mask, (0, 0))


def choose(boxes: torch.Tensor, logits: torch.Tensor) -> None:
    """Choose the boxes of one image, on the host."""
    select_boxes(boxes[0].float().cpu().numpy(), logits[0].float().cpu().numpy(), KEEP_ALL)


def batched_bfloat16(checkpoint: Path, directory: Path, case: Case, device: str, *, compiled: bool = False) -> Variant:
    """Return a variant of optimised PyTorch: bfloat16, one ViT pass for equal inputs, batched boxes.

    Args:
        checkpoint: the weights.
        directory: engines of the same weights; their manifest defines the preprocessing.
        case: image and boxes.
        device: ``cpu`` or ``cuda``.
        compiled: use ``torch.compile``; the first run compiles.
    """
    manifest, model = read_manifest(directory), load_checkpoint(checkpoint).model.to(device)
    image, size_hw, prompts = in_model_frame(case, manifest.image_size)
    prompts = prompts.to(device)
    wrap: Callable[[Any], Any] = torch.compile if compiled else lambda work: work
    steps = {name: wrap(getattr(model, name)) for name in ("encode", "detector_features", "detect", "decode")}

    def encode() -> tuple[torch.Tensor, torch.Tensor]:
        inputs = branch_inputs(normalize_contrast(image), manifest)
        assert inputs.box is not None
        mask = steps["encode"](torch.from_numpy(inputs.mask[None]).to(device))
        if inputs.box is inputs.mask and manifest.trunk == "shared":
            return mask.image_embedding, mask.patch_features
        return mask.image_embedding, steps["detector_features"](torch.from_numpy(inputs.box[None]).to(device))

    def detect(features: torch.Tensor) -> None:
        found = steps["detect"](features)
        choose(found.boxes_cxcywh_norm, found.logits)

    def decode(embedding: torch.Tensor) -> NDArray[np.int32]:
        canvas = LabelCanvas(size_hw, KEEP_ALL)
        for start in range(0, len(prompts), TOGETHER):
            logits = steps["decode"](embedding, prompts[start : start + TOGETHER]).low_res_masks.float()
            paint_masks(canvas, start, logits, (manifest.image_size,) * 2, size_hw)
        return finish_labels(canvas.owner, len(prompts), KEEP_ALL)[0]

    @torch.inference_mode()
    def run() -> tuple[StepTimes, NDArray[np.int32]]:
        clock = Clock(device)
        with torch.autocast(device, torch.bfloat16):
            embedding, features = clock.time("encode", encode)
            clock.time("detect", lambda: detect(features))
            labels = clock.time("decode", lambda: decode(embedding))
        return clock.steps, labels

    return run


def released_procedure(checkpoint: Path, directory: Path, case: Case, device: str) -> Variant:
    """Return a variant of float32 PyTorch in the steps of the released code; arguments as in ``batched_bfloat16``."""
    manifest, model = read_manifest(directory), load_checkpoint(checkpoint).model.to(device)
    image, size_hw, prompts = in_model_frame(case, manifest.image_size)
    prompts = prompts.to(device)

    def encode() -> tuple[torch.Tensor, torch.Tensor]:
        inputs = branch_inputs(normalize_contrast(image), manifest)
        assert inputs.box is not None
        embedding = model.encode(torch.from_numpy(inputs.mask[None]).to(device)).image_embedding
        return embedding, model.detector_features(torch.from_numpy(inputs.box[None]).to(device))

    def detect(features: torch.Tensor) -> None:
        found = model.detect(features, auxiliary=True)
        choose(found.boxes_cxcywh_norm, found.logits)

    def decode(embedding: torch.Tensor) -> NDArray[np.int32]:
        canvas = LabelCanvas(size_hw, KEEP_ALL)
        for index, box in enumerate(prompts):
            logits = model.decode(embedding, box[None]).low_res_masks
            paint_masks(canvas, index, logits, (manifest.image_size,) * 2, size_hw)
        return finish_labels(canvas.owner, len(prompts), KEEP_ALL)[0]

    @torch.inference_mode()
    def run() -> tuple[StepTimes, NDArray[np.int32]]:
        clock = Clock(device)
        embedding, features = clock.time("encode", encode)
        clock.time("detect", lambda: detect(features))
        labels = clock.time("decode", lambda: decode(embedding))
        return clock.steps, labels

    return run


def cellpose_network(case: Case, device: str) -> Variant:
    """Return a variant of Cellpose-SAM's network, with random weights and Cellpose's tiles, without its masks."""
    from cellpose.core import run_net
    from cellpose.vit import CPSAM

    network = CPSAM().eval().to(device)
    image = normalize_contrast(case.image())[None]

    @torch.inference_mode()
    def run() -> tuple[StepTimes, NDArray[np.int32]]:
        clock = Clock(device)
        clock.time("encode", lambda: run_net(network, image, bsize=256))
        clock.steps.update(detect=0.0, decode=0.0)
        return clock.steps, np.zeros((case.size_px, case.size_px), np.int32)

    return run
