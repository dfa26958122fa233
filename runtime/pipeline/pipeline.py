"""What every view of an image goes through: encode, detect, decode, assemble."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from runtime.config import SegmentConfig
from runtime.engines.backends.base import Engine
from runtime.engines.manifest import EngineName, Manifest
from runtime.errors import InputError
from runtime.ops.arrays import as_numbers
from runtime.ops.boxes import LOGITS_PER_TOKEN, check_boxes, scale_xyxy, select_boxes
from runtime.ops.preprocess import branch_inputs
from runtime.pipeline.assembly import Assembly, MaskBudget
from runtime.pipeline.channel_check import ChannelCheck
from runtime.pipeline.encoded import Candidates, EncodedView
from runtime.pipeline.engine_calls import EngineCalls, per_call
from runtime.results import DETECTED, Detections, MaskLogits, Segmentation
from runtime.types import F32, F64, I64
from runtime.views.scale import CellSizes

_MEASURED = 32
"""About as many cells of a view are measured."""


@dataclass(frozen=True, slots=True, eq=False)
class BoxPrompts:
    """Boxes of one view to decode. Arrays run over its K boxes."""

    boxes: F64
    """(K, 4) xyxy, pixels of the view."""
    scores: F32
    """(K,); NaN if unknown."""
    numbers: I64
    """(K,), see ``Instances.prompts``."""

    @classmethod
    def of_detector(cls, found: Detections) -> BoxPrompts:
        """The boxes that the detector found."""
        return cls(found.boxes, found.scores, np.full(len(found.boxes), DETECTED))

    @classmethod
    def of_caller(cls, boxes: ArrayLike, size_hw: tuple[int, int], scores: ArrayLike | None = None) -> BoxPrompts:
        """The caller's own boxes.

        Args:
            boxes: (K, 4) xyxy, pixels of the view.
            size_hw: size of the view.
            scores: (K,), NaN if not given.

        Raises:
            InputError: boxes that cannot be used, or scores of another number.
        """
        checked = check_boxes(boxes, size_hw)
        count = len(checked)
        if scores is None:
            values = np.full(count, math.nan, np.float32)
        else:
            values = as_numbers(scores, "scores", "one number per box").astype(np.float32)
        if values.shape != (count,):
            raise InputError(f"scores have shape {values.shape}; expected ({count},), one per box.")
        return cls(checked, values, np.arange(count))


class Pipeline:
    """Loaded engines, and the way of a view through them. Loads nothing itself: see ``load_pipeline``.

    Calls keep no state, so threads may share a pipeline. Two pipelines may share engines, until one is closed.
    """

    def __init__(
        self,
        engines: Mapping[EngineName, Engine],
        manifest: Manifest,
        *,
        backend: str = "cpu",
        images_per_call: int | None = None,
        boxes_per_call: int | None = None,
    ) -> None:
        """Take loaded engines.

        Args:
            engines: by name, those that the manifest lists.
            manifest: of their directory.
            backend: what runs them; it decides the defaults of the other arguments.
            images_per_call: the most views encoded together. Default: 1, on a GPU 4.
            boxes_per_call: the most boxes decoded together. Default: 16, on a GPU 64.
        """
        images, boxes = per_call(backend, images_per_call, boxes_per_call)
        self.calls = EngineCalls(engines, manifest, images_per_call=images, boxes_per_call=boxes)
        self.manifest, self.backend = manifest, backend
        self._check_channels = ChannelCheck(manifest.trained_channels)

    @property
    def engines(self) -> Mapping[EngineName, Engine]:
        """The engines by name."""
        return self.calls.engines

    @property
    def sides(self) -> tuple[int, int]:
        """Side of a whole map of mask logits, and of the model input, pixels."""
        return LOGITS_PER_TOKEN * self.manifest.grid_size, self.manifest.image_size

    @property
    def images_per_call(self) -> int:
        """The most views of one encoder call."""
        return self.calls.images_per_call

    @property
    def boxes_per_call(self) -> int:
        """The most boxes of one decoder call."""
        return self.calls.boxes_per_call

    def close(self) -> None:
        """Release the engines; later calls raise ``BackendError``. No call may be running."""
        self.calls.close()

    def encode(
        self,
        images: Sequence[F32],
        *,
        origins: Sequence[tuple[int, int]] | None = None,
        frames_hw: Sequence[tuple[int, int]] | None = None,
        detector: bool = True,
    ) -> list[EncodedView]:
        """Run the encoder on views, several in a call.

        Args:
            images: (h, w, 3) float32 in [0, 1] each, contrast normalised.
            origins: image pixel of the first pixel (y, x) of each view; default (0, 0).
            frames_hw: what the model input shows of each, see ``EncodedView``; default, the view alone.
            detector: False leaves out what only ``detect`` needs.

        Raises:
            InputError: a detector is asked for, but the engines have none.
            BackendError: the backend failed.
        """
        if detector and not self.manifest.has_detector:
            raise InputError(
                "these engines have no detector (plain SAM weights). Give the boxes: segmenter(image, boxes=...)."
            )
        for image in images:
            self._check_channels(image)
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        frames = frames_hw or sizes
        inputs = [
            branch_inputs(image, self.manifest, frame_hw=frame, detector=detector)
            for image, frame in zip(images, frames, strict=True)
        ]
        views = self.calls.encode(inputs, sizes, frames)
        if origins is None:
            return views
        return [replace(view, origin_yx=origin) for view, origin in zip(views, origins, strict=True)]

    def find_candidates(self, views: Sequence[EncodedView]) -> list[Candidates]:
        """Run the detector on the views that have no candidates yet.

        Raises:
            InputError: a view was encoded with ``detector=False``.
            BackendError: the backend failed.
        """
        waiting = [view for view in views if view.candidates is None]
        if any(view.batch.patch_features is None for view in waiting):
            raise InputError("this image was encoded with detector=False; encode it again to detect cells.")
        new = iter(self.calls.detect(waiting))
        return [view.candidates or next(new) for view in views]

    def detect(self, views: Sequence[EncodedView], config: SegmentConfig) -> list[Detections]:
        """Find the boxes of the cells of every view.

        Raises:
            InputError, BackendError: as ``find_candidates``.
        """
        found = []
        for view, candidates in zip(views, self.find_candidates(views), strict=True):
            boxes, scores, threshold = select_boxes(candidates.boxes_cxcywh_norm, candidates.logits, config)
            found.append(Detections(scale_xyxy(boxes, (1, 1), view.frame_hw), scores, threshold, view.origin_yx))
        return found

    def decode(
        self,
        views: Sequence[EncodedView],
        prompts: Sequence[BoxPrompts],
        config: SegmentConfig,
        budgets: Sequence[MaskBudget] | None = None,
    ) -> list[Segmentation]:
        """Decode the boxes of several views in shared calls, then assemble the cells of each view.

        Args:
            views: the views.
            prompts: of each view.
            config: thresholds and the rule for overlaps.
            budgets: what the masks of each view may take; default, by the size of the view.

        Returns:
            The cells of each view, in its pixels.

        Raises:
            InputError: the masks take too much memory.
            BackendError: the backend failed.
        """
        budgets = budgets or [MaskBudget(view.size_hw) for view in views]
        assemblies = [
            Assembly(v.size_hw, v.frame_hw, self.sides, len(p.boxes), config, budget)
            for v, p, budget in zip(views, prompts, budgets, strict=True)
        ]
        for view, masks in self.calls.decode(views, [p.boxes for p in prompts], full=config.mask_window == "full"):
            assemblies[view].add(masks)
        return [a.finish(p.boxes, p.scores, p.numbers) for a, p in zip(assemblies, prompts, strict=True)]

    def decode_into(
        self, assembly: Assembly, views: Sequence[tuple[EncodedView, I64, F64]], config: SegmentConfig
    ) -> None:
        """Decode boxes of several views of one image in shared calls, and add their masks to those of the image.

        Args:
            assembly: collects the masks of the image.
            views: each with places (K,) of its boxes among those of the image, and the boxes (K, 4) xyxy, image pixels.
            config: only ``mask_window`` matters here.

        Raises:
            BackendError: the backend failed.
        """
        boxes = [boxes - np.tile(view.origin_yx[::-1], 2) for view, _, boxes in views]
        encoded = [view for view, _, _ in views]
        for place, masks in self.calls.decode(encoded, boxes, full=config.mask_window == "full"):
            view, rows, _ = views[place]
            assembly.add_of_view(masks.renumbered(rows[masks.index]), view)

    def decode_logits(self, view: EncodedView, boxes: ArrayLike, config: SegmentConfig) -> list[MaskLogits]:
        """Mask logits as the decoder gives them, before they are resized, cut or assembled.

        Args:
            view: the view.
            boxes: (K, 4) xyxy, pixels of the view.
            config: only ``mask_window`` matters here.

        Returns:
            One entry per box, in order.

        Raises:
            InputError: boxes that cannot be used.
            BackendError: the backend failed.
        """
        checked = check_boxes(boxes, view.size_hw)
        decoded: dict[int, MaskLogits] = {}
        for _, masks in self.calls.decode([view], [checked], full=config.mask_window == "full"):
            rows = zip(masks.index.tolist(), masks.logits, masks.origins.tolist(), masks.iou_predictions, strict=True)
            decoded.update((index, MaskLogits(logits, (y, x), float(iou))) for index, logits, (y, x), iou in rows)
        return [decoded[index] for index in range(len(checked))]

    def cell_sizes(self, view: EncodedView, config: SegmentConfig) -> CellSizes:
        """Sizes and scores of the cells of one view; what a scale is measured by.

        Raises:
            InputError, BackendError: as ``find_candidates``.
        """
        (found,) = self.detect([view], config)
        some = found.boxes[:: max(1, len(found.boxes) // _MEASURED)]
        decoded = self.calls.decode([view], [some], full=config.mask_window == "full")
        kept = [masks.logits[masks.iou_predictions >= config.iou_threshold] for _, masks in decoded]
        inside = [np.count_nonzero(logits > config.mask_threshold_logit, axis=(1, 2)) for logits in kept]
        areas = np.concatenate([np.zeros(0), *inside])
        logit_px = view.frame_hw[0] / (LOGITS_PER_TOKEN * self.manifest.grid_size)
        return CellSizes(2 * np.sqrt(areas[areas > 0] / np.pi) * logit_px, found.scores)
