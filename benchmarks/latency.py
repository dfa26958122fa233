"""Latency of one image, all stages: the engines beside the PyTorch model run as the released code runs it.

    python -m benchmarks.latency --checkpoint cellsam_general.pt --engines engines

The baseline runs the ViT once per branch, decodes one box at a time and resizes each mask to the whole image, as the
released CellSAM code (commit 35bc6e0) does. All get the same image and the same boxes to decode. The record also says
what share of this machine's rate of matrix products each run of the engines reaches.
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

from benchmarks.arithmetic import engine_flop, matrix_product_rate
from benchmarks.measure import Stages, Variant, measure_in_turn, write_record
from export.sample_image import verification_image
from runtime import SegmentConfig, Segmenter
from runtime.boxes import scale_xyxy, select_boxes, token_windows
from runtime.config import MaskWindow
from runtime.manifest import read_manifest
from runtime.masks import LabelCanvas, finish_labels
from runtime.preprocess import branch_inputs, normalize_contrast
from training.checkpoint import load_checkpoint

BASELINE = "released procedure, PyTorch"
FULL = "engines, onnxruntime, full masks"
TOGETHER = 32
"""Boxes of one call where PyTorch batches them."""
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


def engines(directory: Path, case: Case, window: MaskWindow, backend: str) -> Variant:
    """The runtime on an engine directory."""
    config = replace(KEEP_ALL, mask_window=window)
    segmenter, image, boxes = Segmenter(directory, backend=backend), case.image(), case.prompts()

    def run() -> tuple[Stages, NDArray[np.int32]]:
        clock = Clock()
        encoded = clock.time("encode", lambda: segmenter.encode(image))
        clock.time("detect", lambda: segmenter.detect(encoded))
        result = clock.time("decode", lambda: segmenter.decode(encoded, boxes, config=config))
        return clock.stages, result.labels

    return run


def in_model_frame(case: Case, image_size: int) -> tuple[NDArray[np.generic], tuple[int, int], torch.Tensor]:
    """Image, its size, and the prompts in model pixels, (K, 4) float32."""
    image = case.image()
    size_hw = (image.shape[0], image.shape[1])
    boxes = scale_xyxy(case.prompts(), size_hw, (image_size, image_size))
    return image, size_hw, torch.from_numpy(boxes.astype(np.float32))


def enter(canvas: LabelCanvas, first: int, logits: torch.Tensor, *sizes_hw: tuple[int, int]) -> None:
    """Resize whole masks (K, 1, h, w) from size to size, as SAM does, and enter them from index ``first`` on."""
    for size_hw in sizes_hw:
        logits = torch.nn.functional.interpolate(logits, size_hw, mode="bilinear", align_corners=False)
    for index, mask in enumerate(logits[:, 0].numpy(), start=first):
        canvas.add(index, mask, (0, 0))


def batched_bfloat16(checkpoint: Path, directory: Path, case: Case) -> Variant:
    """PyTorch at its best without another code: bfloat16, one ViT pass for equal inputs, all boxes in one call."""
    manifest, model = read_manifest(directory), load_checkpoint(checkpoint).model
    image, size_hw, prompts = in_model_frame(case, manifest.image_size)

    def encode() -> tuple[torch.Tensor, torch.Tensor]:
        inputs = branch_inputs(normalize_contrast(image), manifest)
        assert inputs.box is not None
        mask = model.encode(torch.from_numpy(inputs.mask[None]))
        if inputs.box is inputs.mask and manifest.trunk == "shared":
            return mask.image_embedding, mask.patch_features
        return mask.image_embedding, model.detector_features(torch.from_numpy(inputs.box[None]))

    def detect(features: torch.Tensor) -> None:
        found = model.detect(features)
        select_boxes(found.boxes_cxcywh_norm[0].float().numpy(), found.logits[0].float().numpy(), KEEP_ALL)

    def decode(embedding: torch.Tensor) -> NDArray[np.int32]:
        canvas = LabelCanvas(size_hw, KEEP_ALL)
        for start in range(0, len(prompts), TOGETHER):
            logits = model.decode(embedding, prompts[start : start + TOGETHER]).low_res_masks.float()
            enter(canvas, start, logits, (manifest.image_size,) * 2, size_hw)
        return finish_labels(canvas.owner, len(prompts), KEEP_ALL)[0]

    @torch.inference_mode()
    def run() -> tuple[Stages, NDArray[np.int32]]:
        clock = Clock()
        with torch.autocast("cpu", torch.bfloat16):
            embedding, features = clock.time("encode", encode)
            clock.time("detect", lambda: detect(features))
            labels = clock.time("decode", lambda: decode(embedding))
        return clock.stages, labels

    return run


def released_procedure(checkpoint: Path, directory: Path, case: Case) -> Variant:
    """PyTorch in float32, in the steps of the released code."""
    manifest, model = read_manifest(directory), load_checkpoint(checkpoint).model
    image, size_hw, prompts = in_model_frame(case, manifest.image_size)

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
            enter(canvas, index, logits, (manifest.image_size,) * 2, size_hw)
        return finish_labels(canvas.owner, len(prompts), KEEP_ALL)[0]

    @torch.inference_mode()
    def run() -> tuple[Stages, NDArray[np.int32]]:
        clock = Clock()
        embedding, features = clock.time("encode", encode)
        clock.time("detect", lambda: detect(features))
        labels = clock.time("decode", lambda: decode(embedding))
        return clock.stages, labels

    return run


def arithmetic(directory: Path, case: Case) -> dict[str, int]:
    """FLOP of the engines by stage; every box's window counts with its own side."""
    manifest = read_manifest(directory)
    files = {name: directory / spec.file for name, spec in manifest.engines.items()}
    passes = 1 if manifest.profile == "paper" and manifest.trunk == "shared" else 2
    sides = token_windows(
        scale_xyxy(case.prompts(), (case.size_px,) * 2, (manifest.image_size,) * 2).astype(np.float32),
        manifest.image_size,
        manifest.grid_size,
        full=False,
    )[1]
    decode = 0
    for side in np.unique(sides):
        count = int((sides == side).sum())
        shape = {"batch": 1, "boxes": max(2, count), "window_height": int(side), "window_width": int(side)}
        decode += engine_flop(files["mask_decoder"], shape) * count // max(2, count)
    return {
        "encode": passes * engine_flop(files["encoder"], {"batch": 1}),
        "detect": engine_flop(files["cellfinder"], {"batch": 1}),
        "decode": decode,
    }


