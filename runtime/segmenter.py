"""``Segmenter``: images in, cells out, through the engines of one directory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import ArrayLike

from runtime.config import SegmentConfig, check_whole
from runtime.errors import ConfigError, InputError
from runtime.ops.boxes import check_boxes
from runtime.pipeline.ordered import in_order
from runtime.pipeline.stages import Stages
from runtime.results import Detections, EncodedImage, EncodedView, Segmentation
from runtime.types import F32, F64
from runtime.views.grid import TileGrid, cut_tile, grid_at_scale
from runtime.views.scale import CellSizes, measure_diameter, one_view_will_do
from runtime.views.stitch import TileCells, stitch, tile_cells

_VIEWS_TOGETHER = 8
"""Views whose boxes share decoder calls, where one encoder call has no more; bounds what a long batch holds."""


_Look = tuple[EncodedImage, Detections]


@dataclass(frozen=True, slots=True)
class _Shown:
    """One view of one image, on its way through the engines."""

    number: int
    """Of the image in the batch."""
    size_hw: tuple[int, int]
    """Of the image."""
    view: EncodedView
    found: Detections | None
    """The user's boxes, or those that were found while the scale was measured; None has them detected."""
    stitched: bool
    """The view keeps the image's aspect, and may be one of several."""


class Segmenter(Stages):
    """Segments images with the engines of one directory, or with the small ones of the package.

    Loads every engine once. Calls keep no state, so threads may share one.

    Example:
        >>> segmenter = Segmenter()  # Segmenter("engines/") for engines of your own
        >>> result = segmenter(image)
        >>> result.labels  # (H, W) int32, 0 = background
    """

    def __call__(
        self, image: ArrayLike, *, boxes: ArrayLike | None = None, config: SegmentConfig | None = None
    ) -> Segmentation:
        """Segment one image.

        Args:
            image: (H, W) or (H, W, C <= 3), any real dtype. Channels are right-aligned into (blank, nuclear,
                whole-cell).
            boxes: (K, 4) xyxy in image pixels: decode these instead of detecting cells.
            config: all settings of this call; to change some, ``dataclasses.replace(segmenter.config, ...)``.

        Returns:
            The label map and the instances behind it. An image without cells gives zeros and empty arrays.

        Raises:
            InputError: an image or boxes that cannot be used; no boxes for engines without a detector.
            BackendError: the backend failed.
        """
        return self.batch([image], boxes=None if boxes is None else [boxes], config=config)[0]

    def batch(
        self,
        images: Sequence[ArrayLike],
        *,
        boxes: Sequence[ArrayLike] | None = None,
        config: SegmentConfig | None = None,
    ) -> list[Segmentation]:
        """Segment several images, of any sizes; boxes of all images share decoder calls.

        Args:
            images: as in ``__call__``.
            boxes: prompts of each image, as many as images.
            config: settings of this call.

        Returns:
            One result per image, in order; the same as one by one.

        Raises:
            InputError: as in ``__call__``; also boxes for another number of images.
        """
        config = config or self.config
        if boxes is not None and len(boxes) != len(images):
            raise InputError(f"boxes are given for {len(boxes)} images, but {len(images)} images came.")
        return list(self._results(self._show(images, boxes, config), config))

    def stream(
        self,
        images: Iterable[ArrayLike | Callable[[], ArrayLike]],
        *,
        config: SegmentConfig | None = None,
        workers: int = 2,
        images_together: int = 4,
    ) -> Iterator[Segmentation]:
        """Segment images as they come, results in order; reading and host work overlap with the engines.

        Args:
            images: as in ``__call__``, or functions that read one; they are called by the workers.
            config: settings of all images.
            workers: groups of images in work at a time, each in a thread of its own. At most twice as many groups
                are held.
            images_together: images of one group; their boxes share decoder calls.

        Raises:
            InputError, BackendError: at the first group with an image that fails.
            ConfigError: ``workers`` or ``images_together`` is below 1.
        """
        check_whole("workers", workers, least=1)
        check_whole("images_together", images_together, least=1)
        settings = config or self.config

        def work(group: list[ArrayLike | Callable[[], ArrayLike]]) -> list[Segmentation]:
            return self.batch([image() if callable(image) else image for image in group], config=settings)

        return in_order(work, images, together=images_together, workers=workers)

    def encode_views(self, image: ArrayLike, *, config: SegmentConfig | None = None) -> list[EncodedView]:
        """Encode an image in the views in which its cells have the wanted diameter.

        Args:
            image: as in ``__call__``.
            config: settings of this call, ``view_diameter_px`` among them.

        Returns:
            The whole image as one square view, or overlapping tiles of it; what lies beyond the image is 0.

        Raises:
            InputError: as in ``encode``.
            ConfigError: ``view_diameter_px`` is None.
        """
        config = config or self.config
        normalized = self._normalized(image, config)
        (whole,) = self._whole_views([normalized], config)
        return [view for view, _ in self._views(normalized, whole, config)]

    def encode_tiles(self, tiles: Iterable[tuple[tuple[int, int], F32]]) -> Iterator[EncodedView]:
        """Encode tiles of an image, several in a call.

        Args:
            tiles: first pixel (y, x) of each, and the tile, (side, side, 3) float32 in [0, 1], contrast normalised.
        """
        waiting = iter(tiles)
        while part := list(islice(waiting, self.chain.images_per_call)):
            encoded = self._encode([tile for _, tile in part])
            yield from (EncodedView(origin, image) for (origin, _), image in zip(part, encoded, strict=True))

    def segment_views(
        self, views: Iterable[EncodedView], size_hw: tuple[int, int], *, config: SegmentConfig | None = None
    ) -> Segmentation:
        """Detect and decode the cells of the views of one image, and stitch them.

        Args:
            views: from ``encode_views``.
            size_hw: size of the image.
            config: settings of this call.
        """
        config = config or self.config
        return stitch(list(self.cells_of_views(views, size_hw, config=config)), size_hw, min_area_px=config.min_area_px)

    def _show(
        self, images: Sequence[ArrayLike], boxes: Sequence[ArrayLike] | None, config: SegmentConfig
    ) -> Iterator[_Shown]:
        """The views of all images, image by image."""
        together = self.chain.images_per_call
        for start in range(0, len(images), together):
            group = [self._normalized(image, config) for image in images[start : start + together]]
            if boxes is None and config.view_diameter_px is not None:
                for number, (image, whole) in enumerate(zip(group, self._whole_views(group, config), strict=True)):
                    size_hw = (image.shape[0], image.shape[1])
                    for view, found in self._views(image, whole, config):
                        yield _Shown(start + number, size_hw, view, found, True)
                continue
            for number, encoded in enumerate(self._encode(group, detector=boxes is None), start=start):
                given = None if boxes is None else _given(check_boxes(boxes[number], encoded.size_hw))
                yield _Shown(number, encoded.size_hw, EncodedView((0, 0), encoded), given, False)

    def _whole_views(self, normalized: Sequence[F32], config: SegmentConfig) -> Sequence[_Look | None]:
        """What the detector finds in the view of each whole image; None where the scale is given."""
        if config.diameter_um is not None:
            raise ConfigError(
                f"diameter_um is {config.diameter_um}, but the pixel size of the image is not known here; expected "
                "diameter_px, or config.at_pixel_size(pixel_size_um, name)."
            )
        if config.diameter_px is not None:
            return [None] * len(normalized)
        encoded = self._encode([cut_tile(image, (0, 0), max(image.shape[:2])) for image in normalized])
        return list(zip(encoded, self._detect(encoded, config), strict=True))

    def _views(
        self, normalized: F32, whole: _Look | None, config: SegmentConfig
    ) -> Iterator[tuple[EncodedView, Detections | None]]:
        """``encode_views`` of an image whose contrast is normalised, a few at a time, and what was found in them.

        Args:
            whole: from ``_whole_views``.
        """
        chosen = self._choose_views(normalized, whole, config)
        if not isinstance(chosen, TileGrid):
            yield chosen
            return
        tiles = ((origin, cut_tile(normalized, origin, chosen.side)) for origin in chosen.origins)
        yield from ((view, None) for view in self.encode_tiles(tiles))

    def _choose_views(
        self, normalized: F32, whole: _Look | None, config: SegmentConfig
    ) -> tuple[EncodedView, Detections] | TileGrid:
        """The whole image, where its cells are large enough in one view or none is found; else the tiles."""
        wanted_px, diameter = config.view_diameter_px, config.diameter_px
        if wanted_px is None:
            raise ConfigError("view_diameter_px is None; expected the median cell diameter of a view, model pixels.")
        size_hw, model_size = (normalized.shape[0], normalized.shape[1]), self.manifest.image_size
        if diameter is None:
            assert whole is not None, "_whole_views has looked where no scale is given"
            unused = [whole]

            def find_cells(view: F32) -> CellSizes:
                if unused:  # the first view is that of the whole image
                    return self._sizes(*unused.pop(), config)
                (encoded,) = self._encode([view])
                return self._sizes(encoded, self._detect([encoded], config)[0], config)

            diameter = measure_diameter(normalized, model_size, find_cells, view_diameter_px=wanted_px)
            if diameter is None or one_view_will_do(
                diameter, max(size_hw), model_size, wanted_px, config.whole_view_diameter_px
            ):
                encoded, found = whole
                return EncodedView((0, 0), encoded), found
        return grid_at_scale(size_hw, diameter, model_size, wanted_px)

    def cells_of_views(
        self, views: Iterable[EncodedView], size_hw: tuple[int, int], *, config: SegmentConfig | None = None
    ) -> Iterator[TileCells]:
        """``segment_views`` before the cells are stitched: those of each view, in order.

        The boxes of several views share decoder calls.
        """
        config = config or self.config
        shown = (_Shown(0, size_hw, view, None, True) for view in views)
        return (tile_cells(result, one.view.origin_yx, size_hw) for one, result in self._segmented(shown, config))

    def _results(self, shown: Iterator[_Shown], config: SegmentConfig) -> Iterator[Segmentation]:
        """One result per image, in order; the boxes of several views, and images, share decoder calls."""
        tiles: list[TileCells] = []
        size_hw, number = (0, 0), 0
        for one, result in self._segmented(shown, config):
            if tiles and one.number != number:
                yield stitch(tiles, size_hw, min_area_px=config.min_area_px)
                tiles = []
            size_hw, number = one.size_hw, one.number
            if one.stitched:
                tiles.append(tile_cells(result, one.view.origin_yx, size_hw))
            else:
                yield result
        if tiles:
            yield stitch(tiles, size_hw, min_area_px=config.min_area_px)

    def _segmented(self, shown: Iterator[_Shown], config: SegmentConfig) -> Iterator[tuple[_Shown, Segmentation]]:
        """Every view with its own result."""
        # At least an encoder call's: the detector looks at all of them together.
        while group := list(islice(shown, max(_VIEWS_TOGETHER, self.chain.images_per_call))):
            unseen = iter(self._detect([one.view.image for one in group if one.found is None], config))
            found = [one.found if one.found is not None else next(unseen) for one in group]
            # The features are by far the largest tensor, and only detection reads them.
            encoded = [replace(one.view.image, patch_features=None) for one in group]
            results = self._decode(encoded, [f.boxes for f in found], [f.scores for f in found], config)
            yield from zip(group, results, strict=True)


def _given(boxes: F64) -> Detections:
    """The user's boxes: they have no scores."""
    return Detections(boxes, np.full(len(boxes), np.nan, np.float32), math.nan)
