"""Reader of whole slides, through OpenSlide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.files.formats.base import RGB, FileReader, ImageInfo, damage_named, optional_package
from runtime.files.formats.choices import check_level
from runtime.files.formats.tiff_metadata import side_um

Array = NDArray[np.generic]

SLIDE_SUFFIXES = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide")

_MPP = ("openslide.mpp-y", "openslide.mpp-x")
_BACKGROUND = "openslide.background-color"
"""Names of properties (OpenSlide's documentation)."""


class SlideReader(FileReader):
    """Reader of a whole slide in colour."""

    def __init__(self, path: Path, *, level: int) -> None:
        """Open the file; see ``runtime.files.formats.open_image``."""
        openslide = optional_package("openslide", "openslide-python", f"{path} (a whole slide)")
        with damage_named(path):
            self._slide: Any = openslide.OpenSlide(str(path))
            sizes = tuple((int(h), int(w)) for w, h in self._slide.level_dimensions)
            self._level = check_level(path, level, len(sizes))
            properties = self._slide.properties
            self._shrunk = float(self._slide.level_downsamples[level])
            self._background = np.array([int(properties.get(_BACKGROUND, "FFFFFF")[i : i + 2], 16) for i in (0, 2, 4)])
            sides = [float(properties.get(name) or "nan") * self._shrunk for name in _MPP]
        info = ImageInfo(
            size_hw=sizes[level], dtype=np.dtype(np.uint8), channels=RGB, pixel_size_um=side_um(*sides), levels=sizes
        )
        super().__init__(path, info)

    def _read(self, part: tuple[int, int, int, int], channels: tuple[int, ...]) -> Array:
        top, left, height, width = part
        # OpenSlide expects the position in pixels of level 0, and the size in pixels of the level.
        place = round(left * self._shrunk), round(top * self._shrunk)
        found = np.asarray(self._slide.read_region(place, self._level, (width, height)))
        # Areas that were not scanned are transparent.
        weight = found[..., 3:].astype(np.float32) / 255
        shown = found[..., :3] * weight + self._background * (1 - weight)
        return shown.round().astype(np.uint8)[..., list(channels)]

    def close(self) -> None:
        """Close the file."""
        self._slide.close()
