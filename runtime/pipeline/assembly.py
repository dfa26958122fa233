"""From the masks of one image's boxes to its result."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from runtime.config import SegmentConfig
from runtime.errors import InputError
from runtime.ops.masks import Axes, LabelCanvas, MaskCrop, finish_labels, resize_axis, upsample_window
from runtime.pipeline.encoded import EncodedView
from runtime.pipeline.engine_calls import DecodedMasks
from runtime.results import Appearance, Instances, Segmentation
from runtime.types import F32, F64, I64

MASK_BYTES_PER_PIXEL = 8
MASK_BYTES = 64 << 20
"""What the masks of an image may take: so many bytes for each of its pixels, and so many beside. Masks of cells that
overlap as cells do take about one byte a pixel."""


class MaskBudget:
    """The memory that the masks of one image may take, in however many views."""

    def __init__(self, size_hw: tuple[int, int]) -> None:
        """Args: size_hw: size of the image."""
        self._left = self._all = MASK_BYTES_PER_PIXEL * size_hw[0] * size_hw[1] + MASK_BYTES

    def take(self, masks: Iterable[MaskCrop]) -> None:
        """Count masks.

        Raises:
            InputError: there are too many, or too large ones.
        """
        self._left -= sum(mask.mask.size for mask in masks)
        if self._left < 0:
            raise InputError(
                f"the masks of this image take more than {self._all / 2**20:.0f} MiB; expected cells that hardly "
                "overlap. Raise box_threshold, iou_threshold or mask_threshold, lower nms_iou, or give fewer boxes.",
                kind="too_large",
                field="box_threshold",
            )


class Assembly:
    """Collects the masks of one image, in any order, and makes its label map."""

    def __init__(
        self,
        size_hw: tuple[int, int],
        frame_hw: tuple[int, int],
        sides: tuple[int, int],
        count: int,
        config: SegmentConfig,
        budget: MaskBudget | None = None,
    ) -> None:
        """Start with an empty map.

        Args:
            size_hw: the image; masks are cut to it.
            frame_hw: what the map of logits shows: the image, or more than it.
            sides: of the whole map of logits, and of the model input, pixels.
            count: boxes of the image.
            config: thresholds and the rule for overlaps.
            budget: of the image that the view is of; default, of this view.
        """
        self._config, self._budget = config, budget or MaskBudget(size_hw)
        self._sides, self._size_hw, self._frame_hw = sides, size_hw, frame_hw
        self._canvas = LabelCanvas(size_hw, config)
        self._axes: Axes | None = None  # not needed where no mask comes
        self._crops: dict[int, MaskCrop] = {}
        self._iou = np.full(count, -np.inf, np.float32)

    def add(self, masks: DecodedMasks) -> None:
        """Enter masks; those with too low an IoU estimate leave no trace.

        Raises:
            InputError: as ``MaskBudget.take``.
        """
        self._iou[masks.index] = masks.iou_predictions
        passed = masks.part(masks.iou_predictions >= self._config.iou_threshold)
        if self._axes is None:
            self._axes = self._axes_of(self._size_hw, self._frame_hw)
        crops = self._canvas.add_windows(passed.index, passed.logits, passed.origins, self._axes)
        self._budget.take(crops)
        self._crops.update(zip(passed.index.tolist(), crops, strict=True))

    def add_of_view(self, masks: DecodedMasks, view: EncodedView) -> None:
        """Enter masks that were decoded in a view of the image, as ``add``.

        Args:
            masks: their logits are those of the view.
            view: a part of the image.

        Raises:
            InputError: as ``MaskBudget.take``.
        """
        if (view.size_hw, view.frame_hw) == (self._size_hw, self._frame_hw):
            self.add(masks)
            return
        self._iou[masks.index] = masks.iou_predictions
        axes = self._axes_of(view.size_hw, view.frame_hw)
        passed = masks.part(masks.iou_predictions >= self._config.iou_threshold)
        for index, logits, window in zip(passed.index.tolist(), passed.logits, passed.origins.tolist(), strict=True):
            pixels, (top, left) = upsample_window(
                logits, (window[0], window[1]), axes, self._config.mask_threshold_logit
            )
            place = view.origin_yx[0] + top, view.origin_yx[1] + left
            self._crops[index] = self._canvas.add(index, pixels, place)
            self._budget.take([self._crops[index]])

    def _axes_of(self, size_hw: tuple[int, int], frame_hw: tuple[int, int]) -> Axes:
        down, across = (resize_axis(*self._sides, *lengths) for lengths in zip(frame_hw, size_hw, strict=True))
        return down, across

    def finish(self, boxes: F64, scores: F32, prompts: I64, appearance: Appearance | None = None) -> Segmentation:
        """The label map, and the instances that passed the IoU cut.

        Args:
            boxes: (K, 4) xyxy, image pixels.
            scores: (K)
            prompts: (K), see ``Instances``.
            appearance: of the image.
        """
        labels, ids = finish_labels(self._canvas.owner, len(boxes), self._config)
        passed = np.array(sorted(self._crops), np.int64)

        instances = Instances(
            boxes=boxes[passed].reshape(-1, 4),
            scores=scores[passed],
            iou_predictions=self._iou[passed],
            masks=tuple(self._crops[k] for k in passed.tolist()),
            prompts=prompts[passed],
        )
        # Labels are numbered in the order of the boxes, so that the rows of the cells are in that of the labels.
        shown = ids[passed] > 0
        return Segmentation.of(labels, instances[shown], instances[~shown], appearance)
