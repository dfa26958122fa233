"""The steps that each view of an image goes through: encode, detect, decode, assemble."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from runtime.config import SegmentConfig
from runtime.engines.backends.base import Engine
from runtime.engines.kernels.contrast import gpu_equalized_plane
from runtime.engines.kernels.launcher import GpuKernels
from runtime.engines.kernels.masks import GpuCanvas
from runtime.engines.manifest import EngineName, Manifest
from runtime.errors import InputError
from runtime.ops.arrays import as_numbers
from runtime.ops.boxes import LOGITS_PER_TOKEN, check_boxes, scale_xyxy, select_boxes
from runtime.ops.model_input import batch_inputs
from runtime.ops.preprocess import EqualizePlane, equalized_plane
from runtime.pipeline.assembly import Assembly, MaskBudget
from runtime.pipeline.channel_check import ChannelCheck
from runtime.pipeline.encoded import Candidates, EncodedView
from runtime.pipeline.engine_calls import EngineCalls, per_call
from runtime.pipeline.pixel_buffers import PixelBuffers
from runtime.provenance import Provenance
from runtime.results import DETECTED, Detections, MaskLogits, Segmentation
from runtime.types import F32, F64, I64
from runtime.views.scale import CellSizes

_MEASURED = 32
"""Approximate number of cells to measure per view."""


@dataclass(frozen=True, slots=True, eq=False)
class BoxPrompts:
    """Box prompts of one view. Arrays have one entry for each of the K boxes."""

    boxes: F64
    """(K, 4) xyxy, pixels of the view."""
    scores: F32
    """(K,); NaN if unknown."""
    numbers: I64
    """(K,), see ``Instances.prompts``."""

    @classmethod
    def of_detector(cls, found: Detections) -> BoxPrompts:
        """Wrap the boxes that the detector found."""
        return cls(found.boxes, found.scores, np.full(len(found.boxes), DETECTED))

    @classmethod
    def of_caller(cls, boxes: ArrayLike, size_hw: tuple[int, int], scores: ArrayLike | None = None) -> BoxPrompts:
        """Check and wrap the caller's own boxes.

        Args:
            boxes: (K, 4) xyxy, pixels of the view.
            size_hw: size of the view.
            scores: (K,); NaN if not given.

        Raises:
            InputError: the boxes cannot be used, or the numbers of scores and boxes differ.
        """
        checked = check_boxes(boxes, size_hw)
        count = len(checked)
        if scores is None:
            values = np.full(count, math.nan, np.float32)
        else:
            values = as_numbers(scores, "scores", "one number per box").astype(np.float32)
        if values.shape != (count,):
            raise InputError(f"scores have shape {values.shape}; expected ({count},). Give one score per box.")
        return cls(checked, values, np.arange(count))


class BoxesInView(NamedTuple):
    """A view of an image and the boxes to decode in it."""

    assembly: Assembly
    """Collects the masks of the image."""
    view: EncodedView
    rows: I64
    """(K,), indices of the boxes among those of the image."""
    boxes: F64
    """(K, 4) xyxy, image pixels."""


class Pipeline:
    """Loaded engines and the steps that run views through them. Use ``load_pipeline`` to load engines.

    Calls keep no state, so threads may share a pipeline. Two pipelines may share engines until one of them is closed.
    """

    def __init__(
        self,
        engines: Mapping[EngineName, Engine],
        manifest: Manifest,
        *,
        backend: str = "cpu",
        images_per_call: int | None = None,
        boxes_per_call: int | None = None,
        kernels: GpuKernels | None = None,
        provenance: Provenance | None = None,
    ) -> None:
        """Store loaded engines.

        Args:
            engines: engines by name, those that the manifest lists.
            manifest: manifest of their directory.
            backend: name of the backend that runs them; sets the defaults of the other arguments.
            images_per_call: the most views encoded together. Default: 1, or 4 on a GPU.
            boxes_per_call: the most boxes decoded together. Default: 16, or 64 on a GPU.
            kernels: compiled kernels for contrast and mask assembly; default, both run on the CPU.
            provenance: description of the engines; see ``describe_engines``.
        """
        images, boxes = per_call(backend, images_per_call, boxes_per_call)
        self.calls = EngineCalls(engines, manifest, images_per_call=images, boxes_per_call=boxes)
        self.manifest, self.backend, self.provenance = manifest, backend, provenance
        self._kernels = kernels
        self._buffers = PixelBuffers()
        self._check_channels = ChannelCheck(manifest.trained_channels)

    @property
    def engines(self) -> Mapping[EngineName, Engine]:
        """Engines by name."""
        return self.calls.engines

    @property
    def sides(self) -> tuple[int, int]:
        """Side of a whole map of mask logits, and of the model input, in pixels."""
        return LOGITS_PER_TOKEN * self.manifest.grid_size, self.manifest.image_size

    @property
    def images_per_call(self) -> int:
        """The most views per encoder call."""
        return self.calls.images_per_call

    @property
    def boxes_per_call(self) -> int:
        """The most boxes per decoder call."""
        return self.calls.boxes_per_call

    def close(self) -> None:
        """Release the engines and kernels; later calls raise ``BackendError``. No call may be running."""
        self.calls.close()
        if self._kernels is not None:
            self._kernels.close()

    @property
    def equalized_plane(self) -> EqualizePlane:
        """Normalisation of a channel's contrast: on the GPU with ``gpu_kernels``, else on the CPU."""
        return equalized_plane if self._kernels is None else partial(gpu_equalized_plane, kernels=self._kernels)

    def new_assembly(
        self,
        size_hw: tuple[int, int],
        frame_hw: tuple[int, int],
        count: int,
        config: SegmentConfig,
        budget: MaskBudget | None = None,
    ) -> Assembly:
        """Start an assembly, which paints masks on the GPU with ``gpu_kernels``; see ``Assembly``."""
        canvas = GpuCanvas(size_hw, config, self._kernels) if self._kernels is not None and count else None
        return Assembly(size_hw, frame_hw, self.sides, count, config, budget, canvas)

    def encode(
        self,
        images: Sequence[F32],
        *,
        origins: Sequence[tuple[int, int]] | None = None,
        frames_hw: Sequence[tuple[int, int]] | None = None,
        detector: bool = True,
    ) -> list[EncodedView]:
        """Encode views, several per call.

        Args:
            images: (h, w, 3) float32 in [0, 1] each, with normalised contrast.
            origins: position (y, x) of each view's first pixel in the image; default (0, 0).
            frames_hw: size of each model input's frame, see ``EncodedView``; default, the view.
            detector: False skips what only ``detect`` needs.

        Raises:
            InputError: ``detector`` is True, but the engines have no detector.
            BackendError: the backend failed.
        """
        if detector and not self.manifest.has_detector:
            raise InputError(
                "these engines have no detector (plain SAM weights); expected boxes. Call segmenter(image, boxes=...)."
            )
        for image in images:
            self._check_channels(image)
        sizes = [(image.shape[0], image.shape[1]) for image in images]
        frames = frames_hw or sizes
        views: list[EncodedView] = []
        for start in range(0, len(images), self.images_per_call):
            part = slice(start, start + self.images_per_call)
            inputs = batch_inputs(
                images[part], self.manifest, frames_hw=frames[part], detector=detector, make=self._buffers.take
            )
            views += self.calls.encode(inputs, sizes[part], frames[part])
        if origins is None:
            return views
        return [replace(view, origin_yx=origin) for view, origin in zip(views, origins, strict=True)]

    def find_candidates(self, views: Sequence[EncodedView]) -> list[Candidates]:
        """Run the detector on views that have no candidates yet.

        Raises:
            InputError: a view was encoded with ``detector=False``.
            BackendError: the backend failed.
        """
        waiting = [view for view in views if view.candidates is None]
        if any(view.batch.patch_features is None for view in waiting):
            raise InputError("this image was encoded with detector=False; expected detector=True. Encode it again.")
        new = iter(self.calls.detect(waiting))
        return [view.candidates or next(new) for view in views]

    def detect(self, views: Sequence[EncodedView], config: SegmentConfig) -> list[Detections]:
        """Find the boxes of all cells in each view.

        Raises:
            InputError, BackendError: as in ``find_candidates``.
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
            prompts: the boxes of each view.
            config: thresholds and the rule for overlaps.
            budgets: memory budget for the masks of each view; default, one per view by its size.

        Returns:
            The cells of each view, in its pixels.

        Raises:
            InputError: the masks take too much memory.
            BackendError: the backend failed.
        """
        budgets = budgets or [MaskBudget(view.size_hw, self.sides[1]) for view in views]
        assemblies = [
            self.new_assembly(v.size_hw, v.frame_hw, len(p.boxes), config, budget)
            for v, p, budget in zip(views, prompts, budgets, strict=True)
        ]
        for view, masks in self.calls.decode(views, [p.boxes for p in prompts], full=config.mask_window == "full"):
            assemblies[view].add(masks)
        return [a.finish(p.boxes, p.scores, p.numbers) for a, p in zip(assemblies, prompts, strict=True)]

    def decode_into(self, parts: Sequence[BoxesInView], config: SegmentConfig) -> None:
        """Decode boxes of several views, of one image or more, in shared calls, and add the masks to their assemblies.

        Args:
            parts: the views with their boxes.
            config: only ``mask_window`` matters here.

        Raises:
            BackendError: the backend failed.
        """
        boxes = [part.boxes - np.tile(part.view.origin_yx[::-1], 2) for part in parts]
        for place, masks in self.calls.decode([p.view for p in parts], boxes, full=config.mask_window == "full"):
            part = parts[place]
            part.assembly.add_of_view(masks.renumbered(part.rows[masks.index]), part.view)

    def decode_logits(self, view: EncodedView, boxes: ArrayLike, config: SegmentConfig) -> list[MaskLogits]:
        """Return the decoder's mask logits, before they are resized, cut or assembled.

        Args:
            view: the view.
            boxes: (K, 4) xyxy, pixels of the view.
            config: only ``mask_window`` matters here.

        Returns:
            One entry per box, in order.

        Raises:
            InputError: the boxes cannot be used.
            BackendError: the backend failed.
        """
        checked = check_boxes(boxes, view.size_hw)
        decoded: dict[int, MaskLogits] = {}
        for _, masks in self.calls.decode([view], [checked], full=config.mask_window == "full"):
            rows = zip(masks.index.tolist(), masks.logits, masks.origins.tolist(), masks.iou_predictions, strict=True)
            decoded.update((index, MaskLogits(logits, (y, x), float(iou))) for index, logits, (y, x), iou in rows)
        return [decoded[index] for index in range(len(checked))]

    def cell_sizes(self, view: EncodedView, config: SegmentConfig) -> CellSizes:
        """Measure the sizes and scores of the cells of one view, from which the scale is estimated.

        Raises:
            InputError, BackendError: as in ``find_candidates``.
        """
        (found,) = self.detect([view], config)
        some = found.boxes[:: max(1, len(found.boxes) // _MEASURED)]
        decoded = self.calls.decode([view], [some], full=config.mask_window == "full")
        kept = [masks.logits[masks.iou_predictions >= config.iou_threshold] for _, masks in decoded]
        inside = [np.count_nonzero(logits > config.mask_threshold_logit, axis=(1, 2)) for logits in kept]
        areas = np.concatenate([np.zeros(0), *inside])
        logit_px = view.frame_hw[0] / (LOGITS_PER_TOKEN * self.manifest.grid_size)
        return CellSizes(2 * np.sqrt(areas[areas > 0] / np.pi) * logit_px, found.scores)
