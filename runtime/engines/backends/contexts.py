"""Execution contexts of one TensorRT plan, lent to one run at a time.

A context's memory is that of the largest shapes of its plan, whatever is sent. So there are no more of them than runs
at once, and they stay with the engine when the threads that ran it end.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from runtime.engines.backends import cuda
from runtime.errors import BackendError, OutOfMemoryError

_log = logging.getLogger(__name__)


class Lane:
    """A context, and the stream and the memory that go with it; for one run at a time, of whichever thread."""

    def __init__(self, context: Any, device: int) -> None:
        """Args: context: an ``IExecutionContext``. device: its GPU, the current one of this thread."""
        self.context = context
        self.stream = cuda.Stream()
        self.broken = False
        """TensorRT or CUDA failed in it: what it would compute next is not known."""
        self._device = device
        self._blocks: dict[str, cuda.DeviceMemory] = {}

    def block(self, name: str, size_bytes: int) -> cuda.DeviceMemory:
        """Memory for a tensor that does not outlive the run, kept for the next one."""
        block = self._blocks.get(name)
        if block is None or block.size_bytes < size_bytes:
            block = None
            self._blocks.pop(name, None)  # free it first: both may not fit
            block = self._blocks[name] = cuda.DeviceMemory(size_bytes, self._device)
        return block

    def settle(self) -> None:
        """After an error: wait for what was put on the stream before it, which still uses the memory of the run."""
        try:
            self.stream.synchronize()
        except BackendError:
            self.broken = True


class Lanes:
    """The contexts of an engine: a free one is lent, the last used first, and a new one made when all are in use."""

    def __init__(self, create: Callable[[], Lane]) -> None:
        """Args: create: makes one; raises ``OutOfMemoryError`` where the memory for it is missing."""
        self._create = create
        self._free: list[Lane] = []
        self._lent = 0
        self._most: int | None = None
        """As many as fit into the memory, once that is known."""
        self._returned = threading.Condition()

    @contextmanager
    def borrowed(self) -> Iterator[Lane]:
        """A context for one run, which waits for its work before it ends.

        Where the memory for one more is missing, this waits until one in use comes back.

        Raises:
            OutOfMemoryError: there is no memory for a first one.
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
        """None: no memory for it, but others are in use."""
        if self._most is not None and self._lent >= self._most:
            return None
        try:
            return self._create()
        except OutOfMemoryError as error:
            if not self._lent:
                raise
            self._most = self._lent
            _log.info("no more than %d calls at once: %s", self._most, error)
            return None

    def _give_back(self, lane: Lane) -> None:
        with self._returned:
            self._lent -= 1
            if not lane.broken:
                self._free.append(lane)
            self._returned.notify()
