"""Decoding of boxes that the caller gives: each in one view of the image, all into one label map."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from runtime.config import SegmentConfig
from runtime.pipeline.choose_views import encode_tiles
from runtime.pipeline.encoded import EncodedView, EncodedViews
from runtime.pipeline.pipeline import BoxesInView, BoxPrompts, Pipeline
from runtime.pipeline.prepare import PreparedImage
from runtime.pipeline.view_tasks import VIEWS_TOGETHER
from runtime.results import Appearance, Segmentation
from runtime.types import I64
from runtime.views.box_tiles import box_tiles, innermost_view
from runtime.views.grid import cut_tile


class BoxView(NamedTuple):
    """A view of an image, and the boxes to decode in it."""

    view: EncodedView
    rows: I64
    """(K,), indices of the boxes among those of the image."""


def segment_boxes(pipeline: Pipeline, image: PreparedImage, prompts: BoxPrompts, config: SegmentConfig) -> Segmentation:
    """Decode boxes in views that show them at the size that suits the model best.

    Args:
        pipeline: encodes and decodes.
        image: the image.
        prompts: the boxes, image pixels.
        config: settings; ``view_diameter_px`` is not None.

    Raises:
        InputError: the masks take too much memory.
        BackendError: the backend failed.
    """
    assert config.view_diameter_px is not None, "without a view diameter, one view shows the image"
    tiles = box_tiles(
        prompts.boxes,
        image.size_hw,
        model_size=pipeline.manifest.image_size,
        view_diameter_px=config.view_diameter_px,
        whole_view_diameter_px=config.whole_view_diameter_px,
    )

    cut = (cut_tile(image.values, tile.origin_yx, tile.side) for tile in tiles)
    encoded = encode_tiles(pipeline, cut, detector=False)
    views = (BoxView(view, tile.rows) for view, tile in zip(encoded, tiles, strict=True))
    return decode_boxes(pipeline, views, prompts, image.size_hw, appearance=image.appearance, config=config)


def views_of_boxes(views: Sequence[EncodedView], prompts: BoxPrompts) -> Iterator[BoxView]:
    """Distribute boxes among encoded views of an image: each goes to the view in which it lies farthest inside."""
    chosen = innermost_view(prompts.boxes, [(view.origin_yx, view.frame_hw) for view in views])
    for place, view in enumerate(views):
        rows = (chosen == place).nonzero()[0]
        if len(rows):
            yield BoxView(view, rows)


def decode_boxes(
    pipeline: Pipeline,
    views: Iterable[BoxView],
    prompts: BoxPrompts,
    size_hw: tuple[int, int],
    *,
    appearance: Appearance,
    config: SegmentConfig,
) -> Segmentation:
    """Decode the boxes of one image into one label map, a few views at a time; cells keep the order of the boxes.

    Args:
        pipeline: decodes.
        views: the views; each is encoded when it is taken.
        prompts: the boxes, image pixels.
        size_hw: size of the image.
        appearance: how the model sees the image.
        config: thresholds and the rule for overlaps.

    Raises:
        BackendError: the backend failed.
    """
    assembly = pipeline.new_assembly(size_hw, size_hw, len(prompts.boxes), config)
    waiting = iter(views)
    while group := list(islice(waiting, max(VIEWS_TOGETHER, pipeline.images_per_call))):
        pipeline.decode_into([BoxesInView(assembly, *one, prompts.boxes[one.rows]) for one in group], config)
    return assembly.finish(prompts.boxes, prompts.scores, prompts.numbers, appearance)


def decode_together(
    pipeline: Pipeline, images: Sequence[tuple[EncodedViews, BoxPrompts]], config: SegmentConfig
) -> list[Segmentation]:
    """Decode the boxes of several encoded images; all of them share decoder calls.

    Args:
        pipeline: decodes.
        images: the views of each image, and its boxes in image pixels.
        config: thresholds and the rule for overlaps.

    Returns:
        One result per image, in order.

    Raises:
        InputError: the masks take too much memory.
        BackendError: the backend failed.
    """
    assemblies = [
        pipeline.new_assembly(views.size_hw, views.size_hw, len(prompts.boxes), config) for views, prompts in images
    ]
    parts = [
        BoxesInView(assembly, *one, prompts.boxes[one.rows])
        for assembly, (views, prompts) in zip(assemblies, images, strict=True)
        for one in views_of_boxes(views.views, prompts)
    ]
    pipeline.decode_into(parts, config)
    return [
        assembly.finish(prompts.boxes, prompts.scores, prompts.numbers, views.appearance)
        for assembly, (views, prompts) in zip(assemblies, images, strict=True)
    ]
