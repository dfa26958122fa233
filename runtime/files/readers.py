"""Images of any size, read in parts."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class ImageReader(Protocol):
    """One plane of an image, whose parts are read as they are needed."""

    @property
    def name(self) -> str:
        """What messages call it: its file."""
        ...

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width, pixels."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of its values."""
        ...

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels; numbers from "0" on where the file names none."""
        ...

    @property
    def pixel_size_um(self) -> float | None:
        """Side of a pixel, micrometres; None where the file does not say."""
        ...

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[np.generic]:
        """The part (height, width, C) whose first pixel is (top, left); it lies in the image.

        Raises:
            InputError: the file is damaged or cannot be read there.
        """
        ...
