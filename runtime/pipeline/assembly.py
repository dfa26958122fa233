"""Assembly of one image's masks into its result."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from runtime.config import SegmentConfig
from runtime.errors import InputError
from runtime.ops.masks import Axes, Canvas, LabelCanvas, MaskCrop, finish_labels, resize_axis
from runtime.pipeline.encoded import EncodedView
from runtime.pipeline.engine_calls import DecodedMasks
from runtime.results import Appearance, Instances, Segmentation
from runtime.types import F32, F64, I64

MASK_BYTES_PER_PIXEL = 8
MASK_BYTES = 64 << 20
"""Memory limit for the masks of an image: this many bytes per pixel, plus a fixed number of bytes. Masks of cells that
overlap as usual take about one byte per pixel."""

LARGE_MODEL_PX, LARGE_MODEL_MASK_BYTES = 1024, 2 << 30
"""Model input from which the fixed number of bytes is larger: one encoder pass of such a model takes as much."""


class MaskBudget:
    """Memory that the masks of one image may take, across all its views."""

    def __init__(self, size_hw: tuple[int, int], model_size: int) -> None:
        """Start with the whole budget.

        Args:
            size_hw: size of the image (height, width), in pixels.
            model_size: side of the model input, in pixels.
        """
        fixed = LARGE_MODEL_MASK_BYTES if model_size >= LARGE_MODEL_PX else MASK_BYTES
        self._left = self._all = MASK_BYTES_PER_PIXEL * size_hw[0] * size_hw[1] + fixed

    def take(self, masks: Iterable[MaskCrop]) -> None:
        """Count masks against the budget.

        Raises:
            InputError: the masks take too much memory.
        """
        self._left -= sum(mask.mask.size for mask in masks)
        if self._left < 0:
            raise InputError(
                f"the masks of this image take more than {self._all / 2**20:.0f} MiB; expected cells with little "
                "overlap. Raise box_threshold, iou_threshold or mask_threshold, lower nms_iou, or give fewer boxes.",
                kind="too_large",
                field="box_threshold",
            )


class Assembly:
    """Collects the masks of one image, in any order, and builds its label map."""

    def __init__(
        self,
        size_hw: tuple[int, int],
        frame_hw: tuple[int, int],
        sides: tuple[int, int],
        count: int,
        config: SegmentConfig,
        budget: MaskBudget | None = None,
        canvas: Canvas | None = None,
    ) -> None:
        """Start with an empty label map.

        Args:
            size_hw: size of the image; masks are clipped to it.
            frame_hw: size of the area that the map of logits covers: the image, or more.
            sides: side of the whole map of logits, and of the model input, in pixels.
            count: number of boxes of the image.
            config: thresholds and the rule for overlaps.
            budget: budget of the image that the view belongs to; default, one for this view.
            canvas: where masks are painted, of the image's size; default, one on the CPU.
        """
        self._config, self._budget = config, budget or MaskBudget(size_hw, sides[1])
        self._sides, self._size_hw, self._frame_hw = sides, size_hw, frame_hw
        self._canvas: Canvas = LabelCanvas(size_hw, config) if canvas is None else canvas
        self._axes: Axes | None = None  # not needed without masks
        self._crops: dict[int, MaskCrop] = {}
        self._iou = np.full(count, -np.inf, np.float32)

    def add(self, masks: DecodedMasks) -> None:
        """Add masks; masks whose IoU estimate is too low are dropped without a trace.

        Raises:
            InputError: as in ``MaskBudget.take``.
        """
        self._iou[masks.index] = masks.iou_predictions
        passed = masks.part(masks.iou_predictions >= self._config.iou_threshold)
        if self._axes is None:
            self._axes = self._axes_of(self._size_hw, self._frame_hw)
        crops = self._canvas.add_windows(passed.index, passed.logits, passed.origins, self._axes)
        self._budget.take(crops)
        self._crops.update(zip(passed.index.tolist(), crops, strict=True))

    def add_of_view(self, masks: DecodedMasks, view: EncodedView) -> None:
        """Add masks that were decoded in a view of the image; see ``add``.

        Args:
            masks: masks with logits of the view.
            view: a part of the image.

        Raises:
            InputError: as in ``MaskBudget.take``.
        """
        if (view.size_hw, view.frame_hw) == (self._size_hw, self._frame_hw):
            self.add(masks)
            return
        self._iou[masks.index] = masks.iou_predictions
        axes = self._axes_of(view.size_hw, view.frame_hw)
        passed = masks.part(masks.iou_predictions >= self._config.iou_threshold)
        crops = self._canvas.add_windows_of_view(passed.index, passed.logits, passed.origins, axes, view.origin_yx)
        for index, crop in zip(passed.index.tolist(), crops, strict=True):
            self._crops[index] = crop
            self._budget.take([crop])

    def _axes_of(self, size_hw: tuple[int, int], frame_hw: tuple[int, int]) -> Axes:
        down, across = (resize_axis(*self._sides, *lengths) for lengths in zip(frame_hw, size_hw, strict=True))
        return down, across

    def finish(self, boxes: F64, scores: F32, prompts: I64, appearance: Appearance | None = None) -> Segmentation:
        """Return the label map and the instances that passed the IoU cut.

        Args:
            boxes: (K, 4) xyxy, image pixels.
            scores: (K,).
            prompts: (K,), see ``Instances``.
            appearance: how the model saw the image.
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
        # Labels follow the order of the boxes, so the rows of the cells follow the order of the labels.
        shown = ids[passed] > 0
        return Segmentation.of(labels, instances[shown], instances[~shown], appearance)
