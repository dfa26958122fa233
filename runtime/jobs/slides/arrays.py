"""``ImageReader`` for arrays in memory; for files, including npy files, see ``SlideFile``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError


class ArrayReader:
    """``ImageReader`` for an (H, W) or (H, W, C) array."""

    def __init__(self, array: NDArray[np.generic], name: str = "image") -> None:
        """Wrap an array.

        Args:
            array: (H, W) or (H, W, C), any dtype.
            name: name for messages and results.

        Raises:
            InputError: the array does not have 2 or 3 axes.
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
        """Data type of the pixel values."""
        return self._array.dtype

    @property
    def channels(self) -> tuple[str, ...]:
        """Channel numbers as names, from "0"."""
        return tuple(map(str, range(self._array.shape[2])))

    @property
    def pixel_size_um(self) -> float | None:
        """None: the pixel size of an array is unknown."""
        return None

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[np.generic]:
        """Return the part (height, width, C) whose first pixel is (top, left)."""
        # The copy of a masked array keeps its mask, so that ``check_image`` can reject it.
        return self._array[top : top + height, left : left + width].copy()
