"""The segmentation service behind all routes and protocols: queue, cache, limits and metrics."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime.config import SegmentConfig
from runtime.errors import InputError
from runtime.files.image_results import FileOptions, ReadImage
from runtime.ops.boxes import check_boxes
from runtime.results import Segmentation
from runtime.segmenter import Segmenter
from runtime.server.http.failures import RequestError
from runtime.server.http.metrics import Metrics
from runtime.server.images.answers import Answer
from runtime.server.images.uploads import read_checked
from runtime.server.options import Limits
from runtime.server.work.embeddings import Embedding, EmbeddingCache
from runtime.server.work.engine_queue import EngineQueue
from runtime.types import F64

T = TypeVar("T")

Reader = Callable[[], ReadImage]
"""Reads an image; called in the thread that segments it, so that only one image is decoded at a time."""


class Service:
    """Segments images and decodes boxes for all requests of a server."""

    def __init__(self, segmenter: Segmenter, limits: Limits) -> None:
        """Start the threads that do the work.

        Args:
            segmenter: runs the engines.
            limits: limits of requests.
        """
        self.limits, self.metrics = limits, Metrics()
        self.segmenter = segmenter
        self.queue = EngineQueue(segmenter, limits.queue, self.metrics)
        self.embeddings = EmbeddingCache(limits.embedding_bytes)
        self.metrics.watch("cellsam_queue", "Requests that wait or are in work.", lambda: self.queue.taken)
        self.metrics.watch("cellsam_embeddings", "Cached embeddings.", lambda: len(self.embeddings))
        self.metrics.watch(
            "cellsam_embedding_bytes", "Memory of the cached embeddings.", lambda: self.embeddings.size_bytes
        )

    def close(self) -> None:
        """Stop the threads; waiting requests get an error."""
        self.queue.close()

    def segment(self, read: Reader, config: SegmentConfig, boxes: ArrayLike | None = None) -> Future[Answer]:
        """Queue an image to segment.

        Args:
            read: reads the image.
            config: settings of the call.
            boxes: (K, 4) xyxy, image pixels: decode these at their own scale, instead of detecting cells.
        """

        def work() -> Answer:
            image = read()
            settled = config.at_pixel_size(image.pixel_size_um, "the image")
            checked = None if boxes is None else self.check_boxes(boxes, (image.pixels.shape[0], image.pixels.shape[1]))
            result = self.segmenter(image.pixels, boxes=checked, config=settled)
            self.metrics.images.inc()
            self.metrics.cells.inc(len(result))
            return Answer(result, image.pixel_size_um, of_boxes=boxes is not None)

        return self.queue.run_image(work) if boxes is None else self.queue.run_prompt(work)

    def encode(self, key: str, read: Reader, config: SegmentConfig) -> Future[Embedding]:
        """Queue an image to encode for boxes, unless it is cached.

        Args:
            key: see ``key_of``.
            read: reads the image.
            config: settings of the call.
        """
        if (cached := self.embeddings.get(key)) is not None:
            future: Future[Embedding] = Future()
            future.set_result(cached)
            return future

        def work() -> Embedding:
            if (cached := self.embeddings.get(key)) is not None:  # by a request that waited before this one
                return cached
            image = read()
            settled = config.at_pixel_size(image.pixel_size_um, "the image")
            embedding = Embedding.of(self.segmenter.encode(image.pixels, detector=False, config=settled), settled)
            self.embeddings.put(key, embedding)
            self.metrics.encoded.inc()
            return embedding

        return self.queue.run_prompt(work)

    def embedding(self, key: str) -> Embedding:
        """Return a cached embedding.

        Raises:
            RequestError: it is not cached.
        """
        if (found := self.embeddings.get(key)) is None:
            raise RequestError(
                f"embedding {key[:80]!r} is not cached; expected one that was made recently. Encode the image again.",
                status=404,
                kind="not_found",
                field="embedding",
            )
        return found

    def decode(
        self, embedding: Embedding, boxes: ArrayLike, config: SegmentConfig | None = None
    ) -> Future[Segmentation]:
        """Queue boxes of an encoded image.

        Args:
            embedding: the image.
            boxes: (K, 4) xyxy, image pixels.
            config: settings of the call; default, those of the embedding.

        Raises:
            InputError: the boxes cannot be used.
        """
        checked = self.check_boxes(boxes, embedding.views.size_hw)
        return self.queue.decode(embedding.views, checked, config or embedding.config)

    def check_boxes(self, boxes: ArrayLike, size_hw: tuple[int, int]) -> F64:
        """Check boxes of a request.

        Raises:
            InputError: they cannot be used, or are too many.
        """
        checked = check_boxes(boxes, size_hw)
        if len(checked) > self.limits.boxes:
            raise InputError(
                f"{len(checked)} boxes are given; expected at most {self.limits.boxes}. Send them in several requests.",
                kind="too_large",
                field="boxes",
            )
        return checked


def file_reader(path: Path, options: FileOptions, inside: Path) -> Reader:
    """Return a function that reads an image file; see ``read_checked``."""
    return lambda: read_checked(path, options, inside=inside)


def array_reader(pixels: NDArray[np.generic]) -> Reader:
    """Return a function that hands over an image that is already in memory."""
    return lambda: ReadImage(pixels, None, Path("image"))


def key_of(path: Path, *settings: object) -> str:
    """Return the key under which an image is cached: a hash of its file's content and of settings."""
    digest = hashlib.sha256(repr(settings).encode())
    if path.is_dir():  # OME-Zarr
        changed = [(str(one), one.stat().st_mtime_ns) for one in sorted(path.rglob("*")) if one.is_file()]
        digest.update(repr((str(path), changed)).encode())
    else:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:32]


async def result_of(future: Future[T]) -> T:
    """Wait for a future without blocking the server.

    Raises:
        RequestError: the server is shutting down.
    """
    try:
        return await asyncio.wrap_future(future)
    except (CancelledError, asyncio.CancelledError):
        if not future.cancelled():
            raise
        raise RequestError(
            "the server is shutting down; expected a running one. Send the request again later.",
            status=503,
            kind="busy",
        ) from None
