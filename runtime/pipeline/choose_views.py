"""The views of an image: in which the cells have the diameter, and the polarity, that the model works best at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import NamedTuple

from runtime.config import SegmentConfig
from runtime.errors import ConfigError
from runtime.pipeline.encoded import EncodedView
from runtime.pipeline.pipeline import Pipeline
from runtime.pipeline.prepare import PreparedImage
from runtime.results import Appearance
from runtime.types import F32
from runtime.views.grid import Tile, TileGrid, cut_tile, grid_at_scale
from runtime.views.scale import (
    ONE_POLARITY,
    CellSizes,
    Measurement,
    inverted_is_better,
    measure_at,
    measure_diameter,
    measured_of,
    one_view_will_do,
)


class ChosenView(NamedTuple):
    """One view of an image."""

    place: int
    """Of the image among those that were given."""
    view: EncodedView
    appearance: Appearance
    """Of the image."""


class _Look(NamedTuple):
    """An image in one polarity."""

    values: F32
    whole: EncodedView | None
    """The view of the whole image, if it was encoded."""
    measured: Measurement | None = None


def choose_views(pipeline: Pipeline, images: Sequence[PreparedImage], config: SegmentConfig) -> Iterator[ChosenView]:
    """Encode images in the views in which their cells have the diameter ``config.view_diameter_px``.

    An image is shown whole, as one square view, if its cells are large enough so, or none is found; else in
    overlapping tiles. What lies beyond the image is 0. Without ``view_diameter_px``, one view shows the image stretched
    to the model input.

    Args:
        pipeline: encodes, and measures the cells if the diameter is not given.
        images: at most ``pipeline.images_per_call``.
        config: the scale; the polarity was settled for images without ``other``.

    Yields:
        The views, image by image, encoded a few at a time.

    Raises:
        ConfigError: ``diameter_um`` is not resolved.
        InputError, BackendError: as ``Pipeline.encode`` and ``Pipeline.detect``.
    """
    if config.diameter_um is not None:
        raise ConfigError(
            f"diameter_um is {config.diameter_um}, but the pixel size of the image is not known here; expected "
            "diameter_px, or config.at_pixel_size(pixel_size_um, name)."
        )
    wholes = _whole_views(pipeline, [image.values for image in images], config)
    for place, (image, whole) in enumerate(zip(images, wholes, strict=True)):
        look, appearance = _look(pipeline, image, whole, config)
        shown = _shown(pipeline, look, image.size_hw, config)
        if isinstance(shown, EncodedView):
            yield ChosenView(place, shown, appearance)
            continue
        tiles = (cut_tile(look.values, origin, shown.side) for origin in shown.origins)
        yield from (ChosenView(place, view, appearance) for view in encode_tiles(pipeline, tiles))


def views_for_boxes(pipeline: Pipeline, image: PreparedImage, config: SegmentConfig) -> list[EncodedView]:
    """Encode an image for boxes of the caller alone: in tiles if the diameter of its cells is given, else in one view.

    Args:
        pipeline: encodes.
        image: the image.
        config: the scale.
    """
    if config.view_diameter_px is None or config.diameter_px is None:
        return pipeline.encode([image.values], detector=False)
    grid = grid_at_scale(image.size_hw, config.diameter_px, pipeline.manifest.image_size, config.view_diameter_px)
    tiles = (cut_tile(image.values, origin, grid.side) for origin in grid.origins)
    return list(encode_tiles(pipeline, tiles, detector=False))


def encode_tiles(pipeline: Pipeline, tiles: Iterable[Tile], *, detector: bool = True) -> Iterator[EncodedView]:
    """Encode tiles of an image, several in a call.

    Args:
        pipeline: encodes.
        tiles: of 3 channels, float32 in [0, 1], contrast normalised.
        detector: False leaves out what only the detector needs.
    """
    waiting = iter(tiles)
    while part := list(islice(waiting, pipeline.images_per_call)):
        yield from pipeline.encode(
            [tile.pixels for tile in part],
            origins=[tile.origin_yx for tile in part],
            frames_hw=[tile.frame_hw for tile in part],
            detector=detector,
        )


def _whole_views(pipeline: Pipeline, images: Sequence[F32], config: SegmentConfig) -> Sequence[EncodedView | None]:
    """The view of each whole image, with what the detector finds in a square one; None if the diameter is given."""
    if config.view_diameter_px is None:
        return pipeline.encode(images)
    if config.diameter_px is not None:
        return [None] * len(images)
    views = list(encode_tiles(pipeline, (cut_tile(image, (0, 0), max(image.shape[:2])) for image in images)))
    found = pipeline.find_candidates(views)
    return [replace(view, candidates=candidates) for view, candidates in zip(views, found, strict=True)]


def _look(
    pipeline: Pipeline, image: PreparedImage, whole: EncodedView | None, config: SegmentConfig
) -> tuple[_Look, Appearance]:
    """Measure the cells of an image if need be, also in the other polarity if the detector is not sure of them."""
    measures_scale = config.view_diameter_px is not None and config.diameter_px is None
    look, inverted, margin = _Look(image.values, whole), image.inverted, None
    if measures_scale or image.other is not None:
        look = _measured(pipeline, look, config)
    if image.other is not None and not (look.measured is not None and look.measured.score >= ONE_POLARITY):
        values = image.other()
        (other_whole,) = _whole_views(pipeline, [values], config)
        other = _measured(pipeline, _Look(values, other_whole), config)
        better, margin = inverted_is_better(look.measured, other.measured)
        look, inverted = (other, not inverted) if better else (look, inverted)
    measured = look.measured if measures_scale else None
    return look, Appearance(
        diameter_px=config.diameter_px if measured is None else measured.diameter_px,
        diameter_confidence=None if measured is None else measured.confidence,
        inverted=inverted,
        invert_margin=margin,
        nuclear_alone=image.nuclear_alone,
    )


def _measured(pipeline: Pipeline, look: _Look, config: SegmentConfig) -> _Look:
    """The same with what the detector measures: at all scales, or at the one that is given."""
    model_size, size_hw = pipeline.manifest.image_size, (look.values.shape[0], look.values.shape[1])
    encoded = [] if look.whole is None else [look.whole]  # the first view that is measured is that of the whole image

    def find_cells(tile: Tile) -> CellSizes:
        shown = encoded.pop() if encoded else next(encode_tiles(pipeline, [tile]))
        return pipeline.cell_sizes(shown, config)

    if config.view_diameter_px is None:
        measured = measured_of([find_cells(Tile(look.values, max(size_hw)))], max(size_hw), model_size)
    elif config.diameter_px is not None:
        side = grid_at_scale(size_hw, config.diameter_px, model_size, config.view_diameter_px).side
        measured = measure_at(look.values, side, model_size, find_cells)
    else:
        measured = measure_diameter(look.values, model_size, find_cells, view_diameter_px=config.view_diameter_px)
    return look._replace(measured=measured)


def _shown(pipeline: Pipeline, look: _Look, size_hw: tuple[int, int], config: SegmentConfig) -> EncodedView | TileGrid:
    """The view of the whole image if its cells are large enough in it or none is found, else the tiles."""
    model_size, wanted_px = pipeline.manifest.image_size, config.view_diameter_px
    if look.whole is None:
        assert config.diameter_px is not None, "_whole_views has looked if no diameter is given"
        assert wanted_px is not None, "a diameter needs a wanted one"
        return grid_at_scale(size_hw, config.diameter_px, model_size, wanted_px)
    if wanted_px is None:
        return look.whole
    diameter = None if look.measured is None else look.measured.diameter_px
    if diameter is None or one_view_will_do(
        diameter, max(size_hw), model_size, wanted_px, config.whole_view_diameter_px
    ):
        return look.whole
    return grid_at_scale(size_hw, diameter, model_size, wanted_px)
