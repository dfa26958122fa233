"""A slide in a file, as the processes of a cluster share it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.files.formats import Plane, choose_channels, open_image
from runtime.files.image_results import FileOptions, check_chunks
from runtime.files.readers import ImageReader


class SlideFile:
    """An image file and the channels that are wanted of it, as an ``ImageReader``.

    Sent to another process, it opens the file there: nothing but the path travels.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        nuclear: str | None = None,
        membrane: str | None = None,
        rgb: bool = False,
        series: int | str | None = None,
        plane: Plane | None = None,
        pixel_size_um: float | None = None,
    ) -> None:
        """Open the file.

        Args:
            path: the file; see ``open_image``, also for ``series`` and ``plane``.
            nuclear: channel of the nuclei; see ``choose_channels``, also for ``membrane`` and ``rgb``.
            membrane: channel of the whole cells.
            rgb: whether the image must be in colour.
            series: which of several images of the file.
            plane: which plane of a stack.
            pixel_size_um: side of a pixel, micrometres; None if the file declares it.

        Raises:
            InputError: the file cannot be used, or a choice is missing or not there.
        """
        self._path = Path(path)
        self._choice: dict[str, Any] = {"nuclear": nuclear, "membrane": membrane, "rgb": rgb}
        self._opening: dict[str, Any] = {"series": series, "plane": plane}
        self._pixel_size_um = pixel_size_um
        self._reader = choose_channels(open_image(self._path, **self._opening), **self._choice)

    @property
    def name(self) -> str:
        """The file."""
        return self._reader.name

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self._reader.size_hw

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of its values."""
        return self._reader.dtype

    @property
    def channels(self) -> tuple[str, ...]:
        """Those that are wanted."""
        return self._reader.channels

    @property
    def pixel_size_um(self) -> float | None:
        """As it was given, else as the file says."""
        return self._pixel_size_um or self._reader.pixel_size_um

    @property
    def every_channel(self) -> ImageReader:
        """The image with all its channels, those that are not wanted too."""
        return self._reader.reader

    @property
    def plane(self) -> Plane:
        """Of a stack, the one that is read."""
        return self._opening["plane"] or Plane()

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[np.generic]:
        """The part (height, width, C) whose first pixel is (top, left)."""
        return self._reader.read(top, left, height, width)

    def __reduce__(self) -> tuple[Any, ...]:
        choices = {**self._choice, **self._opening, "pixel_size_um": self._pixel_size_um}
        return _opened, (Path(os.path.abspath(self._path)), choices)


def open_slide(path: Path, files: FileOptions) -> SlideFile:
    """The slide that options ask for.

    Raises:
        InputError: as ``SlideFile`` and ``check_chunks``.
    """
    slide = SlideFile(
        path,
        nuclear=files.nuclear,
        membrane=files.membrane,
        rgb=files.rgb,
        series=files.series,
        plane=files.plane,
        pixel_size_um=files.pixel_size_um,
    )
    check_chunks(slide.every_channel, strict=files.strict)
    return slide


def _opened(path: Path, choices: dict[str, Any]) -> SlideFile:
    return SlideFile(path, **choices)
