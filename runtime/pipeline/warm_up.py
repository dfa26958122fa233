"""A run of everything that is slow the first time, on synthetic images."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np

from runtime.config import SegmentConfig
from runtime.ops.boxes import token_window_sides
from runtime.ops.masks import finish_labels, relabel
from runtime.ops.model_input import paper_input
from runtime.ops.preprocess import normalize_contrast, take_normalized
from runtime.pipeline.pipeline import BoxPrompts, Pipeline
from runtime.types import F64

_BESIDE_TOKENS = 4.5
"""Tokens by which a window exceeds its box, plus half a token."""

_KEEP_ALL = -1e9
"""A threshold below every IoU estimate."""


def warm_up(pipeline: Pipeline, config: SegmentConfig) -> None:
    """Compile the loops, and run each engine with the smallest and largest batches and all window sizes of calls.

    Args:
        pipeline: the engines to run.
        config: settings that calls will use.

    Raises:
        BackendError: the backend failed.
    """
    compile_loops(config)
    rng = np.random.default_rng(0)
    manifest, settings = pipeline.manifest, replace(config, iou_threshold=_KEEP_ALL)
    side = manifest.image_size
    image = take_normalized(rng.random((side, side, 3), np.float32))
    for count in sorted({1, pipeline.images_per_call}):
        views = pipeline.encode([image] * count, detector=manifest.has_detector)
        if manifest.has_detector:
            pipeline.detect(views, settings)
        for boxes in _boxes(pipeline, config):
            prompts = [BoxPrompts.of_caller(part, (side, side)) for part in np.array_split(boxes, count)]
            pipeline.decode(views, prompts, settings)


def _boxes(pipeline: Pipeline, config: SegmentConfig) -> list[F64]:
    """Return sets of boxes, (K, 4) xyxy in model pixels: for each window, one box and as many as a call takes."""
    grid, size = pipeline.manifest.grid_size, pipeline.manifest.image_size
    windows = (grid,) if config.mask_window == "full" else token_window_sides(grid)
    sets = []
    for window, count in product(windows, sorted({1, pipeline.boxes_per_call})):
        half = max(1.0, window - _BESIDE_TOKENS) * size / grid / 2
        sets.append(np.tile([size / 2 - half, size / 2 - half, size / 2 + half, size / 2 + half], (count, 1)))
    return sets


def compile_loops(config: SegmentConfig) -> None:
    """Run the loops of ``runtime.ops`` on images of common types, and on labels with a hole and a small cell.

    Args:
        config: settings that calls will use.
    """
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (64, 64, 3))
    for kind in (np.uint8, np.uint16, np.float32):
        for image in (noise, noise[..., 0], noise[..., :2]):
            inverted = config.invert is True
            normalized = normalize_contrast(np.ascontiguousarray(image).astype(kind), invert=inverted)
    paper_input(normalized[:, :30], 8)  # a tile, whose rows are not contiguous
    owner = np.zeros((32, 32), np.int32)
    owner[2:20, 2:20], owner[8:12, 8:12], owner[28:30, 28:30] = 1, 0, 2
    finish_labels(owner, 2, replace(config, fill_holes=True, min_area_px=9))
    relabel(owner[:, :30], 2)  # like a tile that extends beyond the image
