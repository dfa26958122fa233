"""What the stages and the whole chain return: frozen dataclasses of numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.backends.base import Tensor
from runtime.masks import MaskCrop

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """One image after the encoder; feeds ``detect`` and any number of ``decode`` calls.

    float16 where the engines compute in it, else float32: arrays, or tensors that stayed on the backend's device
    (``numpy.asarray`` copies them).
    """

    size_hw: tuple[int, int]
    """Size of the caller's image."""
    image_embedding: Tensor
    """(1, 256, 64, 64) for the ViT-B: input of the mask decoder."""
    patch_features: Tensor | None
    """(1, 768, 64, 64) for the ViT-B: input of CellFinder; None when encoded for the user's own boxes only."""


@dataclass(frozen=True, slots=True)
class EncodedView:
    """A square part of an image, encoded."""

    origin_yx: tuple[int, int]
    """The view's first pixel in the image."""
    image: EncodedImage
    """The view; its size is in image pixels."""


@dataclass(frozen=True, slots=True)
class Detections:
    """Boxes of one image that passed the score cut, best first."""

    boxes: F64
    """(K, 4) xyxy, image pixels. A box may reach beyond the image. Given back as prompts they decode to the same
    masks, bit for bit."""
    scores: F32
    """(K), in [0, 1], from high to low."""
    threshold: float
    """The cut that was applied."""


@dataclass(frozen=True, slots=True)
class MaskLogits:
    """One mask as the decoder gives it."""

    logits: F32
    """(4 R, 4 S) for a window of R x S tokens; (256, 256) for the whole image of the ViT-B."""
    origin_yx: tuple[int, int]
    """Its first logit in the map of the whole image."""
    iou_prediction: float
    """The decoder's own estimate of the mask's IoU, not clamped."""


@dataclass(frozen=True, slots=True)
class Segmentation:
    """All cells of one image: the label map, and the N instances behind it."""

    labels: I32
    """(H, W), 0 background, 1..n the cells, dense."""
    boxes: F64
    """(N, 4) xyxy, image pixels: the prompts of the instances whose IoU estimate passed the cut."""
    scores: F32
    """(N) box scores in [0, 1]; NaN for boxes that the user gave."""
    iou_predictions: F32
    """(N): the mask decoder's own estimate of each mask's IoU, not clamped."""
    ids: I32
    """(N): label of each instance, 0 where the label map kept no pixel of it."""
    masks: tuple[MaskCrop, ...]
    """The N masks before overlaps are resolved, each a crop and its offset."""

    @property
    def count(self) -> int:
        """Number of cells in the label map."""
        return int(self.labels.max(initial=0))
