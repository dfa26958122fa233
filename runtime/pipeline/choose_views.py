"""Choice of the views of an image, at the cell diameter and the polarity that suit the model best."""

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
    """Index of the image among the given ones."""
    view: EncodedView
    appearance: Appearance
    """Appearance of the image."""


class _PolarityView(NamedTuple):
    """An image in one of its polarities."""

    values: F32
    whole: EncodedView | None
    """The view of the whole image, if it was encoded."""
    measured: Measurement | None = None


def choose_views(pipeline: Pipeline, images: Sequence[PreparedImage], config: SegmentConfig) -> Iterator[ChosenView]:
    """Encode images in views in which their cells have the diameter ``config.view_diameter_px``.

    An image is shown whole, as one square view, if its cells are large enough in it or none is found. Otherwise it is
    shown in overlapping tiles. Pixels beyond the image are 0. Without ``view_diameter_px``, one view shows the image
    stretched to the model input.

    Args:
        pipeline: encodes, and measures the cells if the diameter is not given.
        images: at most ``pipeline.images_per_call``.
        config: the scale; the polarity is already settled for images without ``other``.

    Yields:
        The views, image by image, encoded a few at a time.

    Raises:
        ConfigError: ``diameter_um`` is not resolved.
        InputError, BackendError: as in ``Pipeline.encode`` and ``Pipeline.detect``.
    """
    if config.diameter_um is not None:
        raise ConfigError(
            f"diameter_um is {config.diameter_um}, but the pixel size of the image is unknown here; expected "
            "diameter_px. Resolve it with config.at_pixel_size(pixel_size_um, name)."
        )
    wholes = _whole_views(pipeline, [image.values for image in images], config)
    for place, (image, whole) in enumerate(zip(images, wholes, strict=True)):
        shown_as, appearance = _choose_polarity(pipeline, image, whole, config)
        shown = _choose_scale(pipeline, shown_as, image.size_hw, config)
        if isinstance(shown, EncodedView):
            yield ChosenView(place, shown, appearance)
            continue
        tiles = (cut_tile(shown_as.values, origin, shown.side) for origin in shown.origins)
        yield from (ChosenView(place, view, appearance) for view in encode_tiles(pipeline, tiles))


def views_for_boxes(pipeline: Pipeline, image: PreparedImage, config: SegmentConfig) -> list[EncodedView]:
    """Encode an image for the caller's boxes only: in tiles if the cell diameter is given, else in one view.

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
    """Encode tiles of an image, several per call.

    Args:
        pipeline: encodes.
        tiles: tiles of 3 channels, float32 in [0, 1], with normalised contrast.
        detector: False skips what only the detector needs.
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
    """Encode each whole image; add the detector's candidates to square views. None if the diameter is given."""
    if config.view_diameter_px is None:
        return pipeline.encode(images)
    if config.diameter_px is not None:
        return [None] * len(images)
    views = list(encode_tiles(pipeline, (cut_tile(image, (0, 0), max(image.shape[:2])) for image in images)))
    found = pipeline.find_candidates(views)
    return [replace(view, candidates=candidates) for view, candidates in zip(views, found, strict=True)]


def _choose_polarity(
    pipeline: Pipeline, image: PreparedImage, whole: EncodedView | None, config: SegmentConfig
) -> tuple[_PolarityView, Appearance]:
    """Measure the cells of an image if needed; if the detector is not confident, also in the other polarity."""
    measures_scale = config.view_diameter_px is not None and config.diameter_px is None
    chosen, inverted, margin = _PolarityView(image.values, whole), image.inverted, None
    if measures_scale or image.other is not None:
        chosen = _measured(pipeline, chosen, config)
    if image.other is not None and not (chosen.measured is not None and chosen.measured.score >= ONE_POLARITY):
        values = image.other()
        (other_whole,) = _whole_views(pipeline, [values], config)
        other = _measured(pipeline, _PolarityView(values, other_whole), config)
        better, margin = inverted_is_better(chosen.measured, other.measured)
        chosen, inverted = (other, not inverted) if better else (chosen, inverted)
    measured = chosen.measured if measures_scale else None
    return chosen, Appearance(
        diameter_px=config.diameter_px if measured is None else measured.diameter_px,
        diameter_confidence=None if measured is None else measured.confidence,
        inverted=inverted,
        invert_margin=margin,
        nuclear_alone=image.nuclear_alone,
    )


def _measured(pipeline: Pipeline, shown_as: _PolarityView, config: SegmentConfig) -> _PolarityView:
    """Add what the detector measures: at all scales, or at the given one."""
    model_size, size_hw = pipeline.manifest.image_size, (shown_as.values.shape[0], shown_as.values.shape[1])
    encoded = [] if shown_as.whole is None else [shown_as.whole]  # the first measured view is that of the whole image

    def find_cells(tile: Tile) -> CellSizes:
        shown = encoded.pop() if encoded else next(encode_tiles(pipeline, [tile]))
        return pipeline.cell_sizes(shown, config)

    if config.view_diameter_px is None:
        measured = measured_of([find_cells(Tile(shown_as.values, max(size_hw)))], max(size_hw), model_size)
    elif config.diameter_px is not None:
        side = grid_at_scale(size_hw, config.diameter_px, model_size, config.view_diameter_px).side
        measured = measure_at(shown_as.values, side, model_size, find_cells)
    else:
        measured = measure_diameter(shown_as.values, model_size, find_cells, view_diameter_px=config.view_diameter_px)
    return shown_as._replace(measured=measured)


def _choose_scale(
    pipeline: Pipeline, shown_as: _PolarityView, size_hw: tuple[int, int], config: SegmentConfig
) -> EncodedView | TileGrid:
    """Return the whole view if its cells are large enough or none is found, else the grid of tiles."""
    model_size, wanted_px = pipeline.manifest.image_size, config.view_diameter_px
    if shown_as.whole is None:
        assert config.diameter_px is not None, "_whole_views encodes the image if no diameter is given"
        assert wanted_px is not None, "a diameter needs a wanted one"
        return grid_at_scale(size_hw, config.diameter_px, model_size, wanted_px)
    if wanted_px is None:
        return shown_as.whole
    diameter = None if shown_as.measured is None else shown_as.measured.diameter_px
    if diameter is None or one_view_will_do(
        diameter, max(size_hw), model_size, wanted_px, config.whole_view_diameter_px
    ):
        return shown_as.whole
    return grid_at_scale(size_hw, diameter, model_size, wanted_px)
