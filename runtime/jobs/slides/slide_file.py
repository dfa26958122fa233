"""Slide file as an ``ImageReader`` that can be sent to the processes of a cluster."""

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
    """``ImageReader`` for the chosen channels of an image file.

    If pickled, it sends only the path and the choices; the other process opens the file.
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
            series: the image, if the file has several.
            plane: the plane of a stack.
            pixel_size_um: side of a pixel, micrometres; None to use the value that the file declares.

        Raises:
            InputError: the file cannot be used, a choice is missing, or the file lacks what was chosen.
        """
        self._path = Path(path)
        self._choice: dict[str, Any] = {"nuclear": nuclear, "membrane": membrane, "rgb": rgb}
        self._opening: dict[str, Any] = {"series": series, "plane": plane}
        self._pixel_size_um = pixel_size_um
        self._reader = choose_channels(open_image(self._path, **self._opening), **self._choice)

    @property
    def name(self) -> str:
        """Path of the file."""
        return self._reader.name

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self._reader.size_hw

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the pixel values."""
        return self._reader.dtype

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the chosen channels."""
        return self._reader.channels

    @property
    def pixel_size_um(self) -> float | None:
        """Side of a pixel in micrometres, as given or else as the file declares it."""
        return self._pixel_size_um or self._reader.pixel_size_um

    @property
    def every_channel(self) -> ImageReader:
        """Reader of all channels of the image."""
        return self._reader.reader

    @property
    def plane(self) -> Plane:
        """The chosen plane of a stack."""
        return self._opening["plane"] or Plane()

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[np.generic]:
        """Read the part (height, width, C) whose first pixel is (top, left)."""
        return self._reader.read(top, left, height, width)

    def __reduce__(self) -> tuple[Any, ...]:
        choices = {**self._choice, **self._opening, "pixel_size_um": self._pixel_size_um}
        return _opened, (Path(os.path.abspath(self._path)), choices)


def open_slide(path: Path, files: FileOptions) -> SlideFile:
    """Open the slide that the options select.

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
