"""Queue in front of the engines: bounded, with a lane for box prompts that whole images do not hold up."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from runtime.config import SegmentConfig
from runtime.errors import RECOVERABLE_ERRORS
from runtime.pipeline.encoded import EncodedViews
from runtime.results import Segmentation
from runtime.segmenter import Segmenter
from runtime.server.http.failures import RETRY_AFTER, RequestError
from runtime.server.http.metrics import Metrics
from runtime.types import F64

T = TypeVar("T")

BOXES_TOGETHER = 256
"""Most boxes that are decoded together, unless one request has more."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class BoxTask:
    """Boxes of one request."""

    views: EncodedViews
    boxes: F64
    """(K, 4) xyxy, image pixels."""
    config: SegmentConfig
    result: Future[Segmentation] = field(default_factory=Future)


@dataclass(frozen=True, slots=True, eq=False)
class _Call(Generic[T]):
    """Any other work."""

    work: Callable[[], T]
    result: Future[T] = field(default_factory=Future)

    def run(self) -> None:
        _settle(self.result, self.work)


class EngineQueue:
    """Runs the work of all requests on one segmenter, in two threads.

    One thread segments whole images, one after another. The other one encodes images for box prompts and decodes boxes;
    boxes that wait at the same time are decoded together, whoever sent them.
    """

    def __init__(self, segmenter: Segmenter, limit: int, metrics: Metrics) -> None:
        """Start the threads.

        Args:
            segmenter: runs the work.
            limit: most requests that may hold a slot.
            metrics: counts what is done.
        """
        self._segmenter, self._limit, self._metrics = segmenter, limit, metrics
        self._taken = 0
        self._lock = threading.Lock()
        self._images, self._prompts = _Lane(self._next_image), _Lane(self._next_prompts)
        self._calls: deque[_Call[Any]] = deque()
        self._prompt_calls: deque[_Call[Any]] = deque()
        self._boxes: deque[BoxTask] = deque()
        self._images.start("cellsam-images")
        self._prompts.start("cellsam-prompts")

    @property
    def segmenter(self) -> Segmenter:
        """The segmenter that runs the work."""
        return self._segmenter

    @property
    def limit(self) -> int:
        """Most requests that may hold a slot."""
        return self._limit

    @property
    def taken(self) -> int:
        """Number of requests that hold a slot."""
        return self._taken

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold one of the queue's slots, from before a request's image is read until it is answered.

        Raises:
            RequestError: all slots are taken.
        """
        with self._lock:
            if self._taken >= self._limit:
                self._metrics.rejected.inc()
                raise RequestError(
                    f"{self._taken} requests are waiting or in work; expected fewer than {self._limit + 1}. Try again "
                    "in a moment.",
                    status=429,
                    kind="busy",
                    headers=RETRY_AFTER,
                )
            self._taken += 1
        try:
            yield
        finally:
            with self._lock:
                self._taken -= 1

    def run_image(self, work: Callable[[], T]) -> Future[T]:
        """Queue work on a whole image."""
        call = _Call(work)
        self._images.add(lambda: self._calls.append(call), call.result)
        return call.result

    def run_prompt(self, work: Callable[[], T]) -> Future[T]:
        """Queue short work that somebody waits for, such as encoding an image for boxes."""
        call = _Call(work)
        self._prompts.add(lambda: self._prompt_calls.append(call), call.result)
        return call.result

    def decode(self, views: EncodedViews, boxes: F64, config: SegmentConfig) -> Future[Segmentation]:
        """Queue boxes of an encoded image."""
        task = BoxTask(views, boxes, config)
        self._prompts.add(lambda: self._boxes.append(task), task.result)
        return task.result

    def close(self, timeout_s: float = 30.0) -> None:
        """Drop waiting work and wait for the work in progress."""
        for lane in (self._images, self._prompts):
            lane.stop()
        for lane in (self._images, self._prompts):
            lane.join(timeout_s)
        calls, boxes = [*self._calls, *self._prompt_calls], [*self._boxes]
        waiting: list[Future[Any]] = [*(call.result for call in calls), *(task.result for task in boxes)]
        for future in waiting:
            future.cancel()

    def _next_image(self) -> Callable[[], None] | None:
        return self._calls.popleft().run if self._calls else None

    def _next_prompts(self) -> Callable[[], None] | None:
        """Return what comes next: all boxes that wait, else one image to encode."""
        if not self._boxes:
            return self._prompt_calls.popleft().run if self._prompt_calls else None
        group = [self._boxes.popleft()]
        count = len(group[0].boxes)
        while self._boxes and count + len(self._boxes[0].boxes) <= BOXES_TOGETHER:
            group.append(self._boxes.popleft())
            count += len(group[-1].boxes)
        return lambda: self._decode(group)

    def _decode(self, group: list[BoxTask]) -> None:
        by_config: dict[SegmentConfig, list[BoxTask]] = {}
        for task in group:
            if task.result.set_running_or_notify_cancel():
                by_config.setdefault(task.config, []).append(task)
        for config, tasks in by_config.items():
            self._metrics.box_batches.inc()
            self._metrics.boxes.inc(sum(len(task.boxes) for task in tasks))
            self._decode_together(tasks, config)

    def _decode_together(self, tasks: list[BoxTask], config: SegmentConfig) -> None:
        """Decode the boxes of several requests; if that fails, of each alone, so that one does not fail the others."""
        try:
            results = self._segmenter.decode_batch(
                [task.views for task in tasks], [task.boxes for task in tasks], config=config
            )
        except RECOVERABLE_ERRORS as error:
            if len(tasks) == 1:
                tasks[0].result.set_exception(error)
                return
            for task in tasks:
                self._decode_together([task], config)
            return
        for task, result in zip(tasks, results, strict=True):
            task.result.set_result(result)


class _Lane:
    """A thread that takes work until it is stopped."""

    def __init__(self, take: Callable[[], Callable[[], None] | None]) -> None:
        self._take = take
        self._changed = threading.Condition()
        self._stopped = False
        self._thread: threading.Thread | None = None

    def start(self, name: str) -> None:
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def add(self, put: Callable[[], None], result: Future[Any]) -> None:
        with self._changed:
            if self._stopped:
                result.cancel()
                return
            put()
            self._changed.notify()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def join(self, timeout_s: float) -> None:
        assert self._thread is not None, "started"
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            _log.warning("%s is still at work after %g s; its work is abandoned", self._thread.name, timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                work = None
                while not self._stopped and (work := self._take()) is None:
                    self._changed.wait()
                if self._stopped:
                    return
            assert work is not None, "the loop above waits for it"
            work()
            del work  # holds the images of a finished request until the next one


def _settle(result: Future[T], work: Callable[[], T]) -> None:
    """Run work and keep its result or its error."""
    if not result.set_running_or_notify_cancel():
        return
    try:
        value = work()
    except RECOVERABLE_ERRORS as error:
        result.set_exception(error)
        return
    with suppress(InvalidStateError):
        result.set_result(value)
