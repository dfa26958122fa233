"""Views of images after encoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from runtime.results import Appearance
from runtime.types import F32, Tensor


@dataclass(frozen=True, slots=True, eq=False)
class EncodedBatch:
    """Features of B views that were encoded together. Batches compare by identity.

    The tensors are float16 if the engines compute in float16, else float32. On a GPU they stay on the device;
    ``numpy.asarray`` copies them.
    """

    image_embedding: Tensor
    """(B, 256, 64, 64) with the ViT-B: input of the mask decoder."""
    patch_features: Tensor | None
    """(B, 768, 64, 64) with the ViT-B: input of CellFinder; None if encoded only for the caller's own boxes."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """All detections in one view, before thresholds are applied to scores and overlaps."""

    boxes_cxcywh_norm: F32
    """(A, 4), fractions of the view's sides."""
    logits: F32
    """(A, classes)"""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedView:
    """An encoded image, or an encoded part of it."""

    batch: EncodedBatch
    """The features of all views that were encoded together."""
    index: int
    """Index of this view in the batch."""
    size_hw: tuple[int, int]
    """Size (height, width) of the view, image pixels."""
    frame_hw: tuple[int, int]
    """Size of the model input's frame, image pixels, from the first pixel of the view on: the view, or more; pixels
    beyond the view are 0."""
    origin_yx: tuple[int, int] = (0, 0)
    """Position of the view's first pixel in the image."""
    candidates: Candidates | None = None
    """Detections in the view, if the detector was run to measure the scale of the cells."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedViews:
    """One image, encoded in the views used to detect and decode its cells; an iterable of ``EncodedView``."""

    views: tuple[EncodedView, ...]
    size_hw: tuple[int, int]
    """Size (height, width) of the image, pixels."""
    stitched: bool
    """True: the views are square parts of the image, and their cells are stitched and numbered in reading order. False:
    one view shows the image stretched to the model input, and the cells are numbered by score."""
    appearance: Appearance = field(default_factory=Appearance)
    """How the model sees the image."""

    def __len__(self) -> int:
        return len(self.views)

    def __iter__(self) -> Iterator[EncodedView]:
        return iter(self.views)


def without_features(views: Sequence[EncodedView]) -> list[EncodedView]:
    """Return the views without patch features, by far the largest tensors, which the mask decoder does not need."""
    batches = {view.batch: replace(view.batch, patch_features=None) for view in views}
    return [replace(view, batch=batches[view.batch]) for view in views]
