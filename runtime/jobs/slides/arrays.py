"""An array in memory as an ``ImageReader``; a file, npy too, is a ``SlideFile``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError


class ArrayReader:
    """An (H, W) or (H, W, C) array as an ``ImageReader``."""

    def __init__(self, array: NDArray[np.generic], name: str = "image") -> None:
        """Raises:
        InputError: another number of axes.
        """
        if array.ndim not in (2, 3):
            raise InputError(f"{name} has shape {array.shape}; expected (H, W) or (H, W, C).", kind="wrong_shape")
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
        return self._array[top : top + height, left : left + width].copy()  # a mask is kept, to be refused
