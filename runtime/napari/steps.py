"""Segmentation in steps that reuse what was encoded, and stop when nobody waits for the result any more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from runtime.config import SegmentConfig
from runtime.napari.parts import ImagePart
from runtime.pipeline.encoded import EncodedViews
from runtime.results import Segmentation
from runtime.segmenter import Segmenter
from runtime.types import F32

Stale = Callable[[], bool]
"""Returns whether the result is no longer wanted."""

ENCODING = ("normalize", "invert", "view_diameter_px", "whole_view_diameter_px", "diameter_px")
"""Settings that encoding depends on. The measured diameter, which also depends on thresholds, is kept."""

SIMILAR = 1.5
"""Boxes are decoded in existing views if their sizes differ from the diameter of the views by at most this factor."""


class CancelledError(Exception):
    """A result that is no longer wanted."""


@dataclass(frozen=True, slots=True, eq=False)
class _Encoded:
    """A part of an image, encoded, and what that depends on."""

    segmenter: Segmenter
    part: ImagePart
    config: SegmentConfig
    views: EncodedViews

    def fits(self, segmenter: Segmenter, part: ImagePart, config: SegmentConfig) -> bool:
        """Return whether these views can be used, for ``config`` of any thresholds."""
        same = all(getattr(self.config, name) == getattr(config, name) for name in ENCODING)
        return self.segmenter is segmenter and part.is_same(self.part) and same


class StepwiseSegmenter:
    """Segments a part of an image; after a change of thresholds, only masks are decoded again."""

    def __init__(self) -> None:
        """Begin without an encoded part."""
        self._encoded: _Encoded | None = None

    def segment(self, segmenter: Segmenter, part: ImagePart, config: SegmentConfig, stale: Stale) -> Segmentation:
        """Segment a part.

        Args:
            segmenter: the engines.
            part: the part.
            config: all settings.
            stale: asked before each step.

        Raises:
            CancelledError: the result is no longer wanted.
            InputError, BackendError: as ``Segmenter``.
        """
        check(stale)
        if self._encoded is None or not self._encoded.fits(segmenter, part, config):
            self._encoded = None  # frees its memory first
            views = segmenter.encode(part.read(), config=config)
            check(stale)
            candidates = segmenter.pipeline.find_candidates(views.views)
            kept = (replace(view, candidates=one) for view, one in zip(views, candidates, strict=True))
            self._encoded = _Encoded(segmenter, part, config, replace(views, views=tuple(kept)))
            check(stale)
        views = self._encoded.views
        found = segmenter.detect(views, config=config)
        check(stale)
        return segmenter.decode(views, found, config=config)


class BoxDecoder:
    """Decodes boxes on one encoded part of an image."""

    def __init__(self) -> None:
        """Begin without an encoded part."""
        self._encoded: _Encoded | None = None

    def decode(
        self, segmenter: Segmenter, part: ImagePart, boxes: F32, config: SegmentConfig, stale: Stale
    ) -> Segmentation:
        """Decode boxes. Without a given diameter, that of the boxes decides the scale at which the model sees them.

        Args:
            segmenter: the engines.
            part: the part of the image.
            boxes: (K, 4) xyxy, pixels of the part.
            config: all settings.
            stale: asked before each step.

        Raises:
            CancelledError: the result is no longer wanted.
            InputError, BackendError: as ``Segmenter``.
        """
        check(stale)
        if config.view_diameter_px is not None and config.diameter_px is None:
            config = replace(config, diameter_px=self._diameter(boxes))
        if self._encoded is None or not self._encoded.fits(segmenter, part, config):
            self._encoded = None
            views = segmenter.encode(part.read(), detector=False, config=config)
            self._encoded = _Encoded(segmenter, part, config, views)
            check(stale)
        return segmenter.decode(self._encoded.views, boxes=boxes, config=config)

    def _diameter(self, boxes: F32) -> float:
        """Return the diameter of the boxes, or that of the encoded views if it is similar."""
        sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 1)
        found = float(np.median(np.sqrt(sides.prod(axis=1))))
        before = None if self._encoded is None else self._encoded.config.diameter_px
        return before if before is not None and 1 / SIMILAR <= found / before <= SIMILAR else found


def check(stale: Stale) -> None:
    """Raise ``CancelledError`` if a result is no longer wanted."""
    if stale():
        raise CancelledError


def boxes_in_part(outlines: Sequence[NDArray[np.floating]], part: ImagePart) -> F32:
    """Return the bounding boxes of shapes.

    Args:
        outlines: (N, 2) yx vertices of each shape, data coordinates of the image, where 0 is the centre of a pixel.
        part: the part of the image that they are in.

    Returns:
        (K, 4) xyxy, pixels of the part, edge to edge, clipped to it. Shapes outside the part are left out.
    """
    top, left, bottom, right = part.extent
    found = []
    for outline in outlines:
        lows, highs = outline.min(axis=0) + 0.5, outline.max(axis=0) + 0.5
        y0, y1 = np.clip([lows[0], highs[0]], top, bottom) - top
        x0, x1 = np.clip([lows[1], highs[1]], left, right) - left
        if y1 - y0 >= 1 and x1 - x0 >= 1:
            found.append((x0, y0, x1, y1))
    return np.array(found, np.float32).reshape(-1, 4)