def cellpose_network(case: Case) -> Variant:
    """The network of Cellpose-SAM with random weights on the tiles that Cellpose cuts; flows to masks not included."""
    from cellpose.core import run_net
    from cellpose.vit import CPSAM

    network = CPSAM().eval()
    image = normalize_contrast(case.image())[None]

    @torch.inference_mode()
    def run() -> tuple[Stages, NDArray[np.int32]]:
        clock = Clock()
        clock.time("encode", lambda: run_net(network, image, bsize=256))
        clock.stages.update(detect=0.0, decode=0.0)
        return clock.stages, np.zeros((case.size_px, case.size_px), np.int32)

    return run


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, help="the weights the engines were made from")
    parser.add_argument("--engines", type=Path, required=True, help="engine directory")
    parser.add_argument("--size", type=int, default=512, help="side of the image, pixels")
    parser.add_argument("--boxes", type=int, default=100, help="boxes to decode")
    parser.add_argument(
        "--cellpose", action="store_true", help="also time Cellpose-SAM's network (pip install cellpose)"
    )
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    case = Case(options.size, options.boxes)
    variants = {
        BASELINE: partial(released_procedure, options.checkpoint, options.engines, case),
        "PyTorch, bfloat16, boxes batched": partial(batched_bfloat16, options.checkpoint, options.engines, case),
        FULL: partial(engines, options.engines, case, "full", "cpu"),
        "engines, onnxruntime": partial(engines, options.engines, case, "box", "cpu"),
        "engines, OpenVINO": partial(engines, options.engines, case, "box", "openvino"),
    }
    if options.cellpose:
        variants["Cellpose-SAM, network only, PyTorch"] = partial(cellpose_network, case)
    measured = measure_in_turn(variants, warmup=options.warmup, runs=options.runs)
    baseline = measured[BASELINE]
    summaries = {name: result.summary() for name, result in measured.items()}
    slow = summaries[BASELINE]["total_ms"]["p50"]
    flop = arithmetic(options.engines, case)
    rates = {precision: matrix_product_rate(precision) for precision in ("fp32", "bf16")}
    content = {
        "image_px": [case.size_px, case.size_px],
        "boxes": case.boxes,
        "batch": 1,
        "warmup": options.warmup,
        "profile": read_manifest(options.engines).profile,
        "baseline": BASELINE,
        "variants": summaries,
        "speedup": {name: round(slow / s["total_ms"]["p50"], 2) for name, s in summaries.items()},
        "labels_equal_to_baseline_full_masks": float((baseline.labels == measured[FULL].labels).mean()),
        "arithmetic_gflop": {stage: round(count / 1e9, 1) for stage, count in flop.items()},
        "matrix_products_gflop_per_s": {precision: round(rate / 1e9, 1) for precision, rate in rates.items()},
        "share_of_matrix_product_rate": {
            name: round(sum(flop.values()) / summaries[name]["total_ms"]["p50"] * 1e3 / rates[precision], 3)
            for name, precision in (("engines, onnxruntime", "fp32"), ("engines, OpenVINO", "bf16"))
        },
    }
    print(write_record(options.out, "latency", content))  # noqa: T201


if __name__ == "__main__":
    main()
