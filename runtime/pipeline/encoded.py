"""Views of images after the encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from runtime.results import Appearance
from runtime.types import F32, Tensor


@dataclass(frozen=True, slots=True, eq=False)
class EncodedBatch:
    """The features of B views that went through the encoder together. Two batches are equal only if they are the same.

    The tensors are float16 if the engines compute in it, else float32. On a GPU they stay there; ``numpy.asarray``
    copies them.
    """

    image_embedding: Tensor
    """(B, 256, 64, 64) for the ViT-B: input of the mask decoder."""
    patch_features: Tensor | None
    """(B, 768, 64, 64) for the ViT-B: input of CellFinder; None if encoded for the caller's own boxes alone."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Everything that the detector found in one view, before scores and overlaps are compared with thresholds."""

    boxes_cxcywh_norm: F32
    """(A, 4), fractions of the view's sides."""
    logits: F32
    """(A, classes)"""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedView:
    """A part of an image, or the whole of it, encoded."""

    batch: EncodedBatch
    """The features of all views that were encoded together."""
    index: int
    """Place of this view in the batch."""
    size_hw: tuple[int, int]
    """Size (height, width) of the view, image pixels."""
    frame_hw: tuple[int, int]
    """What the model input shows, image pixels from the first one of the view on: the view, or more than it, which
    is 0."""
    origin_yx: tuple[int, int] = (0, 0)
    """Image pixel of the view's first pixel."""
    candidates: Candidates | None = None
    """What the detector found in the view, if it was run to measure the scale of the cells."""


@dataclass(frozen=True, slots=True, eq=False)
class EncodedViews:
    """One image, encoded in the views in which its cells are detected and decoded; an iterable of ``EncodedView``."""

    views: tuple[EncodedView, ...]
    size_hw: tuple[int, int]
    """Size (height, width) of the image, pixels."""
    stitched: bool
    """The views are square parts of the image, and their cells are stitched and numbered in reading order. False: one
    view shows the image stretched to the model input, and the cells are numbered by score."""
    appearance: Appearance = field(default_factory=Appearance)
    """How the image is shown to the model."""

    def __len__(self) -> int:
        return len(self.views)

    def __iter__(self) -> Iterator[EncodedView]:
        return iter(self.views)


def without_features(views: Sequence[EncodedView]) -> list[EncodedView]:
    """The views as the mask decoder needs them: patch features, by far the largest tensors, can be freed."""
    batches = {view.batch: replace(view.batch, patch_features=None) for view in views}
    return [replace(view, batch=batches[view.batch]) for view in views]
