"""Stage by stage: an engine against the unreduced PyTorch model, on a real image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.errors import VerificationError
from export.sample_image import FIXED_BOXES, FIXED_IMAGES, verification_image
from runtime.engines.backends.base import BackendOptions, Engine
from runtime.engines.backends.load import load_engine
from runtime.engines.manifest import EngineName, Manifest
from runtime.ops.boxes import LOGITS_PER_TOKEN, token_windows
from runtime.ops.preprocess import branch_inputs, normalize_contrast
from runtime.types import F32, Arrays
from training.model import CellSAM


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """When an engine's output counts as that of PyTorch. The triple is bioimage.io's (model spec 0.5)."""

    rtol: float = 1e-3
    atol: float = 1e-3
    mismatches_per_million: float = 100.0
    """Elements that may lie beyond ``atol + rtol * |reference|``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputCheck:
    """The comparison of one output of one engine."""

    stage: str
    output: str
    shape: tuple[int, ...]
    max_abs_error: float
    at: tuple[int, ...]
    """Where the largest error is."""
    reference: float
    """PyTorch's value there."""
    found: float
    """The engine's value there."""
    mismatches_per_million: float
    passed: bool

    def __str__(self) -> str:
        verdict = "ok" if self.passed else "FAILED"
        return (
            f"{self.stage}.{self.output} {list(self.shape)}: {verdict}, largest error {self.max_abs_error:.3g} at "
            f"{list(self.at)} ({self.found:.6g} for {self.reference:.6g}), "
            f"{self.mismatches_per_million:.1f} mismatches per million"
        )


def compare(stage: str, output: str, reference: F32, found: F32, tolerance: Tolerance) -> OutputCheck:
    """Compare one output with its reference: shape, then values; NaN never matches.

    Raises:
        VerificationError: the shapes differ.
    """
    if found.shape != reference.shape:
        raise VerificationError(
            f"{stage}.{output} has shape {list(found.shape)}; PyTorch gives {list(reference.shape)}."
        )
    error = np.abs(found.astype(np.float64) - reference)
    allowed = tolerance.atol + tolerance.rtol * np.abs(reference)
    mismatches = int(np.count_nonzero(~(error <= allowed)))
    flat = int(np.argmax(np.where(np.isnan(error), np.inf, error)))
    at = tuple(int(i) for i in np.unravel_index(flat, error.shape))
    per_million = 1e6 * mismatches / error.size
    return OutputCheck(
        stage=stage,
        output=output,
        shape=tuple(found.shape),
        max_abs_error=float(error[at]),
        at=at,
        reference=float(reference[at]),
        found=float(found[at]),
        mismatches_per_million=per_million,
        passed=per_million <= tolerance.mismatches_per_million,
    )


def verify_engines(
    directory: Path,
    manifest: Manifest,
    model: CellSAM,
    *,
    image: NDArray[np.generic] | None = None,
    tolerance: Tolerance | None = None,
    on_stage: Callable[[str], None] = lambda stage: None,
) -> list[OutputCheck]:
    """Run every engine of a directory on the CPU and compare it with the PyTorch model in float32.

    Every stage gets PyTorch's own output of the stage before, so that an error shows where it arises.

    Args:
        directory: where the engine files lie.
        manifest: says which there are and how the image is prepared.
        model: the unreduced model, float32.
        image: what to run on; default, the image that comes with the package.
        tolerance: default, rtol 1e-3, atol 1e-3, 100 mismatches per million.
        on_stage: called with the name of each stage before it runs.

    Returns:
        One check per output, passed or not.

    Raises:
        VerificationError: an output of another name or shape.
    """
    normalized = normalize_contrast(verification_image() if image is None else image)
    checks = []
    with torch.inference_mode():
        for stage, feeds, expected in references(model, manifest, normalized):
            on_stage(stage)
            engine = load_stage(directory, manifest, stage)
            found = engine(feeds)
            if found.keys() != expected.keys():
                raise VerificationError(f"{stage} gives {sorted(found)}; expected {sorted(expected)}.")
            checks += [compare(stage, name, expected[name], found[name], tolerance or Tolerance()) for name in expected]
            if stage == "mask_decoder":
                checks.append(_check_windows(engine, feeds, expected, manifest, tolerance or Tolerance()))
    return checks


