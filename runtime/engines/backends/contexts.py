"""Execution contexts of one TensorRT plan, lent to one run at a time.

A context allocates memory for the largest shapes of its plan, whatever shapes are sent. The engine therefore creates
only as many contexts as there are concurrent runs, and keeps them when the threads that used them end.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from numpy.typing import NDArray

from runtime.engines.backends import cuda
from runtime.errors import BackendError, OutOfMemoryError

_log = logging.getLogger(__name__)


class Lane:
    """An execution context with its stream and memory, used by one run at a time from any thread."""

    def __init__(self, context: Any, device: int) -> None:
        """Args: context: an ``IExecutionContext``. device: its GPU, which must be current in this thread."""
        self.context = context
        self.stream = cuda.Stream()
        self.broken = False
        """True after TensorRT or CUDA failed in this context, whose further results are undefined."""
        self._device = device
        self._blocks: dict[str, cuda.DeviceMemory] = {}
        self._staging: dict[str, cuda.StagingRing] = {}

    def block(self, name: str, size_bytes: int) -> cuda.DeviceMemory:
        """Return memory for a tensor that lives only during the run; the next run reuses it."""
        block = self._blocks.get(name)
        if block is None or block.size_bytes < size_bytes:
            block = None
            self._blocks.pop(name, None)  # free it first: both may not fit
            block = self._blocks[name] = cuda.DeviceMemory(size_bytes, self._device)
        return block

    def send(self, name: str, array: NDArray[Any]) -> cuda.DeviceMemory:
        """Copy an input to the GPU on the stream, and return its memory, which the next run reuses."""
        block = self.block(name, array.nbytes)
        self._staging.setdefault(name, cuda.StagingRing()).send(array, block, self.stream)
        return block

    def settle(self) -> None:
        """Wait, after an error, for work already on the stream, which still uses the memory of the run."""
        try:
            self.stream.synchronize()
        except BackendError:
            self.broken = True


class Lanes:
    """Pool of an engine's contexts: lends the most recently used free one, or creates one if all are in use."""

    def __init__(self, create: Callable[[], Lane]) -> None:
        """Args: create: returns a new context; raises ``OutOfMemoryError`` if it does not fit into memory."""
        self._create = create
        self._free: list[Lane] = []
        self._lent = 0
        self._most: int | None = None
        """Number of contexts that fit into memory; None until known."""
        self._returned = threading.Condition()

    @contextmanager
    def borrowed(self) -> Iterator[Lane]:
        """Lend a context for one run. Work of the run may still be on its stream when it ends.

        If there is no memory for another context, wait until one is returned.

        Raises:
            OutOfMemoryError: there is no memory for even one context.
        """
        lane = self._take()
        try:
            yield lane
        except BaseException:
            lane.settle()
            raise
        finally:
            self._give_back(lane)

    def _take(self) -> Lane:
        with self._returned:
            while True:
                lane = self._free.pop() if self._free else self._new()
                if lane is not None:
                    self._lent += 1
                    return lane
                self._returned.wait()

    def _new(self) -> Lane | None:
        """Create a context; return None if memory is full and others are in use."""
        if self._most is not None and self._lent >= self._most:
            return None
        try:
            return self._create()
        except OutOfMemoryError as error:
            if not self._lent:
                raise
            self._most = self._lent
            _log.info("running at most %d calls at once: %s", self._most, error)
            return None

    def _give_back(self, lane: Lane) -> None:
        with self._returned:
            self._lent -= 1
            if not lane.broken:
                self._free.append(lane)
            self._returned.notify()
