"""From the masks of one image's boxes to its result."""

from __future__ import annotations

import numpy as np

from runtime.config import SegmentConfig
from runtime.ops.masks import LabelCanvas, MaskCrop, finish_labels, resize_axis, upsample_window
from runtime.pipeline.engine_calls import DecodedMasks
from runtime.results import Appearance, Instances, Segmentation
from runtime.types import F32, F64, I64


class Assembly:
    """Collects the masks of one image, in any order, and makes its label map."""

    def __init__(self, size_hw: tuple[int, int], sides: tuple[int, int], count: int, config: SegmentConfig) -> None:
        """Prepare the resizes.

        Args:
            size_hw: the image.
            sides: of the whole map of logits, and of the model input, pixels.
            count: boxes of the image.
            config: thresholds and the rule for overlaps.
        """
        self._config, self._sides, self._size_hw = config, sides, size_hw
        self._axes = resize_axis(*sides, size_hw[0]), resize_axis(*sides, size_hw[1])
        self._canvas = LabelCanvas(size_hw, config)
        self._crops: dict[int, MaskCrop] = {}
        self._iou = np.full(count, -np.inf, np.float32)

    def add(self, masks: DecodedMasks) -> None:
        """Enter masks; those with too low an IoU estimate leave no trace."""
        self._iou[masks.index] = masks.iou_predictions
        passed = masks.part(masks.iou_predictions >= self._config.iou_threshold)
        crops = self._canvas.add_windows(passed.index, passed.logits, passed.origins, self._axes)
        self._crops.update(zip(passed.index.tolist(), crops, strict=True))

    def add_of_view(self, masks: DecodedMasks, origin_yx: tuple[int, int], size_hw: tuple[int, int]) -> None:
        """Enter masks that were decoded in a view of the image, as ``add``.

        Args:
            masks: their logits are those of the view.
            origin_yx: image pixel of the view's first pixel.
            size_hw: size of the view, pixels; it may reach beyond the image.
        """
        if origin_yx == (0, 0) and size_hw == self._size_hw:
            self.add(masks)
            return
        self._iou[masks.index] = masks.iou_predictions
        axes = resize_axis(*self._sides, size_hw[0]), resize_axis(*self._sides, size_hw[1])
        passed = masks.part(masks.iou_predictions >= self._config.iou_threshold)
        for index, logits, window in zip(passed.index.tolist(), passed.logits, passed.origins.tolist(), strict=True):
            pixels, (top, left) = upsample_window(
                logits, (window[0], window[1]), axes, self._config.mask_threshold_logit
            )
            y, x = origin_yx[0] + top, origin_yx[1] + left
            inside = pixels[: max(0, self._size_hw[0] - y), : max(0, self._size_hw[1] - x)]
            self._crops[index] = self._canvas.add(index, np.ascontiguousarray(inside), (y, x))

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