def load_stage(directory: Path, manifest: Manifest, stage: EngineName, backend: str = "cpu") -> Engine:
    """Load one engine of a directory, as the backend runs it by default."""
    spec = manifest.engines[stage]
    return load_engine(directory / spec.file, spec, backend=backend, options=BackendOptions())


def references(
    model: CellSAM, manifest: Manifest, normalized: F32
) -> Iterator[tuple[EngineName, Arrays, dict[str, F32]]]:
    """Each stage's input and PyTorch's outputs for it, float32."""
    branches = branch_inputs(normalized, manifest)
    assert branches.box is not None
    pixels, box_pixels = branches.mask[None], branches.box[None]
    features, embedding = model.encode(torch.from_numpy(pixels))
    outputs = {"image_embedding": embedding.numpy()}
    if model.cellfinder is not None and model.detector_encoder is None:
        outputs = {"patch_features": features.numpy(), **outputs}
    yield "encoder", {"pixel_values": pixels}, outputs
    if model.detector_encoder is not None:
        features = model.detector_features(torch.from_numpy(box_pixels))
        yield "detector_encoder", {"pixel_values": box_pixels}, {"patch_features": features.numpy()}
    if model.cellfinder is not None:
        detections = model.detect(features)
        expected = {
            "boxes_cxcywh_norm": detections.boxes_cxcywh_norm.numpy(),
            "logits": detections.logits.numpy(),
        }
        yield "cellfinder", {"patch_features": features.numpy()}, expected
    boxes = torch.from_numpy(FIXED_BOXES * np.float32(model.config.image_size))
    mirrored = torch.cat((embedding, embedding.flip(-1)))  # two images, the second one mirrored
    yield mask_decoder_reference(model, mirrored, boxes, torch.from_numpy(FIXED_IMAGES))


def mask_decoder_reference(
    model: CellSAM, embeddings: Tensor, boxes: Tensor, image_index: Tensor
) -> tuple[EngineName, Arrays, dict[str, F32]]:
    """Inputs of the mask decoder for whole masks, and PyTorch's outputs.

    Args:
        model: the unreduced model.
        embeddings: (B, C, G, G).
        boxes: (K, 4) xyxy, model pixels.
        image_index: (K), the image of each box.
    """
    grid = model.config.grid_size
    decoded = [model.decode(embeddings[i : i + 1], box[None]) for i, box in zip(image_index, boxes, strict=True)]
    tokens = np.tile(np.arange(grid), (len(boxes), 1))
    feeds = {
        "image_embedding": embeddings.numpy(),
        "image_index": image_index.numpy(),
        "boxes_xyxy_model": boxes.numpy(),
        "window_rows": tokens,
        "window_cols": tokens,
    }
    expected = {
        "mask_logits": torch.cat([d.low_res_masks[:, 0] for d in decoded]).numpy(),
        "iou_predictions": torch.cat([d.iou_predictions[:, 0] for d in decoded]).numpy(),
    }
    return "mask_decoder", feeds, expected


def _check_windows(
    engine: Engine, feeds: Arrays, expected: dict[str, F32], manifest: Manifest, tolerance: Tolerance
) -> OutputCheck:
    """Box windows against the same part of PyTorch's whole masks, for the boxes with the smallest windows."""
    boxes: F32 = feeds["boxes_xyxy_model"]
    origin, sides = token_windows(boxes, manifest.image_size, manifest.grid_size, full=False)
    side = int(sides.min())
    chosen = np.flatnonzero(sides == side)
    tokens = np.arange(side)
    part = {
        **feeds,
        "image_index": feeds["image_index"][chosen],
        "boxes_xyxy_model": boxes[chosen],
        "window_rows": origin[chosen, :1] + tokens,
        "window_cols": origin[chosen, 1:] + tokens,
    }
    length = side * LOGITS_PER_TOKEN
    cut = []
    for box in chosen:
        row, column = origin[box] * LOGITS_PER_TOKEN
        cut.append(expected["mask_logits"][box, row : row + length, column : column + length])
    return compare("mask_decoder", "mask_logits[window]", np.stack(cut), engine(part)["mask_logits"], tolerance)
