"""What the stages and the whole chain return: frozen dataclasses of numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.ops.masks import MaskCrop
from runtime.types import F32, F64, I32, Tensor


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """One image after the encoder; feeds ``detect`` and any number of ``decode`` calls.

    The tensors are float16 where the engines compute in it, else float32. On a GPU they stay there; ``numpy.asarray``
    copies them. Images that were encoded together share them.
    """

    size_hw: tuple[int, int]
    """Size of the caller's image."""
    image_embedding: Tensor
    """(B, 256, 64, 64) for the ViT-B: input of the mask decoder."""
    patch_features: Tensor | None
    """(B, 768, 64, 64) for the ViT-B: input of CellFinder; None when encoded for the user's own boxes only."""
    index: int = 0
    """The image's place among the B that were encoded together."""


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
