"""Evaluation of the mask decoder on perfect prompts: points and boxes taken from the true cells (paper, Fig. 2b)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from runtime.config import SegmentConfig
from runtime.errors import ConfigError
from runtime.ops.masks import LabelCanvas, MaskCrop, finish_labels, resize_axis, upsample_window
from runtime.ops.model_input import branch_inputs
from runtime.ops.preprocess import normalize_contrast
from runtime.types import F32, F64, I32, Profile
from training.evaluation.dataset import Sample, read_sample
from training.evaluation.evaluate import PER_IMAGE_ERRORS, Evaluation, Prediction, Scored, collect, score_image
from training.evaluation.metrics import DEFAULT_IOUS
from training.evaluation.summary import ImageScore, failed_score
from training.model import CellSAM

PromptKind = Literal["box", "point", "point_best_of_3"]
KINDS: tuple[PromptKind, ...] = get_args(PromptKind)

PROMPT_CONFIG = SegmentConfig(mask_threshold=0.5, min_area_px=0, fill_holes=False)
"""SAM's own threshold, without clean-up that would hide errors of the decoder."""

PROMPTS_PER_CALL = 16
"""Prompts decoded together; limits the decoder's memory."""


@dataclass(frozen=True, slots=True)
class TruePrompts:
    """Prompts of K true cells in image pixels (a pixel spans x to x + 1)."""

    ids: I32
    """(K) label of each cell, ascending."""
    centres_xy: F64
    """(K, 2) centre of mass; it may lie outside a bent cell."""
    boxes_xyxy: F64
    """(K, 4) tight box."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInput:
    """Preprocessing of a checkpoint's mask branch, for ``runtime.ops.model_input.branch_inputs``."""

    image_size: int
    profile: Profile
    renormalize: bool


def true_prompts(truth: I32) -> TruePrompts:
    """Return the centre of mass and the tight box of every cell of a label map (H, W)."""
    found = [(label, box) for label, box in enumerate(ndimage.find_objects(truth), start=1) if box is not None]
    ids = np.array([label for label, _ in found], np.int32)
    boxes = np.array([(x.start, y.start, x.stop, y.stop) for _, (y, x) in found], np.float64).reshape(-1, 4)
    area = np.bincount(truth.ravel())[ids]
    rows, columns = np.indices(truth.shape)
    sums = [np.bincount(truth.ravel(), index.ravel() + 0.5)[ids] for index in (columns, rows)]
    return TruePrompts(ids, np.stack(sums, axis=1) / area[:, None], boxes)


def embed(model: CellSAM, normalized: F32, spec: ModelInput) -> Tensor:
    """Return the embedding (1, 256, S/16, S/16) of an (H, W, 3) image from ``normalize_contrast``."""
    pixels = branch_inputs(normalized, spec, detector=False).mask
    device = next(model.parameters()).device
    return model.encode(torch.from_numpy(pixels)[None].to(device)).image_embedding


def segment_prompts(
    model: CellSAM,
    embedding: Tensor,
    prompts: TruePrompts,
    size_hw: tuple[int, int],
    kind: PromptKind,
    config: SegmentConfig = PROMPT_CONFIG,
) -> Prediction:
    """Decode one mask per prompt and resolve overlaps as the runtime does.

    Args:
        model: the model in eval mode.
        embedding: output of ``embed``.
        prompts: K prompts, image pixels.
        size_hw: image size (height, width) in pixels.
        kind: ``box``; ``point``, SAM's single mask for the centre; or ``point_best_of_3``, the one of SAM's three masks
            for an ambiguous point with the highest IoU estimate, as its authors advise for points.
        config: mask threshold and rule for overlaps; no mask is dropped for its IoU estimate.

    Returns:
        The label map, all K masks in the order of the prompts, and their IoU estimates as scores.

    Source: Kirillov et al. 2023 (arXiv:2304.02643), ambiguity-aware output; CellSAM, Fig. 2b.
    """
    canvas, masks, scores = LabelCanvas(size_hw, config), [], []
    grid, size = 4 * model.config.grid_size, model.config.image_size
    axes = (resize_axis(grid, size, size_hw[0]), resize_axis(grid, size, size_hw[1]))
    for index, (logits, estimate) in enumerate(_decoded(model, embedding, prompts, size_hw, kind)):
        pixels, offset = upsample_window(logits, (0, 0), axes)
        masks.append(canvas.add(index, pixels, offset))
        scores.append(estimate)
    labels, _ = finish_labels(canvas.owner, len(masks), config)
    return Prediction(labels, tuple(masks), np.array(scores, np.float32))


