"""Settings of one segmentation call."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from runtime.errors import ConfigError

BoxThresholdMode = Literal["adaptive", "fixed"]
MaskWindow = Literal["box", "full"]
Overlap = Literal["argmax", "last"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentConfig:
    """Decision thresholds and mask assembly of one call.

    The defaults are those of the released CellSAM model; an engine's manifest may set others.

    Raises:
        ConfigError: a value outside its range.
    """

    normalize: bool = True
    """Clip and equalise the contrast of the image first. False takes it as it is, for images that went through
    ``runtime.preprocess.normalize_contrast`` before: values in [0, 1]."""

    box_threshold: float = 0.4
    """Base cut on box scores. In [0, 1] when ``fixed``; in [0, 1.5] when ``adaptive``, where it is blended."""

    box_threshold_mode: BoxThresholdMode = "adaptive"
    """``fixed``: keep scores above ``box_threshold``. ``adaptive``: above ``0.66 box_threshold + 0.33 m``, m being
    the mean of the two k-means centres of this image's scores (released CellSAM code)."""

    iou_threshold: float = 0.5
    """Masks whose own IoU estimate is below this are dropped. The estimate is not clamped to [0, 1]."""

    mask_threshold: float = 0.4
    """A pixel belongs to a mask when its probability is above this; in (0, 1)."""

    mask_window: MaskWindow = "box"
    """Where mask logits are computed: ``box``, the box and a margin around it; ``full``, the whole image."""

    overlap: Overlap = "argmax"
    """Who gets a pixel that several masks claim: ``argmax``, the most probable (paper); ``last``, the mask with the
    highest index (released code)."""

    min_area_px: int = 25
    """Cells with fewer pixels in the label map are removed from it; 0 keeps all."""

    fill_holes: bool = True
    """Fill holes inside cells. With ``overlap="last"`` a filled hole takes what lies in it, as the released code
    does; with ``argmax`` only background is filled."""

    def __post_init__(self) -> None:
        highest = 1.5 if self.box_threshold_mode == "adaptive" else 1.0
        _check_choice("box_threshold_mode", self.box_threshold_mode, BoxThresholdMode)
        _check_choice("mask_window", self.mask_window, MaskWindow)
        _check_choice("overlap", self.overlap, Overlap)
        if not 0.0 <= self.box_threshold <= highest:
            raise ConfigError(
                f"box_threshold is {self.box_threshold}; expected a value in [0, {highest}] in "
                f"{self.box_threshold_mode!r} mode."
            )
        if not 0.0 < self.mask_threshold < 1.0:
            raise ConfigError(f"mask_threshold is {self.mask_threshold}; expected a value in (0, 1).")
        if not math.isfinite(self.iou_threshold):
            raise ConfigError(f"iou_threshold is {self.iou_threshold}; expected a finite number.")
        if isinstance(self.min_area_px, bool) or int(self.min_area_px) != self.min_area_px or self.min_area_px < 0:
            raise ConfigError(f"min_area_px is {self.min_area_px!r}; expected a whole number of pixels, 0 or more.")

    @property
    def mask_threshold_logit(self) -> float:
        """``mask_threshold`` before the sigmoid: masks are cut on logits."""
        return math.log(self.mask_threshold / (1.0 - self.mask_threshold))


def _check_choice(name: str, value: str, choices: object) -> None:
    allowed = get_args(choices)
    if value not in allowed:
        raise ConfigError(f"{name} is {value!r}; expected one of {', '.join(map(repr, allowed))}.")
