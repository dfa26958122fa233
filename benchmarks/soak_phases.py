"""Phases of ``benchmarks.soak``: functions that each run the built-in model for long, in a separate process."""

from __future__ import annotations

import hashlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.made_slide import NoisySlide
from benchmarks.resident import Readings
from runtime import Segmentation, Segmenter
from runtime.engines.backends.base import Engine
from runtime.errors import BackendError, InputError
from runtime.pipeline.load import load_pipeline
from runtime.pipeline.pipeline import Pipeline
from runtime.types import Tensor, Tensors

Image = NDArray[Any]
Digests = Sequence[str]

SIDES_PX = (64, 256)
"""Shortest and longest image side in pixels: small, so that thousands of images take minutes."""

IMAGES = 24
"""Number of different images."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """Length of a phase."""

    count: int
    """Number of images, or of segmenters in the phase ``lifetimes``."""
    every: int = 100
    """Number of images or segmenters between readings of memory."""
    settled_at: int = 500
    """Number of images or segmenters after which memory must be constant."""
    threads: int = 16


def made_images() -> list[Image]:
    """Make images of cells on a noisy background, in several sizes, types and channel counts; the last is empty."""
    rng = np.random.default_rng(0)
    images: list[Image] = []
    for number in range(IMAGES - 1):
        height, width = rng.integers(SIDES_PX[0], SIDES_PX[1] + 1, 2).tolist()
        slide = NoisySlide((height, width), pitch_px=int(rng.integers(28, 56)), seed=number)
        grey = slide.read(0, 0, height, width)[..., 0]
        forms = (
            grey,
            grey.astype(np.uint16) * 257,
            (grey.astype(np.float32) / 255),
            np.dstack([grey // 3, grey // 2, grey]),
        )
        images.append(forms[number % len(forms)])
    return [*images, np.zeros((SIDES_PX[1], SIDES_PX[0]), np.uint8)]


def digest(result: Segmentation) -> str:
    """Return the hex sha256 of labels, boxes, scores and IoU predictions."""
    hashed = hashlib.sha256()
    for array in (result.labels, result.boxes, result.scores, result.iou_predictions):
        hashed.update(str((array.shape, array.dtype)).encode())
        hashed.update(np.ascontiguousarray(array).tobytes())
    return hashed.hexdigest()


@dataclass
class Soak:
    """Common state of a phase: images, readings of memory, and a count of differing results."""

    backend: str
    size: Size
    images: list[Image] = field(default_factory=made_images)
    readings: Readings = field(default_factory=Readings)
    differ: int = 0
    """Number of results that differ from the first one of their image."""
    begun: float = field(default_factory=time.perf_counter)

    def first_results(self, segmenter: Segmenter) -> Digests:
        """Segment all images in order and return the digests of the results."""
        logging.getLogger("runtime").setLevel(logging.ERROR)  # images cause thousands of warnings
        return [digest(segmenter(image)) for image in self.images]

    def order(self) -> Iterator[int]:
        """Yield ``size.count`` image numbers; the same image precedes every reading."""
        rng = np.random.default_rng(1)
        for done in range(1, self.size.count + 1):
            yield 0 if done % self.size.every == 0 else int(rng.integers(len(self.images)))

    def rounds(self) -> Iterator[list[int]]:
        """Yield ``order`` in pieces, one for each reading."""
        order = self.order()
        while piece := list(itertools.islice(order, self.size.every)):
            yield piece

    def record(self, **more: Any) -> dict[str, Any]:
        """Return the figures of the phase, and whether it passed."""
        seconds = time.perf_counter() - self.begun
        memory = self.readings.summary(self.size.settled_at)
        return {
            "backend": self.backend,
            "count": self.size.count,
            "seconds": round(seconds, 1),
            "results_unlike_the_first": self.differ,
            **more,
            "memory": memory,
            "passed": memory["steady"] and not self.differ and not more.get("failures_amiss"),
        }


def soak_images(backend: str, size: Size) -> dict[str, Any]:
    """Run one image after another through one segmenter."""
    soak = Soak(backend, size)
    with Segmenter(backend=backend) as segmenter:
        first, done = soak.first_results(segmenter), 0
        for numbers in soak.rounds():
            for number in numbers:
                soak.differ += digest(segmenter(soak.images[number])) != first[number]
            done += len(numbers)
            soak.readings.read(done)
    return soak.record()


def soak_threads(backend: str, size: Size) -> dict[str, Any]:
    """Run many threads at once on one segmenter."""
    soak = Soak(backend, size)
    with Segmenter(backend=backend) as segmenter, ThreadPoolExecutor(size.threads) as pool:
        first, done = soak.first_results(segmenter), 0

        def unlike(number: int) -> bool:
            return digest(segmenter(soak.images[number])) != first[number]

        for numbers in soak.rounds():
            soak.differ += sum(pool.map(unlike, numbers))
            done += len(numbers)
            soak.readings.read(done)
    return soak.record(threads=size.threads)


def soak_lifetimes(backend: str, size: Size) -> dict[str, Any]:
    """Create segmenters, use each once, and close or drop it."""
    soak = Soak(backend, size)
    with Segmenter(backend=backend) as segmenter:
        first, done = soak.first_results(segmenter), 0
    del segmenter
    for numbers in soak.rounds():
        for number in numbers:
            segmenter = Segmenter(backend=backend)
            soak.differ += digest(segmenter(soak.images[number])) != first[number]
            done += 1
            if done % 2:
                segmenter.close()
            del segmenter
        soak.readings.read(done)
    return soak.record()


class UnreadableError(OSError):
    """Error of an image reader that fails on purpose."""


@dataclass
class Failure:
    """A failure that occurs once, at the ``at``-th call after ``arm``; threads may share it."""

    left: Iterator[int] = field(default_factory=lambda: iter(()))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def arm(self, at: int) -> None:
        """Make the ``at``-th call from now fail; 0 lets all calls pass."""
        self.left = iter(range(at, 0, -1))

    def call(self) -> None:
        """Count a call.

        Raises:
            BackendError: this call is the one to fail.
        """
        with self.lock:
            if next(self.left, None) == 1:
                raise BackendError("the soak lets this call fail.")


class FailingEngine(Engine):
    """An engine that fails on some calls."""

    def __init__(self, engine: Engine, failure: Failure) -> None:
        """Wrap an engine; ``failure`` counts each call before it runs."""
        self._engine, self._failure = engine, failure
        self.inputs, self.outputs = engine.inputs, engine.outputs

    def run(self, feeds: Mapping[str, Tensor], *, keep: Collection[str] = ()) -> Tensors:
        """See ``Engine``."""
        self._failure.call()
        return self._engine.run(feeds, keep=keep)

    def close(self) -> None:
        """See ``Engine``."""
        self._engine.close()


IN_STREAM, TOGETHER, WORKERS = 12, 3, 4
"""Images in a stream, images in a group, and groups processed at a time."""

Source = Iterator[Image | Callable[[], Image]]


@dataclass
class Streams:
    """Streams of a few images with different faults, and a check of the errors that they raise."""

    soak: Soak
    segmenter: Segmenter
    failure: Failure
    first: Digests
    amiss: list[str] = field(default_factory=list)
    raised: dict[str, int] = field(default_factory=dict)

    KINDS = ("none", "unreadable image", "refused image", "broken source", "failing engine", "abandoned")

    def run(self, kind: str, numbers: Sequence[int], place: int) -> None:
        """Run one stream.

        Args:
            kind: its fault, one of ``KINDS``.
            numbers: numbers of its images.
            place: index of the image at which the fault occurs.
        """
        expected = {
            "unreadable image": UnreadableError,
            "refused image": InputError,
            "broken source": LookupError,
            "failing engine": BackendError,
        }.get(kind)
        if kind == "failing engine":
            self.failure.arm(place + 1)
        found: list[str] = []
        error: Exception | None = None
        stream = self.segmenter.stream(self._source(kind, numbers, place), workers=WORKERS, images_together=TOGETHER)
        try:
            for result in stream:
                found.append(digest(result))
                if kind == "abandoned" and len(found) > place:
                    break
        except Exception as caught:
            error = caught
        with suppress(AttributeError):  # an iterator without close
            stream.close()  # type: ignore[attr-defined]
        self.failure.arm(0)
        self.soak.differ += sum(one != self.first[number] for one, number in zip(found, numbers, strict=False))
        whole = {"none": len(numbers), "abandoned": place + 1}
        # All groups before the one that fails have given results. If an engine fails, their number is not fixed.
        whole |= dict.fromkeys(("unreadable image", "refused image"), place // TOGETHER * TOGETHER)
        if type(error) is not (expected or type(None)) or len(found) != whole.get(kind, len(found)):
            self.amiss.append(f"{kind} at {place}: {len(found)} results, then {error!r}")
        self.raised[kind] = self.raised.get(kind, 0) + (error is not None)

    def _source(self, kind: str, numbers: Sequence[int], place: int) -> Source:
        for at, number in enumerate(numbers):
            image = self.soak.images[number]
            if at != place or kind not in self.KINDS[1:4]:
                yield image if at % 2 else partial(np.copy, image)
            elif kind == "broken source":
                raise LookupError("the soak's source ends here.")
            else:
                yield _unreadable if kind == "unreadable image" else np.zeros((30, 40, 7), np.uint8)


def _unreadable() -> Image:
    raise UnreadableError("the soak's reader cannot read this image.")


def soak_streams(backend: str, size: Size) -> dict[str, Any]:
    """Run streams whose images, source or engines fail, and some that are abandoned before their end."""
    failure, soak = Failure(), Soak(backend, size)
    loaded = load_pipeline(backend=backend)
    engines = {name: FailingEngine(engine, failure) for name, engine in loaded.engines.items()}
    rng = np.random.default_rng(2)
    with Segmenter.from_pipeline(Pipeline(engines, loaded.manifest, backend=backend)) as segmenter:
        streams = Streams(soak, segmenter, failure, soak.first_results(segmenter))
        done = 0
        for number in range(size.count // IN_STREAM):
            numbers = rng.integers(len(soak.images), size=IN_STREAM).tolist()
            streams.run(Streams.KINDS[number % len(Streams.KINDS)], numbers, int(rng.integers(IN_STREAM)))
            done += IN_STREAM
            if done // size.every > (done - IN_STREAM) // size.every:
                # The segmenter still works, and the same image precedes every reading.
                soak.differ += digest(segmenter(soak.images[0])) != streams.first[0]
                soak.readings.read(done)
    amiss = streams.amiss
    return soak.record(raised=streams.raised, failures_amiss=len(amiss), examples=amiss[:5], workers=WORKERS)


PHASES: dict[str, Callable[[str, Size], dict[str, Any]]] = {
    "images": soak_images,
    "threads": soak_threads,
    "lifetimes": soak_lifetimes,
    "streams": soak_streams,
}
"""Phases by name, in the order in which they run."""
