"""An array, in memory or mapped from a file, as an ``ImageReader``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError


class ArrayReader:
    """An (H, W) or (H, W, C) array as an ``ImageReader``.

    A memory-mapped ``npy`` file is mapped again where the reader is unpickled, so that a cluster's workers read the
    file instead of being sent the pixels.
    """

    def __init__(self, array: NDArray[np.generic], name: str = "image") -> None:
        """Raises:
        InputError: another number of axes.
        """
        if array.ndim not in (2, 3):
            raise InputError(f"{name} has shape {array.shape}; expected (H, W) or (H, W, C).")
        self._array = array if array.ndim == 3 else array[..., None]
        self.name = name

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self._array.shape[0], self._array.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of its values."""
        return self._array.dtype

    @property
    def channels(self) -> tuple[str, ...]:
        """Their numbers, from "0" on."""
        return tuple(map(str, range(self._array.shape[2])))

    @property
    def pixel_size_um(self) -> float | None:
        """Not known."""
        return None

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[np.generic]:
        """The part (height, width, C) whose first pixel is (top, left)."""
        return np.array(self._array[top : top + height, left : left + width])

    @classmethod
    def mapped(cls, path: str) -> ArrayReader:
        """An npy file, read as it is needed.

        Raises:
            InputError: it cannot be mapped.
        """
        try:
            array: NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be mapped ({error}); expected an npy file of numbers.") from error
        return _MappedReader(array, path)


class _MappedReader(ArrayReader):
    def __reduce__(self) -> tuple[Any, ...]:
        return ArrayReader.mapped, (self.name,)
