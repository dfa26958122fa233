"""Cache of encoded images, limited by memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

from runtime.config import SegmentConfig
from runtime.pipeline.encoded import EncodedViews


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """An image, encoded for box prompts."""

    views: EncodedViews
    config: SegmentConfig
    """Settings with which it was encoded, the defaults of its box prompts."""
    size_bytes: int

    @classmethod
    def of(cls, views: EncodedViews, config: SegmentConfig) -> Embedding:
        """Wrap encoded views and add up their memory."""
        return cls(views, config, views_bytes(views))


def views_bytes(views: EncodedViews) -> int:
    """Add up the memory of the tensors of all views, in bytes; views that were encoded together share them."""
    batches = {view.batch for view in views}
    tensors = [tensor for batch in batches for tensor in (batch.image_embedding, batch.patch_features)]
    return sum(_tensor_bytes(tensor) for tensor in tensors if tensor is not None)


def _tensor_bytes(tensor: object) -> int:
    if isinstance(tensor, np.ndarray):
        return tensor.nbytes
    shape: tuple[int, ...] = getattr(tensor, "shape", ())
    return 4 * int(np.prod(shape))  # on a device, where half precision takes less


class EmbeddingCache:
    """Encoded images by key; the least recently used ones are dropped when they exceed the limit together."""

    def __init__(self, limit_bytes: int) -> None:
        """Create an empty cache.

        Args:
            limit_bytes: limit of all embeddings together. The newest one is kept even if it alone exceeds the limit.
        """
        self._limit = limit_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Embedding] = OrderedDict()
        self._bytes = 0

    @property
    def limit_bytes(self) -> int:
        """Limit of all embeddings together."""
        return self._limit

    @property
    def size_bytes(self) -> int:
        """Memory of all embeddings."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: str) -> Embedding | None:
        """Return an embedding, which becomes the most recently used one; None if it is not cached."""
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def put(self, key: str, embedding: Embedding) -> None:
        """Add an embedding, and drop others until all fit."""
        with self._lock:
            self._drop(key)
            self._kept[key] = embedding
            self._bytes += embedding.size_bytes
            while self._bytes > self._limit and len(self._kept) > 1:
                self._drop(next(iter(self._kept)))

    def drop(self, key: str) -> bool:
        """Remove an embedding; return whether it was cached."""
        with self._lock:
            return self._drop(key)

    def _drop(self, key: str) -> bool:
        dropped = self._kept.pop(key, None)
        if dropped is not None:
            self._bytes -= dropped.size_bytes
        return dropped is not None
