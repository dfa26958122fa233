"""``Segmenter``: the public entry point, which turns images into cells with the engines of one directory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from numpy.typing import ArrayLike

from runtime.config import SegmentConfig, check_type, check_whole
from runtime.engines.backends.base import ON_GPU, BackendOptions
from runtime.engines.backends.freed import FREED
from runtime.engines.manifest import Manifest
from runtime.errors import InputError
from runtime.pipeline.choose_views import choose_views, views_for_boxes
from runtime.pipeline.encoded import EncodedViews
from runtime.pipeline.load import load_pipeline
from runtime.pipeline.ordered import in_order, worker_threads
from runtime.pipeline.own_boxes import decode_boxes, decode_together, segment_boxes, views_of_boxes
from runtime.pipeline.pipeline import BoxPrompts, Pipeline
from runtime.pipeline.prepare import PreparedImage, prepare
from runtime.pipeline.remarks import log_appearance
from runtime.pipeline.view_tasks import ShownImage, ViewResult, ViewTask, segment_views
from runtime.pipeline.warm_up import warm_up
from runtime.provenance import Provenance
from runtime.results import Detections, Segmentation
from runtime.views.stitch import stitch, view_cells

_Segmenter = TypeVar("_Segmenter", bound="Segmenter")


class Segmenter:
    """Segments images with the engines of a directory, or with the small built-in ones.

    Loads each engine once. Calls keep no state, so threads may share a segmenter. A ``with`` block releases the engines
    when it ends.

    Examples:
        >>> segmenter = Segmenter()  # Segmenter("engines/") for your own engines
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
        sha256: str | None = None,
    ) -> None:
        """Check the directory and load its engines.

        Args:
            engine_dir: a directory written by ``cellsam-engine export``; None for the built-in ``nano``, whose model
                card lists its training data.
            backend: ``auto`` uses the fastest backend that can run here, and logs which. ``cpu`` is onnxruntime.
                ``openvino`` also runs on the CPU, in bfloat16 if supported. ``cuda`` is onnxruntime on an NVIDIA GPU.
                ``tensorrt`` needs an NVIDIA GPU and plans built by ``cellsam-engine build`` on this machine.
                ``tensorrt-rtx`` needs an NVIDIA RTX GPU and plans built by ``cellsam-engine build --backend
                tensorrt-rtx`` on any machine.
                ``tensorrt-ort`` is onnxruntime's TensorRT provider; it takes minutes to load an engine for the first
                time, and ``auto`` never uses it.
            config: settings for calls without a ``config``; default, those of the manifest.
            boxes_per_call: the most boxes decoded together; bounds the decoder's memory. Default: 16, or 64 on a GPU.
            images_per_call: the most images encoded together. Default: 1, or 4 on a GPU.
            options: backend options, such as the number of threads.
            sha256: hex sha256 of the directory's ``SHA256SUMS``, which covers the manifest and all engine files; any
                other directory raises an error. ``sha256sum engines/SHA256SUMS`` and ``cellsam-engine info`` print it.

        Raises:
            EngineError: the directory, its manifest or one of its files is missing, altered or of another version, or
                the directory does not match ``sha256``.
            BackendError: the backend is unknown or cannot load an engine.
            ConfigError: ``boxes_per_call`` or ``images_per_call`` is below 1.
        """
        _check_config(config)
        self._pipeline = load_pipeline(
            engine_dir,
            backend=backend,
            images_per_call=images_per_call,
            boxes_per_call=boxes_per_call,
            options=options,
            sha256=sha256,
        )
        self._config = self._pipeline.manifest.config if config is None else config

    @classmethod
    def from_pipeline(cls: type[_Segmenter], pipeline: Pipeline, config: SegmentConfig | None = None) -> _Segmenter:
        """Create a segmenter from engines that are already loaded.

        Args:
            pipeline: the engines; ``close`` releases them.
            config: settings for calls without a ``config``; default, those of the manifest.
        """
        _check_config(config)
        segmenter = cls.__new__(cls)
        segmenter._pipeline = pipeline
        segmenter._config = pipeline.manifest.config if config is None else config
        return segmenter

    @property
    def pipeline(self) -> Pipeline:
        """The loaded engines and the steps that run them."""
        return self._pipeline

    @property
    def config(self) -> SegmentConfig:
        """Settings for calls without a ``config``."""
        return self._config

    @property
    def manifest(self) -> Manifest:
        """Manifest of the engine directory: the decisions made at export."""
        return self._pipeline.manifest

    @property
    def backend(self) -> str:
        """Name of the backend that runs the engines; never ``auto``."""
        return self._pipeline.backend

    @property
    def provenance(self) -> Provenance | None:
        """Origin of the results: the engines and the devices that run them, as the loaded engines report it.

        None if a pipeline without a description of its engines was passed to ``from_pipeline``.
        """
        return self._pipeline.provenance

    def __call__(
        self, image: ArrayLike, *, boxes: ArrayLike | None = None, config: SegmentConfig | None = None
    ) -> Segmentation:
        """Segment one image.

        Args:
            image: (H, W) or (H, W, C <= 3), any real dtype. Channels are right-aligned into (blank, nuclear,
                whole-cell).
            boxes: (K, 4) xyxy in image pixels: decode these boxes instead of detecting cells.
            config: all settings of this call; to change some, use ``dataclasses.replace(segmenter.config, ...)``.

        Returns:
            The label map and its cells. An image without cells gives zeros and empty arrays.

        Raises:
            InputError: the image or the boxes cannot be used, or the engines have no detector and no boxes are given.
            BackendError: the backend failed, or the segmenter is closed.
        """
        return self.batch([image], boxes=None if boxes is None else [boxes], config=config)[0]

    def batch(
        self,
        images: Sequence[ArrayLike],
        *,
        boxes: Sequence[ArrayLike] | None = None,
        config: SegmentConfig | None = None,
    ) -> list[Segmentation]:
        """Segment several images of any sizes; the boxes of all images share decoder calls.

        Args:
            images: as in ``__call__``.
            boxes: box prompts for each image, in the order of the images.
            config: settings of this call.

        Returns:
            One result per image, in order, equal to those of separate calls.

        Raises:
            InputError: as in ``__call__``; also if the numbers of images and of sets of boxes differ.
            BackendError: as in ``__call__``.
        """
        config = self._settings(config)
        _check_sequence("images", images, "segmenter.batch(list(images)), or segmenter.stream(images)")
        if boxes is not None:
            _check_sequence("boxes", boxes, "boxes=list(boxes)")
        if boxes is not None and len(boxes) != len(images):
            raise InputError(
                f"boxes has {len(boxes)} entries for {len(images)} images; expected one per image. Give an empty list "
                "for an image without boxes."
            )
        if boxes is not None and config.view_diameter_px is not None:
            return self._signed(self._decoded(image, one, config) for image, one in zip(images, boxes, strict=True))
        tasks = self._view_tasks(images, boxes, config)
        results = self._signed(_results(segment_views(self._pipeline, tasks, config), config))
        for place, result in enumerate(results):
            log_appearance(result.appearance, place)
        return results

    def stream(
        self,
        images: Iterable[ArrayLike | Callable[[], ArrayLike]],
        *,
        config: SegmentConfig | None = None,
        workers: int | None = None,
        images_together: int = 4,
    ) -> Iterator[Segmentation]:
        """Segment images as they arrive and yield results in order; reading overlaps with the work of the engines.

        Args:
            images: as in ``__call__``, or functions that read an image; worker threads call them.
            config: settings for all images.
            workers: number of groups of images in work at a time, each in its own thread. At most twice as many
                groups are in memory. Default: 2 on a CPU, whose cores the engines share; on a GPU, the number of cores
                that the process may use, from 2 to 8, because they prepare and assemble images meanwhile.
            images_together: images per group; their boxes share decoder calls.

        Raises:
            InputError, BackendError: an image fails; raised when its group is due.
            ConfigError: ``workers`` or ``images_together`` is below 1.
        """
        check_whole("images_together", images_together, least=1)
        settings = self._settings(config)
        if not isinstance(images, Iterable):
            raise InputError(
                f"images is of type {type(images).__name__}; expected an iterable of images. For one image, call "
                "segmenter(image).",
                kind="wrong_type",
                field="images",
            )

        workers = worker_threads(on_gpu=self.backend in ON_GPU) if workers is None else workers
        check_whole("workers", workers, least=1)

        def work(group: list[ArrayLike | Callable[[], ArrayLike]]) -> list[Segmentation]:
            return self.batch([image() if callable(image) else image for image in group], config=settings)

        return in_order(work, images, together=images_together, workers=workers)

    def encode(self, image: ArrayLike, *, detector: bool = True, config: SegmentConfig | None = None) -> EncodedViews:
        """Encode an image: the first of the three steps of a call.

        Args:
            image: as in ``__call__``.
            detector: False encodes the image only for your own boxes: in tiles if ``config`` gives the cell diameter,
                else in one view of the whole image.
            config: settings of this call: ``normalize``, ``invert`` and those of the scale.

        Returns:
            The views of the image, which can be detected and decoded with any thresholds. All stay in memory.

        Raises:
            InputError: the image cannot be used, or ``detector`` is True but the engines have no detector.
            BackendError: as in ``__call__``.
        """
        config = self._settings(config)
        prepared = self._prepared(image, config)
        if not detector:
            views = views_for_boxes(self._pipeline, prepared, config)
            return EncodedViews(tuple(views), prepared.size_hw, len(views) > 1, prepared.appearance)
        chosen = list(choose_views(self._pipeline, [prepared], config))
        return EncodedViews(
            tuple(one.view for one in chosen), prepared.size_hw, _stitched(config), chosen[0].appearance
        )

    def detect(self, views: EncodedViews, *, config: SegmentConfig | None = None) -> tuple[Detections, ...]:
        """Find the boxes of all cells of an encoded image: the second step.

        Args:
            views: the result of ``encode``.
            config: settings of this call: thresholds of boxes.

        Returns:
            The boxes of each view, in its pixels. A cell visible in several views has a box in each of them.

        Raises:
            InputError: the image was encoded with ``detector=False``.
            BackendError: as in ``__call__``.
        """
        config = self._settings(config)
        _check_views(views)
        return tuple(self._pipeline.detect(views.views, config))

    def decode(
        self,
        views: EncodedViews,
        found: Sequence[Detections] | None = None,
        *,
        boxes: ArrayLike | None = None,
        scores: ArrayLike | None = None,
        config: SegmentConfig | None = None,
    ) -> Segmentation:
        """Decode one mask per box and assemble the label map: the last step.

        Args:
            views: the result of ``encode``.
            found: the result of ``detect``: one entry per view.
            boxes: (K, 4) xyxy, image pixels, in place of ``found``.
            scores: (K,) scores of ``boxes``, stored with the cells; NaN if not given.
            config: settings of this call: thresholds of masks, and the rule for overlaps.

        Raises:
            InputError: the boxes cannot be used, the numbers of scores and boxes differ, or both or neither of
                ``found`` and ``boxes`` are given.
            BackendError: as in ``__call__``.
        """
        config = self._settings(config)
        _check_views(views)
        if (found is None) == (boxes is None):
            came = "neither found nor boxes is given" if found is None else "both found and boxes are given"
            raise InputError(f"{came}; expected one of them. Write decode(views, detect(views)).")
        if found is None:
            assert boxes is not None, "either is given"
            prompts, of_image = BoxPrompts.of_caller(boxes, views.size_hw, scores), views.appearance
            shared = views_of_boxes(views.views, prompts)
            made = decode_boxes(self._pipeline, shared, prompts, views.size_hw, appearance=of_image, config=config)
            return self._signed([made])[0]
        if len(found) != len(views):
            raise InputError(
                f"found has entries for {len(found)} views; expected {len(views)}, one per view. Pass the result of "
                "detect(views)."
            )
        image = ShownImage(0, views.size_hw, views.stitched, views.appearance)
        tasks = [ViewTask(image, view, BoxPrompts.of_detector(one)) for view, one in zip(views, found, strict=True)]
        (result,) = self._signed(_results(segment_views(self._pipeline, tasks, config), config))
        return result

    def decode_batch(
        self, views: Sequence[EncodedViews], boxes: Sequence[ArrayLike], *, config: SegmentConfig | None = None
    ) -> list[Segmentation]:
        """Decode boxes of several encoded images; the boxes of all images share decoder calls.

        Args:
            views: results of ``encode``.
            boxes: (K, 4) xyxy for each of them, in image pixels.
            config: settings of this call, as in ``decode``.

        Returns:
            One result per image, in order, equal to those of ``decode`` with ``boxes``.

        Raises:
            InputError: the boxes cannot be used, or the numbers of images and of sets of boxes differ.
            BackendError: as in ``__call__``.
        """
        config = self._settings(config)
        for name, value in (("views", views), ("boxes", boxes)):
            _check_sequence(name, value, f"{name}=list({name})")
        if len(views) != len(boxes):
            raise InputError(
                f"boxes has {len(boxes)} entries for {len(views)} images; expected one per image. Give an empty list "
                "for an image without boxes."
            )
        for one in views:
            _check_views(one)
        prompts = [BoxPrompts.of_caller(given, one.size_hw) for one, given in zip(views, boxes, strict=True)]
        return self._signed(decode_together(self._pipeline, list(zip(views, prompts, strict=True)), config))

    def warm_up(self, *, config: SegmentConfig | None = None) -> None:
        """Do the work that slows down a first call: compile loops, and run every engine at the shapes of calls.

        Args:
            config: settings that calls will use.

        Raises:
            BackendError: as in ``__call__``.
        """
        warm_up(self._pipeline, self._settings(config))

    def close(self) -> None:
        """Release the engines; later calls raise ``BackendError``. Closing again does nothing.

        No call may be running in another thread.
        """
        self._pipeline.close()

    def __enter__(self: _Segmenter) -> _Segmenter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _settings(self, config: SegmentConfig | None) -> SegmentConfig:
        _check_config(config)
        return self._config if config is None else config

    def _view_tasks(
        self, images: Sequence[ArrayLike], boxes: Sequence[ArrayLike] | None, config: SegmentConfig
    ) -> Iterator[ViewTask]:
        """Yield the views of all images in order, preparing as many images at a time as an encoder call takes."""
        FREED.give_back(at_once=True)  # memory of earlier results
        together = self._pipeline.images_per_call
        for start in range(0, len(images), together):
            group = [self._prepared(image, config) for image in images[start : start + together]]
            if boxes is None:
                for place, view, appearance in choose_views(self._pipeline, group, config):
                    size_hw = group[place].size_hw
                    yield ViewTask(ShownImage(start + place, size_hw, _stitched(config), appearance), view)
                continue
            views = self._pipeline.encode([image.values for image in group], detector=False)
            for place, (view, image) in enumerate(zip(views, group, strict=True)):
                shown = ShownImage(start + place, image.size_hw, False, image.appearance)
                yield ViewTask(shown, view, BoxPrompts.of_caller(boxes[start + place], image.size_hw))

    def _decoded(self, image: ArrayLike, boxes: ArrayLike, config: SegmentConfig) -> Segmentation:
        """Segment the caller's boxes, each decoded at its own scale."""
        prepared = self._prepared(image, config)
        return segment_boxes(self._pipeline, prepared, BoxPrompts.of_caller(boxes, prepared.size_hw), config)

    def _signed(self, results: Iterable[Segmentation]) -> list[Segmentation]:
        """Add what made them to results of the pipeline."""
        return [replace(one, provenance=self.provenance) for one in results]

    def _prepared(self, image: ArrayLike, config: SegmentConfig) -> PreparedImage:
        return prepare(image, config, self.manifest.trained_channels)