def prompt_ious(truth: I32, prompts: TruePrompts, masks: Sequence[MaskCrop]) -> F64:
    """Return the IoU (K) of each true cell with the mask of its prompt, before overlaps are resolved."""
    areas = np.bincount(truth.ravel())
    ious = np.zeros(len(masks))
    for k, (label, crop) in enumerate(zip(prompts.ids, masks, strict=True)):
        (y, x), (h, w) = crop.offset_yx, crop.mask.shape
        shared = np.count_nonzero((truth[y : y + h, x : x + w] == label) & crop.mask)
        ious[k] = shared / (areas[label] + crop.area_px - shared)
    return ious


def evaluate_prompts(
    model: CellSAM,
    spec: ModelInput,
    samples: Iterable[Sample],
    *,
    kinds: Sequence[PromptKind] = KINDS,
    ious: Sequence[float] = DEFAULT_IOUS,
    config: SegmentConfig = PROMPT_CONFIG,
    on_image: Callable[[ImageScore], None] = lambda score: None,
) -> dict[PromptKind, Evaluation]:
    """Score every kind of prompt on the same images; each image is encoded once.

    Returns:
        One evaluation per kind, with the mean IoU of true cells and the masks of their prompts. A failed image counts
        as failed for every kind.

    Raises:
        ConfigError: ``kinds`` is empty or contains an unknown kind.
    """
    unknown = set(kinds) - set(KINDS)
    if unknown or not kinds:
        raise ConfigError(f"prompt kinds are {list(kinds)}; expected some of {', '.join(KINDS)}.", field="kinds")
    scored: dict[PromptKind, list[Scored]] = {kind: [] for kind in kinds}
    for sample in samples:
        try:
            results = _score_kinds(model, spec, sample, kinds, ious, config)
        except PER_IMAGE_ERRORS as error:
            results = {kind: Scored(failed_score(sample, error), None) for kind in kinds}
        for kind, result in results.items():
            scored[kind].append(result)
        on_image(results[kinds[0]].score)
    return {kind: collect(items, ious) for kind, items in scored.items()}


def _score_kinds(
    model: CellSAM,
    spec: ModelInput,
    sample: Sample,
    kinds: Sequence[PromptKind],
    ious: Sequence[float],
    config: SegmentConfig,
) -> dict[PromptKind, Scored]:
    image, truth = read_sample(sample)
    prompts, size_hw, results = true_prompts(truth), (truth.shape[0], truth.shape[1]), {}
    with torch.inference_mode():
        equalised = sample.tile_hw is not None
        embedding = embed(model, image.astype(np.float32) if equalised else normalize_contrast(image), spec)
        for kind in kinds:
            prediction = segment_prompts(model, embedding, prompts, size_hw, kind, config)
            scored = score_image(sample, truth, prediction, ious)
            total = float(prompt_ious(truth, prompts, prediction.masks).sum())
            results[kind] = replace(scored, score=replace(scored.score, prompt_iou_sum=total))
    return results


def _decoded(
    model: CellSAM, embedding: Tensor, prompts: TruePrompts, size_hw: tuple[int, int], kind: PromptKind
) -> Iterator[tuple[F32, float]]:
    """Yield the mask logits (4G, 4G) and the IoU estimate of every prompt, in order."""
    size = model.config.image_size
    scale = np.array([size / size_hw[1], size / size_hw[0]])
    boxes = torch.from_numpy((prompts.boxes_xyxy * np.tile(scale, 2)).astype(np.float32)).to(embedding.device)
    # The prompt encoder takes points as pixel indices and adds half a pixel itself.
    points = torch.from_numpy((prompts.centres_xy * scale - 0.5).astype(np.float32)).to(embedding.device)
    for start in range(0, len(prompts.ids), PROMPTS_PER_CALL):
        part = slice(start, start + PROMPTS_PER_CALL)
        if kind == "box":
            masks, estimates = model.decode(embedding, boxes[part])
        else:
            masks, estimates = _decode_points(model, embedding, points[part], several=kind == "point_best_of_3")
        best = estimates.argmax(dim=1)
        rows = torch.arange(len(best), device=best.device)
        yield from zip(masks[rows, best].cpu().numpy(), estimates[rows, best].tolist(), strict=True)


def _decode_points(model: CellSAM, embedding: Tensor, points_xy: Tensor, *, several: bool) -> tuple[Tensor, Tensor]:
    """Decode (K, 2) foreground points, model pixels, to masks (K, 1 or 3, 4G, 4G) and IoU estimates (K, 1 or 3)."""
    labels = torch.ones(len(points_xy), 1, dtype=torch.int, device=points_xy.device)
    sparse, dense = model.prompt_encoder(points=(points_xy[:, None], labels), boxes=None, masks=None)
    masks, estimates = model.mask_decoder(
        image_embeddings=embedding,
        image_pe=model.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=several,
    )
    return masks, estimates
