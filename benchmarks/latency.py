"""Latency of one image, all stages: the engines beside the PyTorch model run as the released code runs it.

    python -m benchmarks.latency --checkpoint cellsam_general.pt --engines engines

The baseline runs the ViT once per branch, decodes one box at a time and resizes each mask to the whole image, as the
released CellSAM code (commit 35bc6e0) does. Both get the same image and the same boxes to decode.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.measure import Stages, Variant, measure_in_turn, write_record
from export.sample_image import verification_image
from runtime import SegmentConfig, Segmenter
from runtime.boxes import scale_xyxy, select_boxes
from runtime.masks import LabelCanvas, finish_labels
from runtime.preprocess import branch_inputs, normalize_contrast
from training.checkpoint import load_checkpoint

KEEP_ALL = SegmentConfig(iou_threshold=-1e9, mask_window="box")


@dataclass(frozen=True)
class Case:
    """What is segmented."""

    size_px: int
    boxes: int

    def image(self) -> NDArray[np.generic]:
        """A real image of nuclei, mirrored to the size."""
        small = verification_image()
        return np.pad(small, [(0, max(0, self.size_px - side)) for side in small.shape], mode="reflect")[
            : self.size_px, : self.size_px
        ]

    def prompts(self) -> NDArray[np.float64]:
        """Boxes of the size of nuclei, spread over the image."""
        rng = np.random.default_rng(0)
        sides = rng.uniform(0.03, 0.08, (self.boxes, 2)) * self.size_px
        corner = rng.uniform(0, self.size_px - sides)
        return np.concatenate((corner, corner + sides), 1)


class Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.stages: Stages = {}

    def time(self, stage: str, work: Callable[[], Any]) -> Any:
        """Run ``work`` as a stage."""
        start = time.perf_counter()
        result = work()
        self.stages[stage] = time.perf_counter() - start
        return result


def engines(directory: Path, case: Case, window: str) -> Variant:
    """The runtime on an engine directory."""
    config = replace(KEEP_ALL, mask_window=window)  # type: ignore[arg-type]
    segmenter, image, boxes = Segmenter(directory, backend="cpu"), case.image(), case.prompts()

    def run() -> tuple[Stages, NDArray[np.int32]]:
        clock = Clock()
        encoded = clock.time("encode", lambda: segmenter.encode(image))
        clock.time("detect", lambda: segmenter.detect(encoded))
        result = clock.time("decode", lambda: segmenter.decode(encoded, boxes, config=config))
        return clock.stages, result.labels

    return run


def released_procedure(checkpoint: Path, directory: Path, case: Case) -> Variant:
    """PyTorch in float32, in the steps of the released code."""
    from runtime.manifest import read_manifest

    manifest, model = read_manifest(directory), load_checkpoint(checkpoint).model
    image, boxes = case.image(), case.prompts()
    size_hw = (image.shape[0], image.shape[1])
    prompts = torch.from_numpy(scale_xyxy(boxes, size_hw, (manifest.image_size,) * 2).astype(np.float32))

    def encode() -> tuple[torch.Tensor, torch.Tensor]:
        inputs = branch_inputs(normalize_contrast(image), manifest)
        assert inputs.box is not None
        embedding = model.encode(torch.from_numpy(inputs.mask[None])).image_embedding
        return embedding, model.detector_features(torch.from_numpy(inputs.box[None]))

    def detect(features: torch.Tensor) -> None:
        found = model.detect(features, auxiliary=True)
        select_boxes(found.boxes_cxcywh_norm[0].numpy(), found.logits[0].numpy(), KEEP_ALL)

    def decode(embedding: torch.Tensor) -> NDArray[np.int32]:
        canvas = LabelCanvas(size_hw, KEEP_ALL)
        for index, box in enumerate(prompts):
            logits = model.decode(embedding, box[None]).low_res_masks
            for target in ((manifest.image_size,) * 2, size_hw):
                logits = torch.nn.functional.interpolate(logits, target, mode="bilinear", align_corners=False)
            canvas.add(index, logits[0, 0].numpy(), (0, 0))
        return finish_labels(canvas.owner, len(prompts), KEEP_ALL)[0]

    @torch.inference_mode()
    def run() -> tuple[Stages, NDArray[np.int32]]:
        clock = Clock()
        embedding, features = clock.time("encode", encode)
        clock.time("detect", lambda: detect(features))
        labels = clock.time("decode", lambda: decode(embedding))
        return clock.stages, labels

    return run


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="the weights the engines were made from")
    parser.add_argument("--engines", type=Path, required=True, help="engine directory")
    parser.add_argument("--size", type=int, default=512, help="side of the image, pixels")
    parser.add_argument("--boxes", type=int, default=100, help="boxes to decode")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    case = Case(options.size, options.boxes)
    variants = {
        "released procedure, PyTorch": partial(released_procedure, options.checkpoint, options.engines, case),
        "engines, full masks": partial(engines, options.engines, case, "full"),
        "engines": partial(engines, options.engines, case, "box"),
    }
    measured = measure_in_turn(variants, warmup=options.warmup, runs=options.runs)
    baseline, full = measured["released procedure, PyTorch"], measured["engines, full masks"]
    summaries = {name: result.summary() for name, result in measured.items()}
    slow = summaries["released procedure, PyTorch"]["total_ms"]["p50"]
    content = {
        "image_px": [case.size_px, case.size_px],
        "boxes": case.boxes,
        "batch": 1,
        "warmup": options.warmup,
        "baseline": "released procedure, PyTorch",
        "variants": summaries,
        "speedup": {name: round(slow / s["total_ms"]["p50"], 2) for name, s in summaries.items()},
        "labels_equal_to_baseline_full_masks": float((baseline.labels == full.labels).mean()),
    }
    print(write_record(options.out, "latency", content))  # noqa: T201


if __name__ == "__main__":
    main()