def _check_config(config: object) -> None:
    if config is not None:
        check_type(
            "config",
            config,
            SegmentConfig,
            "a SegmentConfig; to change some settings, use dataclasses.replace(segmenter.config, ...)",
        )


def _check_views(views: object) -> None:
    if not isinstance(views, EncodedViews):
        raise InputError(
            f"views is of type {type(views).__name__}; expected the result of segmenter.encode(image).",
            kind="wrong_type",
            field="views",
        )


def _check_sequence(name: str, value: object, instead: str) -> None:
    """Check that an argument is an ordered collection of known length.

    Raises:
        InputError: it is not.
    """
    if isinstance(value, str | bytes | Mapping) or not (hasattr(value, "__len__") and hasattr(value, "__getitem__")):
        raise InputError(
            f"{name} is of type {type(value).__name__}; expected a list. Write {instead}.",
            kind="wrong_type",
            field=name,
        )


def _stitched(config: SegmentConfig) -> bool:
    """Return whether images are shown in square views at the scale of their cells; see ``EncodedViews``."""
    return config.view_diameter_px is not None


def _results(cells: Iterator[ViewResult], config: SegmentConfig) -> Iterator[Segmentation]:
    """Yield one result per image, in order."""
    for image, views in groupby(cells, key=lambda one: one.image):
        if image.stitched:
            found = [view_cells(one.cells, one.origin_yx, image.size_hw) for one in views]
            yield stitch(found, image.size_hw, min_area_px=config.min_area_px, appearance=image.appearance)
        else:
            yield from (replace(one.cells, appearance=image.appearance) for one in views)
