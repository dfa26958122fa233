"""Memory for model inputs, reused from call to call."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Sequence

import numpy as np

from runtime.types import F32


def _references(buffers: Sequence[F32], place: int) -> int:
    return sys.getrefcount(buffers[place])


_UNUSED = _references([np.empty(0, np.float32)], 0)
"""``_references`` of a buffer that only its list refers to."""


class PixelBuffers:
    """Model inputs of one pipeline.

    New memory costs as much time as preparing an image in it, because the system clears every page. A buffer is used
    again once no array refers to its memory, so an engine may keep its inputs. There are as many buffers as calls that
    ran at the same time.
    """

    def __init__(self) -> None:
        self._buffers: list[F32] = []
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...]) -> F32:
        """Return an array with any values."""
        size = math.prod(shape)
        with self._lock:
            for place in range(len(self._buffers)):
                if _references(self._buffers, place) > _UNUSED:
                    continue
                if self._buffers[place].size >= size:
                    return self._buffers[place][:size].reshape(shape)
                del self._buffers[place]
                break
            new = np.empty(size, np.float32)
            self._buffers.append(new)
            return new.reshape(shape)
