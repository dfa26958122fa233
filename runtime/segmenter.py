"""``Segmenter``: images in, cells out, through the engines of one directory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime import preprocess
from runtime.backends import BackendOptions, Engine, load_engine
from runtime.backends.base import resolve_backend
from runtime.boxes import LOGITS_PER_TOKEN, check_boxes, scale_xyxy, select_boxes, token_windows
from runtime.builtin import builtin_engine
from runtime.config import SegmentConfig, check_whole
from runtime.errors import BackendError, ConfigError, InputError
from runtime.manifest import EngineName, check_files, read_manifest
from runtime.masks import LabelCanvas, MaskCrop, finish_labels, resize_axis, upsample_window
from runtime.results import Detections, EncodedImage, EncodedView, MaskLogits, Segmentation
from runtime.scale import measure_diameter, one_view_will_do
from runtime.stitching import TileCells, stitch, tile_cells
from runtime.tiling import cut_tile, grid_at_scale

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

_IMAGES_TOGETHER = 8
"""Images whose boxes share decoder calls; bounds what a long batch holds at a time."""


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Boxes that share a window size, decoded in one call. Arrays run over the K boxes of the chunk."""

    image: I64
    """Place of each box's image in the batch."""
    index: I64
    """Place of each box among its image's boxes."""
    origin: I64
    """First token (row, column) of each window, (K, 2)."""
    side: int
    """Tokens per side of the windows."""


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
        boxes_per_call: int = 16,
        options: BackendOptions | None = None,
    ) -> None:
        """Check the directory and load its engines.

        Args:
            engine_dir: a directory written by ``cellsam-engine export``; None for the built-in ``nano``, whose model
                card says what it was trained on.
            backend: ``cpu`` (onnxruntime), ``openvino`` (also the CPU, in bfloat16 where it has that), or ``auto``,
                which is ``cpu``.
            config: settings of calls that bring none; default, those of the manifest.
            boxes_per_call: boxes decoded together; bounds the decoder's memory.
            options: threads and the like.

        Raises:
            EngineError: the directory, its manifest or one of its files is missing, altered or of another version.
            BackendError: the backend is unknown or cannot load an engine.
            ConfigError: ``boxes_per_call`` is below 1.
        """
        check_whole("boxes_per_call", boxes_per_call, least=1)
        directory = builtin_engine() if engine_dir is None else Path(engine_dir)
        self.backend = resolve_backend(backend)
        self.manifest = read_manifest(directory)
        check_files(directory, self.manifest)
        self.config = config or self.manifest.config
        self._boxes_per_call = boxes_per_call
        self._engines: dict[EngineName, Engine] = {
            name: load_engine(directory / spec.file, spec, backend=self.backend, options=options or BackendOptions())
            for name, spec in self.manifest.engines.items()
        }

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
        if config.view_diameter_px is not None and boxes is None:
            return [self._at_scale(image, config) for image in images]
        results: list[Segmentation] = []
        for start in range(0, len(images), _IMAGES_TOGETHER):
            group = slice(start, start + _IMAGES_TOGETHER)
            results += self._segment(images[group], None if boxes is None else boxes[group], config)
        return results

    def _at_scale(self, image: ArrayLike, config: SegmentConfig) -> Segmentation:
        normalized = self._normalized(image, config)
        size_hw = (normalized.shape[0], normalized.shape[1])
        in_view = replace(config, normalize=False)
        return self._segment_views(self._views(normalized, in_view), size_hw, in_view)

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
        return list(self._views(self._normalized(image, config), replace(config, normalize=False)))

    def segment_views(
        self, views: Iterable[EncodedView], size_hw: tuple[int, int], *, config: SegmentConfig | None = None
    ) -> Segmentation:
        """Detect and decode the cells of the views of one image, and stitch them.

        Args:
            views: from ``encode_views``.
            size_hw: size of the image.
            config: settings of this call.
        """
        return self._segment_views(views, size_hw, config or self.config)

    def _views(self, normalized: F32, config: SegmentConfig) -> Iterator[EncodedView]:
        """``encode_views`` of an image whose contrast is normalised, one by one."""
        wanted_px = config.view_diameter_px
        if wanted_px is None:
            raise ConfigError("view_diameter_px is None; expected the median cell diameter of a view, model pixels.")
        longest, model_size = max(normalized.shape[:2]), self.manifest.image_size
        diameter = config.diameter_px
        if diameter is None:
            looked: list[EncodedImage] = []

            def find_boxes(view: F32) -> F64:
                looked.append(self.encode(view, config=config))
                return self.detect(looked[-1], config=config).boxes

            measured = measure_diameter(normalized, model_size, find_boxes)
            diameter = measured.diameter_px
            if diameter is None or one_view_will_do(
                measured, longest, model_size, wanted_px, config.whole_view_diameter_px
            ):
                yield EncodedView((0, 0), looked[0])
                return
        grid = grid_at_scale((normalized.shape[0], normalized.shape[1]), diameter, model_size, wanted_px)
        for origin in grid.origins:
            yield EncodedView(origin, self.encode(cut_tile(normalized, origin, grid.side), config=config))

    def _segment_views(
        self, views: Iterable[EncodedView], size_hw: tuple[int, int], config: SegmentConfig
    ) -> Segmentation:
        cells = self.cells_of_views(views, size_hw, config=config)
        return stitch(list(cells), size_hw, min_area_px=config.min_area_px)

    def cells_of_views(
        self, views: Iterable[EncodedView], size_hw: tuple[int, int], *, config: SegmentConfig | None = None
    ) -> Iterator[TileCells]:
        """``segment_views`` before the cells are stitched: those of each view, in order.

        The boxes of several views share decoder calls.
        """
        config = config or self.config
        waiting = iter(views)
        while group := list(islice(waiting, _IMAGES_TOGETHER)):
            found = [self.detect(view.image, config=config) for view in group]
            encoded = [replace(view.image, patch_features=None) for view in group]
            results = self._decode(encoded, [f.boxes for f in found], [f.scores for f in found], config)
            yield from (tile_cells(r, view.origin_yx, size_hw) for r, view in zip(results, group, strict=True))

    def _segment(
        self, images: Sequence[ArrayLike], boxes: Sequence[ArrayLike] | None, config: SegmentConfig
    ) -> list[Segmentation]:
        """Encode and detect image by image, decode all boxes together."""
        encoded, prompts, scores = [], [], []
        for index, image in enumerate(images):
            one = self.encode(image, detector=boxes is None, config=config)
            if boxes is None:
                found = self.detect(one, config=config)
                prompts.append(found.boxes)
                scores.append(found.scores)
            else:
                prompts.append(check_boxes(boxes[index], one.size_hw))
                scores.append(np.full(len(prompts[-1]), np.nan, np.float32))
            # The features are by far the largest array, and only detection reads them.
            encoded.append(replace(one, patch_features=None))
        return self._decode(encoded, prompts, scores, config)

    def encode(self, image: ArrayLike, *, detector: bool = True, config: SegmentConfig | None = None) -> EncodedImage:
        """Run the encoder on one image.

        Args:
            image: as in ``__call__``.
            detector: False leaves out what only ``detect`` needs.
            config: settings of this call; only ``normalize`` matters here.

        Raises:
            InputError: an image that cannot be used, or a detector asked of engines that have none.
        """
        if detector and not self.manifest.has_detector:
            raise InputError(
                "these engines have no detector (plain SAM weights). Give the boxes: segmenter(image, boxes=...)."
            )
        normalized = self._normalized(image, config or self.config)
        branches = preprocess.branch_inputs(normalized, self.manifest, detector=detector)
        outputs = self._run_encoder("encoder", branches.mask)
        features: F32 | None = None
        if branches.box is not None:
            name: EngineName = "detector_encoder" if self.manifest.trunk == "separate" else "encoder"
            one_pass = name == "encoder" and branches.box is branches.mask
            features = (outputs if one_pass else self._run_encoder(name, branches.box))["patch_features"]
        height, width = normalized.shape[:2]
        return EncodedImage((height, width), outputs["image_embedding"], features)

    @staticmethod
    def _normalized(image: ArrayLike, config: SegmentConfig) -> F32:
        return preprocess.normalize_contrast(image) if config.normalize else preprocess.take_normalized(image)

    def _run_encoder(self, name: EngineName, pixel_values: F32) -> dict[str, F32]:
        return self._engines[name]({"pixel_values": pixel_values[None]})

    def detect(self, encoded: EncodedImage, *, config: SegmentConfig | None = None) -> Detections:
        """Find the boxes of all cells of an encoded image.

        Raises:
            InputError: the image was encoded with ``detector=False``.
        """
        if encoded.patch_features is None:
            raise InputError("this image was encoded with detector=False; encode it again to detect cells.")
        outputs = self._engines["cellfinder"]({"patch_features": encoded.patch_features})
        boxes, scores, threshold = select_boxes(
            outputs["boxes_cxcywh_norm"][0], outputs["logits"][0], config or self.config
        )
        return Detections(scale_xyxy(boxes, (1, 1), encoded.size_hw), scores, threshold)

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
        decoded = {index: mask for _, index, mask in self._decoded([encoded], [prompts], config or self.config)}
        return [decoded[index] for index in range(len(prompts))]

    def _decode(
        self, encoded: list[EncodedImage], boxes: list[F64], scores: list[F32], config: SegmentConfig
    ) -> list[Segmentation]:
        """Decode the boxes of several images in shared calls, then assemble each image."""
        canvases = [LabelCanvas(image.size_hw, config) for image in encoded]
        masks: list[dict[int, MaskCrop]] = [{} for _ in encoded]
        iou = [np.full(len(b), -np.inf, np.float32) for b in boxes]
        logits_side = LOGITS_PER_TOKEN * self.manifest.grid_size
        for image, index, mask in self._decoded(encoded, boxes, config):
            iou[image][index] = mask.iou_prediction
            if mask.iou_prediction < config.iou_threshold:
                continue
            height, width = encoded[image].size_hw
            axes = (
                resize_axis(logits_side, self.manifest.image_size, height),
                resize_axis(logits_side, self.manifest.image_size, width),
            )
            pixels, offset = upsample_window(mask.logits, mask.origin_yx, axes)
            masks[image][index] = canvases[image].add(index, pixels, offset)
        return [
            _assemble(canvas, crops, b, s, i, config)
            for canvas, crops, b, s, i in zip(canvases, masks, boxes, scores, iou, strict=True)
        ]

    def _decoded(
        self, encoded: list[EncodedImage], boxes: list[F64], config: SegmentConfig
    ) -> Iterator[tuple[int, int, MaskLogits]]:
        """Yield image, index and mask of every box, in any order."""
        size, grid = self.manifest.image_size, self.manifest.grid_size
        in_model = [
            scale_xyxy(b, image.size_hw, (size, size)).astype(np.float32)
            for b, image in zip(boxes, encoded, strict=True)
        ]
        windows = [token_windows(b, size, grid, full=config.mask_window == "full") for b in in_model]
        for chunk in _chunks(windows, self._boxes_per_call):
            outputs = self._run_decoder(chunk, encoded, in_model)
            for k in range(len(chunk.index)):
                row, column = (int(token) * LOGITS_PER_TOKEN for token in chunk.origin[k])
                mask = MaskLogits(outputs["mask_logits"][k], (row, column), float(outputs["iou_predictions"][k]))
                yield int(chunk.image[k]), int(chunk.index[k]), mask

    def _run_decoder(self, chunk: _Chunk, encoded: list[EncodedImage], in_model: list[F32]) -> dict[str, F32]:
        """Decode one chunk; the images it needs are sent once each."""
        images, image_index = np.unique(chunk.image, return_inverse=True)
        tokens = np.arange(chunk.side)
        boxes = [in_model[i][j] for i, j in zip(chunk.image, chunk.index, strict=True)]
        outputs = self._engines["mask_decoder"](
            {
                "image_embedding": np.concatenate([encoded[i].image_embedding for i in images]),
                "image_index": image_index.astype(np.int64),
                "boxes_xyxy_model": np.stack(boxes),
                "window_rows": chunk.origin[:, :1] + tokens,
                "window_cols": chunk.origin[:, 1:] + tokens,
            }
        )
        if not all(np.isfinite(array).all() for array in outputs.values()):
            raise BackendError(
                "the mask decoder gave NaN or infinite values: the engine's precision does not suit these weights. "
                "Run 'cellsam-engine verify', or export with --precision fp32."
            )
        return outputs


