"""Long work with one model, each phase a function that is meant to run in a process of its own; see ``soak``."""

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
"""Shortest and longest side of the images: small, so that many of them take minutes."""

IMAGES = 24
"""How many different ones there are."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How long a phase is."""

    count: int
    """Images, or segmenters of the phase ``lifetimes``."""
    every: int = 100
    """Of these, between readings of memory."""
    settled_at: int = 500
    """After so many, memory is to stay as it is."""
    threads: int = 16


def made_images() -> list[Image]:
    """Cells on a noisy ground, in several sizes, types and numbers of channels; the last image is empty."""
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
    """Hex sha256 of labels, boxes and scores."""
    hashed = hashlib.sha256()
    for array in (result.labels, result.boxes, result.scores, result.iou_predictions):
        hashed.update(str((array.shape, array.dtype)).encode())
        hashed.update(np.ascontiguousarray(array).tobytes())
    return hashed.hexdigest()


@dataclass
class Soak:
    """What all phases share: images, the results that they gave first, and readings."""

    backend: str
    size: Size
    images: list[Image] = field(default_factory=made_images)
    readings: Readings = field(default_factory=Readings)
    differ: int = 0
    """Results unlike the first one of their image."""
    begun: float = field(default_factory=time.perf_counter)

    def first_results(self, segmenter: Segmenter) -> Digests:
        """Digests of the results of all images, one after another."""
        logging.getLogger("runtime").setLevel(logging.ERROR)  # remarks on an image, thousands of times
        return [digest(segmenter(image)) for image in self.images]

    def order(self) -> Iterator[int]:
        """Numbers of images, ``size.count`` of them; the same image comes before every reading."""
        rng = np.random.default_rng(1)
        for done in range(1, self.size.count + 1):
            yield 0 if done % self.size.every == 0 else int(rng.integers(len(self.images)))

    def rounds(self) -> Iterator[list[int]]:
        """``order`` in pieces, one for each reading."""
        order = self.order()
        while piece := list(itertools.islice(order, self.size.every)):
            yield piece

    def record(self, **more: Any) -> dict[str, Any]:
        """What came out of the phase, and whether it passed."""
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
    """One image after another through one segmenter."""
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
    """Many threads at once on one segmenter."""
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
    """Segmenters that are made, used once and closed, or used and dropped."""
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
    """What a reader raises in the soak."""


@dataclass
class Failure:
    """Fails once, at the ``at``-th call after it was armed; threads may share it."""

    left: Iterator[int] = field(default_factory=lambda: iter(()))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def arm(self, at: int) -> None:
        """From now on, count calls to ``at``."""
        self.left = iter(range(at, 0, -1))

    def call(self) -> None:
        """Count a call.

        Raises:
            BackendError: this is the call that fails.
        """
        with self.lock:
            if next(self.left, None) == 1:
                raise BackendError("the soak lets this call fail.")


class FailingEngine(Engine):
    """An engine some calls of which fail."""

    def __init__(self, engine: Engine, failure: Failure) -> None:
        """Args: engine: what runs. failure: asked before each call."""
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
"""Images of one stream and of one group, and groups in work at a time."""

Source = Iterator[Image | Callable[[], Image]]


@dataclass
class Streams:
    """Streams of a few images, each with another fault; and whether what it should raise is raised."""

    soak: Soak
    segmenter: Segmenter
    failure: Failure
    first: Digests
    amiss: list[str] = field(default_factory=list)
    raised: dict[str, int] = field(default_factory=dict)

    KINDS = ("none", "unreadable image", "refused image", "broken source", "failing engine", "abandoned")

    def run(self, kind: str, numbers: Sequence[int], place: int) -> None:
        """One stream. Args: kind: its fault. numbers: its images. place: where the fault is."""
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
        # The results of the groups before the one that fails have come; of an engine, any call may be the first.
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
    """Streams whose images, source or engines fail, and some that nobody reads to the end."""
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
                # It still works, and memory is read after the same image as ever.
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
"""By name, in the order in which they run."""
