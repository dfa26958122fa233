"""``Segmenter``: images in, cells out, through the engines of one directory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime import preprocess
from runtime.assembly import Assembly
from runtime.backends import BackendOptions, load_engine
from runtime.backends.base import ON_GPU, resolve_backend
from runtime.boxes import LOGITS_PER_TOKEN, check_boxes, scale_xyxy, select_boxes
from runtime.builtin import builtin_engine
from runtime.chain import Chain
from runtime.config import SegmentConfig, check_whole
from runtime.errors import ConfigError, InputError
from runtime.manifest import check_files, read_manifest
from runtime.ordered import in_order
from runtime.results import Detections, EncodedImage, EncodedView, MaskLogits, Segmentation
from runtime.scale import measure_diameter, one_view_will_do
from runtime.stitching import TileCells, stitch, tile_cells
from runtime.tiling import TileGrid, cut_tile, grid_at_scale

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]

IMAGES_ON_GPU, BOXES_ON_GPU = 4, 64
"""Images and boxes of one engine call there, unless the caller says otherwise."""

_MEASURED = 32
"""About as many cells of a view are measured."""

_VIEWS_TOGETHER = 8
"""Views whose boxes share decoder calls; bounds what a long batch holds at a time."""


@dataclass(frozen=True, slots=True)
class _Shown:
    """One view of one image, on its way through the engines."""

    number: int
    """Of the image in the batch."""
    size_hw: tuple[int, int]
    """Of the image."""
    view: EncodedView
    prompts: F64 | None
    """The user's boxes."""
    stitched: bool
    """The view keeps the image's aspect, and may be one of several."""


