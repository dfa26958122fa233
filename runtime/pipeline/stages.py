"""The stages of the chain, one by one: encode, detect, decode."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from runtime.config import SegmentConfig, check_whole
from runtime.engines.backends.base import ON_GPU, BackendOptions
from runtime.engines.backends.input_shapes import BOXES_ON_GPU, IMAGES_ON_GPU
from runtime.engines.backends.load import load_engine, resolve_backend
from runtime.engines.builtin import builtin_engine
from runtime.engines.manifest import check_files, read_manifest
from runtime.errors import InputError
from runtime.ops import preprocess
from runtime.ops.boxes import LOGITS_PER_TOKEN, check_boxes, scale_xyxy, select_boxes
from runtime.ops.compiled import channels_used
from runtime.pipeline.assembly import Assembly
from runtime.pipeline.engine_calls import Chain
from runtime.results import Detections, EncodedImage, MaskLogits, Segmentation
from runtime.types import F32, F64
from runtime.views.scale import CellSizes

IMAGES_ON_CPU, BOXES_ON_CPU = 1, 16
"""Images and boxes of one engine call there, unless the caller says otherwise."""

_log = logging.getLogger(__name__)

_PLANES = ("the first plane", "nuclear", "whole-cell")
"""What the three planes of the model input stand for."""

_MEASURED = 32
"""About as many cells of a view are measured."""


def per_call(backend: str, images: int | None, boxes: int | None) -> tuple[int, int]:
    """Most images and boxes of one engine call; None stands for what suits the backend."""
    default = (IMAGES_ON_GPU, BOXES_ON_GPU) if backend in ON_GPU else (IMAGES_ON_CPU, BOXES_ON_CPU)
    return images or default[0], boxes or default[1]


class Stages:
    """The engines of one directory, and what is done with them one after the other."""

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
                on this machine), ``tensorrt-ort`` (onnxruntime's TensorRT provider, which takes minutes when it first
                loads an engine), or ``auto``, the fastest of the others that can run here; the log says which.
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
        options = options or BackendOptions()
        self.backend = resolve_backend(backend, directory, options.device)
        self.manifest = read_manifest(directory)
        check_files(directory, self.manifest)
        self.config = config or self.manifest.config
        engines = {
            name: load_engine(directory / spec.file, spec, backend=self.backend, options=options)
            for name, spec in self.manifest.engines.items()
        }
        images, boxes = per_call(self.backend, images_per_call, boxes_per_call)
        self._remarked: set[tuple[int, ...]] = set()
        self.chain = Chain(engines, self.manifest, images_per_call=images, boxes_per_call=boxes)

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
        decoded = {
            index: MaskLogits(logits, (y, x), iou)
            for _, masks in self.chain.decode([encoded], [prompts], full=full)
            for index, logits, (y, x), iou in zip(
                masks.index.tolist(),
                masks.logits,
                masks.origins.tolist(),
                masks.iou_predictions.tolist(),
                strict=True,
            )
        }
        return [decoded[index] for index in range(len(prompts))]

    def cell_sizes(self, view: ArrayLike, *, config: SegmentConfig | None = None) -> CellSizes:
        """Sizes and scores of the cells of one view; what a scale is measured by.

        Args:
            view: a square image.
            config: settings of this call.
        """
        config = config or self.config
        encoded = self.encode(view, config=config)
        return self._sizes(encoded, self.detect(encoded, config=config), config)

    @staticmethod
    def _normalized(image: ArrayLike, config: SegmentConfig) -> F32:
        if config.normalize:
            return preprocess.normalize_contrast(image, invert=config.invert)
        return preprocess.take_normalized(image)

    def _encode(self, normalized: Sequence[F32], *, detector: bool = True) -> list[EncodedImage]:
        """Encode images whose contrast is normalised."""
        if detector and not self.manifest.has_detector:
            raise InputError(
                "these engines have no detector (plain SAM weights). Give the boxes: segmenter(image, boxes=...)."
            )
        for image in normalized:
            self._check_channels(image)
        inputs = [preprocess.branch_inputs(image, self.manifest, detector=detector) for image in normalized]
        return self.chain.encode(inputs, [(image.shape[0], image.shape[1]) for image in normalized])

    def _check_channels(self, normalized: F32) -> None:
        """Say once where the channels of an image are not as those that the weights were trained on."""
        known = [tuple(preprocess.channel_targets(count)) for count in self.manifest.trained_channels]
        if not known:
            return
        used = tuple(np.flatnonzero(channels_used(normalized)).tolist())
        few = normalized[::8, ::8]
        if len(used) == 3 and (few == few[..., :1]).all():
            used = (0, 0, 0)  # a gray image three times
        if not used or used in known or used in self._remarked:
            return
        self._remarked.add(used)
        _log.warning(
            "an image whose channels are %s: these weights were trained on images of %s, so that cells may be missing "
            "or wrong. Give one channel alone (--nuclear NAME), or use weights trained on such images.",
            "the same three times" if used == (0, 0, 0) else " and ".join(_PLANES[place] for place in used),
            " or ".join(f"{len(places)} channel{'s' * (len(places) > 1)}" for places in known),
        )

    def _detect(self, encoded: Sequence[EncodedImage], config: SegmentConfig) -> list[Detections]:
        if any(one.patch_features is None for one in encoded):
            raise InputError("this image was encoded with detector=False; encode it again to detect cells.")
        found = []
        for one, (candidates, logits) in zip(encoded, self.chain.detect(encoded), strict=True):
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
        for image, masks in self.chain.decode(encoded, boxes, full=full):
            assemblies[image].add(masks)
        return [a.finish(b, s) for a, b, s in zip(assemblies, boxes, scores, strict=True)]

    def _sizes(self, encoded: EncodedImage, found: Detections, config: SegmentConfig) -> CellSizes:
        some = found.boxes[:: max(1, len(found.boxes) // _MEASURED)]
        decoded = self.chain.decode([encoded], [some], full=config.mask_window == "full")
        kept = [masks.logits[masks.iou_predictions >= config.iou_threshold] for _, masks in decoded]
        inside = [np.count_nonzero(logits > config.mask_threshold_logit, axis=(1, 2)) for logits in kept]
        areas = np.concatenate([np.zeros(0), *inside])
        logit_px = encoded.size_hw[0] / (LOGITS_PER_TOKEN * self.manifest.grid_size)
        return CellSizes(2 * np.sqrt(areas[areas > 0] / np.pi) * logit_px, found.scores)