def _chunks(windows: list[tuple[I64, I64]], boxes_per_call: int) -> Iterator[_Chunk]:
    """Group the boxes of all images by window size into calls of at most ``boxes_per_call``."""
    if not windows:
        return
    image = np.concatenate([np.full(len(side), i, np.int64) for i, (_, side) in enumerate(windows)])
    index = np.concatenate([np.arange(len(side), dtype=np.int64) for _, side in windows])
    origin = np.concatenate([o for o, _ in windows])
    sides = np.concatenate([s for _, s in windows])
    for side in np.unique(sides):
        members = np.flatnonzero(sides == side)
        for start in range(0, len(members), boxes_per_call):
            part = members[start : start + boxes_per_call]
            yield _Chunk(image[part], index[part], origin[part], int(side))


def _assemble(
    canvas: LabelCanvas, crops: dict[int, MaskCrop], boxes: F64, scores: F32, iou: F32, config: SegmentConfig
) -> Segmentation:
    """Finish one image: the label map, and the instances that passed the IoU cut."""
    labels, ids = finish_labels(canvas.owner, len(boxes), config)
    kept = np.array(sorted(crops), np.int64)
    return Segmentation(
        labels=labels,
        boxes=boxes[kept].reshape(-1, 4),
        scores=scores[kept],
        iou_predictions=iou[kept],
        ids=ids[kept],
        masks=tuple(crops[k] for k in kept),
    )
