"""Protocol of readers of images of any size, in parts."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class ImageReader(Protocol):
    """Reader of one plane of an image, which reads parts on demand."""

    @property
    def name(self) -> str:
        """Name for messages: the file."""
        ...

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width, pixels."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the pixel values."""
        ...

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels; numbers from "0" if the file does not name them."""
        ...

    @property
    def pixel_size_um(self) -> float | None:
        """Side of a pixel, micrometres; None if the file does not declare it."""
        ...

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[np.generic]:
        """Read the part (height, width, C) whose first pixel is (top, left); it must lie in the image.

        Raises:
            InputError: the file is damaged, or this part of it cannot be read.
        """
        ...
