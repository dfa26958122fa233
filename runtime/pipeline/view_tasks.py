"""Segmentation of encoded views of one or more images, a few at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from runtime.config import SegmentConfig
from runtime.pipeline.assembly import MaskBudget
from runtime.pipeline.encoded import EncodedView, without_features
from runtime.pipeline.pipeline import BoxPrompts, Pipeline
from runtime.results import Appearance, Segmentation

VIEWS_TOGETHER = 8
"""Number of views whose boxes share decoder calls, unless one encoder call takes more; bounds the memory of a batch."""


@dataclass(frozen=True, slots=True)
class ShownImage:
    """An image shown in one or more views."""

    number: int
    """Index of the image in the batch."""
    size_hw: tuple[int, int]
    """Size of the image (height, width), in pixels."""
    stitched: bool
    """See ``EncodedViews``."""
    appearance: Appearance = field(default_factory=Appearance)


@dataclass(frozen=True, slots=True, eq=False)
class ViewTask:
    """One view of an image to segment."""

    image: ShownImage
    view: EncodedView
    prompts: BoxPrompts | None = None
    """Boxes to decode; None detects the cells."""


class ViewResult(NamedTuple):
    """The cells of one view."""

    image: ShownImage
    origin_yx: tuple[int, int]
    """Position of the view's first pixel in the image."""
    cells: Segmentation
    """Cells of the view, in its pixels."""


def segment_views(pipeline: Pipeline, tasks: Iterable[ViewTask], config: SegmentConfig) -> Iterator[ViewResult]:
    """Segment views; the boxes of several share decoder calls.

    Args:
        pipeline: detects and decodes.
        tasks: the views; each is encoded when it is taken.
        config: settings of the call.

    Yields:
        The cells of each view, in order.

    Raises:
        InputError, BackendError: as in ``Pipeline.detect`` and ``Pipeline.decode``.
    """
    waiting, budgets = iter(tasks), dict[ShownImage, MaskBudget]()
    # At least the views of one encoder call, because the detector takes all of them together.
    while group := list(islice(waiting, max(VIEWS_TOGETHER, pipeline.images_per_call))):
        found = iter(pipeline.detect([task.view for task in group if task.prompts is None], config))
        prompts = [task.prompts or BoxPrompts.of_detector(next(found)) for task in group]
        shown = [(task.image, task.view.origin_yx) for task in group]
        views = without_features([task.view for task in group])
        allowed = [budgets.setdefault(image, MaskBudget(image.size_hw, pipeline.sides[1])) for image, _ in shown]
        group.clear()  # frees the features before masks take up memory
        results = pipeline.decode(views, prompts, config, allowed)
        del views
        yield from (ViewResult(*of, cells) for of, cells in zip(shown, results, strict=True))
