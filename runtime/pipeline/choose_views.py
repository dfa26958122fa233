"""The views in which the cells of an image have the diameter that the model works best at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from runtime.config import SegmentConfig
from runtime.errors import ConfigError
from runtime.pipeline.encoded import EncodedView
from runtime.pipeline.pipeline import Pipeline
from runtime.types import F32
from runtime.views.grid import Tile, TileGrid, cut_tile, grid_at_scale
from runtime.views.scale import CellSizes, measure_diameter, one_view_will_do


def views_at_scale(
    pipeline: Pipeline, images: Sequence[F32], config: SegmentConfig
) -> Iterator[tuple[int, EncodedView]]:
    """Encode images in the views in which their cells have the diameter ``config.view_diameter_px``.

    An image is shown whole, as one square view, if its cells are large enough so, or none is found; else in
    overlapping tiles. What lies beyond the image is 0.

    Args:
        pipeline: encodes, and measures the cells if the diameter is not given.
        images: (H, W, 3) float32 in [0, 1] each, contrast normalised; at most ``pipeline.images_per_call``.
        config: ``view_diameter_px`` is not None.

    Yields:
        Place of an image and one of its views; image by image, encoded a few at a time.

    Raises:
        ConfigError: ``diameter_um`` is not resolved.
        InputError, BackendError: as ``Pipeline.encode`` and ``Pipeline.detect``.
    """
    for place, (image, whole) in enumerate(zip(images, _whole_views(pipeline, images, config), strict=True)):
        chosen = _choose(pipeline, image, whole, config)
        if isinstance(chosen, EncodedView):
            yield place, chosen
            continue
        tiles = (cut_tile(image, origin, chosen.side) for origin in chosen.origins)
        yield from ((place, view) for view in encode_tiles(pipeline, tiles))


def encode_tiles(pipeline: Pipeline, tiles: Iterable[Tile]) -> Iterator[EncodedView]:
    """Encode tiles of an image, several in a call.

    Args:
        pipeline: encodes.
        tiles: of 3 channels, float32 in [0, 1], contrast normalised.
    """
    waiting = iter(tiles)
    while part := list(islice(waiting, pipeline.images_per_call)):
        yield from pipeline.encode(
            [tile.pixels for tile in part],
            origins=[tile.origin_yx for tile in part],
            frames_hw=[tile.frame_hw for tile in part],
        )


def _whole_views(pipeline: Pipeline, images: Sequence[F32], config: SegmentConfig) -> Sequence[EncodedView | None]:
    """The square view of each whole image with what the detector finds in it; None if the diameter is given."""
    if config.diameter_um is not None:
        raise ConfigError(
            f"diameter_um is {config.diameter_um}, but the pixel size of the image is not known here; expected "
            "diameter_px, or config.at_pixel_size(pixel_size_um, name)."
        )
    if config.diameter_px is not None:
        return [None] * len(images)
    views = list(encode_tiles(pipeline, (cut_tile(image, (0, 0), max(image.shape[:2])) for image in images)))
    found = pipeline.find_candidates(views)
    return [replace(view, candidates=candidates) for view, candidates in zip(views, found, strict=True)]


def _choose(pipeline: Pipeline, image: F32, whole: EncodedView | None, config: SegmentConfig) -> EncodedView | TileGrid:
    """The view of the whole image if its cells are large enough in it or none is found, else the tiles."""
    wanted_px = config.view_diameter_px
    assert wanted_px is not None, "without a wanted diameter there is nothing to choose"
    size_hw, model_size = (image.shape[0], image.shape[1]), pipeline.manifest.image_size
    if whole is None:
        assert config.diameter_px is not None, "_whole_views has looked if no diameter is given"
        return grid_at_scale(size_hw, config.diameter_px, model_size, wanted_px)
    encoded = [whole]  # the first view that is measured is that of the whole image

    def find_cells(tile: Tile) -> CellSizes:
        shown = encoded.pop() if encoded else next(encode_tiles(pipeline, [tile]))
        return pipeline.cell_sizes(shown, config)

    diameter = measure_diameter(image, model_size, find_cells, view_diameter_px=wanted_px)
    if diameter is None or one_view_will_do(
        diameter, max(size_hw), model_size, wanted_px, config.whole_view_diameter_px
    ):
        return whole
    return grid_at_scale(size_hw, diameter, model_size, wanted_px)