class Segmenter:
    """Segments images with the engines of one directory, or with the small ones of the package.

    Loads every engine once. Calls keep no state, so threads may share one.

    Example:
        >>> segmenter = Segmenter()  # Segmenter("engines/") for engines of your own
        >>> result = segmenter(image)
        >>> result.labels  # (H, W) int32, 0 = background
    """

    def __init__(
        self,
        engine_dir: str | Path | None = None,
        *,
        backend: str = "auto",
        config: SegmentConfig | None = None,
        boxes_per_call: int | None = None,
        images_per_call: int | None = None,
        options: BackendOptions | None = None,
    ) -> None:
        """Check the directory and load its engines.

        Args:
            engine_dir: a directory written by ``cellsam-engine export``; None for the built-in ``nano``, whose model
                card says what it was trained on.
            backend: ``cpu`` (onnxruntime), ``openvino`` (also the CPU, in bfloat16 where it has that), ``cuda``
                (onnxruntime on an NVIDIA GPU), ``tensorrt`` (there too, with plans that ``cellsam-engine build`` made
                on this machine), or ``auto``, the fastest one that can run here; the log says which.
            config: settings of calls that bring none; default, those of the manifest.
            boxes_per_call: most boxes decoded together; bounds the decoder's memory. Default: 16, on a GPU 64.
            images_per_call: most images encoded together. Default: 1, on a GPU 4.
            options: threads and the like.

        Raises:
            EngineError: the directory, its manifest or one of its files is missing, altered or of another version.
            BackendError: the backend is unknown or cannot load an engine.
            ConfigError: ``boxes_per_call`` or ``images_per_call`` is below 1.
        """
        for name, value in (("boxes_per_call", boxes_per_call), ("images_per_call", images_per_call)):
            if value is not None:
                check_whole(name, value, least=1)
        directory = builtin_engine() if engine_dir is None else Path(engine_dir)
        self.backend = resolve_backend(backend, directory)
        self.manifest = read_manifest(directory)
        check_files(directory, self.manifest)
        self.config = config or self.manifest.config
        options = options or BackendOptions()
        engines = {
            name: load_engine(directory / spec.file, spec, backend=self.backend, options=options)
            for name, spec in self.manifest.engines.items()
        }
        self._chain = Chain(
            engines,
            self.manifest,
            images_per_call=images_per_call or (IMAGES_ON_GPU if self.backend in ON_GPU else 1),
            boxes_per_call=boxes_per_call or (BOXES_ON_GPU if self.backend in ON_GPU else 16),
        )

    def __call__(
        self, image: ArrayLike, *, boxes: ArrayLike | None = None, config: SegmentConfig | None = None
    ) -> Segmentation:
        """Segment one image.

        Args:
            image: (H, W) or (H, W, C <= 3), any real dtype. Channels are right-aligned into (blank, nuclear,
                whole-cell).
            boxes: (K, 4) xyxy in image pixels: decode these instead of detecting cells.
            config: settings of this call.

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

    def encode(self, image: ArrayLike, *, detector: bool = True, config: SegmentConfig | None = None) -> EncodedImage:
        """Run the encoder on one image.

        Args:
            image: as in ``__call__``.
            detector: False leaves out what only ``detect`` needs.
            config: settings of this call; only ``normalize`` matters here.

        Raises:
            InputError: an image that cannot be used, or a detector asked of engines that have none.
        """
        return self._encode([self._normalized(image, config or self.config)], detector=detector)[0]

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
        return list(self._views(self._normalized(image, config), config))

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

    def detect(self, encoded: EncodedImage, *, config: SegmentConfig | None = None) -> Detections:
        """Find the boxes of all cells of an encoded image.

        Raises:
            InputError: the image was encoded with ``detector=False``.
        """
        return self._detect([encoded], config or self.config)[0]

    def decode(
        self,
        encoded: EncodedImage,
        boxes: ArrayLike,
        *,
        scores: ArrayLike | None = None,
        config: SegmentConfig | None = None,
    ) -> Segmentation:
        """Decode one mask per box and assemble the label map.

        Args:
            encoded: the image.
            boxes: (K, 4) xyxy, image pixels.
            scores: (K), kept with the instances; NaN when not given.
            config: settings of this call.

        Raises:
            InputError: boxes that cannot be used, or scores of another number.
        """
        prompts = check_boxes(boxes, encoded.size_hw)
        try:
            values = np.full(len(prompts), np.nan) if scores is None else np.asarray(scores, np.float32)
        except (TypeError, ValueError) as error:
            raise InputError(f"scores cannot be read as numbers ({error}); expected one per box.") from error
        if values.shape != (len(prompts),):
            raise InputError(f"scores have shape {values.shape}; expected ({len(prompts)},), one per box.")
        return self._decode([encoded], [prompts], [values.astype(np.float32)], config or self.config)[0]

    def decode_logits(
        self, encoded: EncodedImage, boxes: ArrayLike, *, config: SegmentConfig | None = None
    ) -> list[MaskLogits]:
        """Mask logits as the decoder gives them, before they are resized, cut or assembled.

        Args:
            encoded: the image.
            boxes: (K, 4) xyxy, image pixels.
            config: settings of this call; only ``mask_window`` matters here.

        Returns:
            One entry per box, in order.

        Raises:
            InputError: boxes that cannot be used.
        """
        prompts = check_boxes(boxes, encoded.size_hw)
        full = (config or self.config).mask_window == "full"
        decoded = {index: mask for _, index, mask in self._chain.decode([encoded], [prompts], full=full)}
        return [decoded[index] for index in range(len(prompts))]

    @staticmethod
    def _normalized(image: ArrayLike, config: SegmentConfig) -> F32:
        return preprocess.normalize_contrast(image) if config.normalize else preprocess.take_normalized(image)

    def _encode(self, normalized: Sequence[F32], *, detector: bool = True) -> list[EncodedImage]:
        """Encode images whose contrast is normalised."""
        if detector and not self.manifest.has_detector:
            raise InputError(
                "these engines have no detector (plain SAM weights). Give the boxes: segmenter(image, boxes=...)."
            )
        inputs = [preprocess.branch_inputs(image, self.manifest, detector=detector) for image in normalized]
        return self._chain.encode(inputs, [(image.shape[0], image.shape[1]) for image in normalized])

    def _show(
        self, images: Sequence[ArrayLike], boxes: Sequence[ArrayLike] | None, config: SegmentConfig
    ) -> Iterator[_Shown]:
        """The views of all images, image by image."""
        if boxes is None and config.view_diameter_px is not None:
            for number, image in enumerate(images):
                normalized = self._normalized(image, config)
                size_hw = (normalized.shape[0], normalized.shape[1])
                for view in self._views(normalized, config):
                    yield _Shown(number, size_hw, view, None, True)
            return
        together = self._chain.images_per_call
        for start in range(0, len(images), together):
            group = [self._normalized(image, config) for image in images[start : start + together]]
            for number, encoded in enumerate(self._encode(group, detector=boxes is None), start=start):
                prompts = None if boxes is None else check_boxes(boxes[number], encoded.size_hw)
                yield _Shown(number, encoded.size_hw, EncodedView((0, 0), encoded), prompts, False)

    def _views(self, normalized: F32, config: SegmentConfig) -> Iterator[EncodedView]:
        """``encode_views`` of an image whose contrast is normalised, a few at a time."""
        whole_or_grid = self._choose_views(normalized, config)
        if isinstance(whole_or_grid, EncodedView):
            yield whole_or_grid
            return
        origins, together = whole_or_grid.origins, self._chain.images_per_call
        for start in range(0, len(origins), together):
            part = origins[start : start + together]
            encoded = self._encode([cut_tile(normalized, origin, whole_or_grid.side) for origin in part])
            yield from map(EncodedView, part, encoded)

    def _choose_views(self, normalized: F32, config: SegmentConfig) -> EncodedView | TileGrid:
        """The whole image, where its cells are large enough in one view or none is found; else the tiles."""
        wanted_px, diameter = config.view_diameter_px, config.diameter_px
        if wanted_px is None:
            raise ConfigError("view_diameter_px is None; expected the median cell diameter of a view, model pixels.")
        size_hw, model_size = (normalized.shape[0], normalized.shape[1]), self.manifest.image_size
        if diameter is None:
            looked: list[EncodedImage] = []

            def find_diameters(view: F32) -> F64:
                looked.extend(self._encode([view]))
                return self._diameters(looked[-1], config)

            diameter = measure_diameter(normalized, model_size, find_diameters, view_diameter_px=wanted_px)
            if diameter is None or one_view_will_do(
                diameter, max(size_hw), model_size, wanted_px, config.whole_view_diameter_px
            ):
                return EncodedView((0, 0), looked[0])
        return grid_at_scale(size_hw, diameter, model_size, wanted_px)

    def cell_diameters(self, view: ArrayLike, *, config: SegmentConfig | None = None) -> F64:
        """Diameters of the cells of one view, of some of them where there are many; what a scale is measured by.

        Args:
            view: a square image.
            config: settings of this call.

        Returns:
            (K), of discs of the masks' areas, image pixels.
        """
        config = config or self.config
        return self._diameters(self.encode(view, config=config), config)

    def _diameters(self, encoded: EncodedImage, config: SegmentConfig) -> F64:
        boxes = self._detect([encoded], config)[0].boxes
        some = boxes[:: max(1, len(boxes) // _MEASURED)]
        decoded = self._chain.decode([encoded], [some], full=config.mask_window == "full")
        kept = [mask.logits for _, _, mask in decoded if mask.iou_prediction >= config.iou_threshold]
        areas = np.array([np.count_nonzero(logits > config.mask_threshold_logit) for logits in kept], np.float64)
        logit_px = encoded.size_hw[0] / (LOGITS_PER_TOKEN * self.manifest.grid_size)
        return 2 * np.sqrt(areas[areas > 0] / np.pi) * logit_px

    def cells_of_views(
        self, views: Iterable[EncodedView], size_hw: tuple[int, int], *, config: SegmentConfig | None = None
    ) -> Iterator[TileCells]:
        """``segment_views`` before the cells are stitched: those of each view, in order.

        The boxes of several views share decoder calls.
        """
        config = config or self.config
        shown = (_Shown(0, size_hw, view, None, True) for view in views)
        while group := list(islice(shown, _VIEWS_TOGETHER)):
            for one, result in zip(group, self._segment_together(group, config), strict=True):
                yield tile_cells(result, one.view.origin_yx, size_hw)

    def _results(self, shown: Iterator[_Shown], config: SegmentConfig) -> Iterator[Segmentation]:
        """One result per image, in order; the boxes of several views, and images, share decoder calls."""
        tiles: list[TileCells] = []
        size_hw, number = (0, 0), 0
        while group := list(islice(shown, _VIEWS_TOGETHER)):
            for one, result in zip(group, self._segment_together(group, config), strict=True):
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

    def _segment_together(self, group: Sequence[_Shown], config: SegmentConfig) -> list[Segmentation]:
        encoded = [one.view.image for one in group]
        if group[0].prompts is None:
            found = self._detect(encoded, config)
            prompts, scores = [f.boxes for f in found], [f.scores for f in found]
        else:
            prompts = [one.prompts for one in group if one.prompts is not None]
            scores = [np.full(len(p), np.nan, np.float32) for p in prompts]
        # The features are by far the largest tensor, and only detection reads them.
        return self._decode([replace(e, patch_features=None) for e in encoded], prompts, scores, config)

    def _detect(self, encoded: Sequence[EncodedImage], config: SegmentConfig) -> list[Detections]:
        if any(one.patch_features is None for one in encoded):
            raise InputError("this image was encoded with detector=False; encode it again to detect cells.")
        found = []
        for one, (candidates, logits) in zip(encoded, self._chain.detect(encoded), strict=True):
            boxes, scores, threshold = select_boxes(candidates, logits, config)
            found.append(Detections(scale_xyxy(boxes, (1, 1), one.size_hw), scores, threshold))
        return found

    def _decode(
        self, encoded: Sequence[EncodedImage], boxes: Sequence[F64], scores: Sequence[F32], config: SegmentConfig
    ) -> list[Segmentation]:
        """Decode the boxes of several images in shared calls, then assemble each image."""
        full = config.mask_window == "full"
        sides = (LOGITS_PER_TOKEN * self.manifest.grid_size, self.manifest.image_size)
        assemblies = [Assembly(e.size_hw, sides, len(b), config) for e, b in zip(encoded, boxes, strict=True)]
        for image, index, mask in self._chain.decode(encoded, boxes, full=full):
            assemblies[image].add(index, mask)
        return [a.finish(b, s) for a, b, s in zip(assemblies, boxes, scores, strict=True)]
