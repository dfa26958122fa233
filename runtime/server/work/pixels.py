"""Pyramids of a project's images, in memory up to a limit."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.correction.project import Project
from runtime.files.formats import open_image
from runtime.files.formats.base import RGB, FileReader
from runtime.server.images.deep_zoom import TILE_PX, halve
from runtime.server.images.rendering import Contrast, measure_contrast

Array = NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class PixelInfo:
    """Description of the pixels of an image."""

    channels: tuple[str, ...]
    dtype: str
    pixel_size_um: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Pyramid:
    """One channel of an image, in full size and halved again and again until it fits into a tile."""

    levels: tuple[Array, ...]
    contrast: Contrast

    @classmethod
    def of(cls, plane: Array, *, whole_range: bool) -> Pyramid:
        """Build the pyramid of a channel (H, W); see ``measure_contrast``."""
        levels = [plane]
        while max(levels[-1].shape) > TILE_PX:
            levels.append(halve(levels[-1]))
        return cls(tuple(levels), measure_contrast(plane, whole_range=whole_range))

    @property
    def size_bytes(self) -> int:
        """Memory of all levels."""
        return sum(level.nbytes for level in self.levels)

    def level(self, halved: int) -> Array:
        """Return the channel, halved this many times."""
        if halved < len(self.levels):
            return self.levels[halved]
        level = self.levels[-1]
        for _ in range(halved - len(self.levels) + 1):
            level = halve(level)
        return level


class Pixels:
    """Reads the channels of a project's images, and keeps the pyramids of those that were used last."""

    def __init__(self, project: Project, limit_bytes: int) -> None:
        """Start without pyramids.

        Args:
            project: has the images.
            limit_bytes: memory for pyramids. Those of the request in work are kept even if they exceed it.
        """
        self._project, self._limit = project, limit_bytes
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._info: dict[str, PixelInfo] = {}
        self._kept: OrderedDict[tuple[str, int], Pyramid] = OrderedDict()
        self._bytes = 0

    def info(self, name: str) -> PixelInfo:
        """Describe the pixels of an image.

        Raises:
            InputError: the file was moved, altered or cannot be read.
        """
        if name not in self._info:
            self._project.check(name)
            with self._reading, self._opened(name) as reader:
                self._info[name] = PixelInfo(tuple(reader.channels), str(reader.dtype), reader.pixel_size_um)
        return self._info[name]

    def pyramids(self, name: str, channels: Sequence[int]) -> list[Pyramid]:
        """Return the pyramids of some channels of an image.

        Raises:
            InputError: the file was moved, altered or cannot be read.
        """
        found = self._find(name, channels)
        if None not in found.values():
            return [one for one in found.values() if one is not None]
        with self._reading:  # one image at a time is decoded
            found = self._find(name, channels)
            missing = [channel for channel, one in found.items() if one is None]
            if missing:
                self._project.check(name)
                found |= self._read(name, missing)
        return [one for one in found.values() if one is not None]

    def _opened(self, name: str) -> FileReader:
        files = self._project.files
        return open_image(self._project.path(name), series=files.series, plane=files.plane)

    def _find(self, name: str, channels: Sequence[int]) -> dict[int, Pyramid | None]:
        with self._lock:
            for channel in channels:
                if (name, channel) in self._kept:
                    self._kept.move_to_end((name, channel))
            return {channel: self._kept.get((name, channel)) for channel in channels}

    def _read(self, name: str, channels: Sequence[int]) -> dict[int, Pyramid]:
        with self._opened(name) as reader:
            pixels = reader.read(0, 0, *reader.size_hw, tuple(channels))
            in_colour = tuple(reader.channels) == RGB and reader.dtype == np.uint8
        made: dict[int, Pyramid] = {}
        for place, channel in enumerate(channels):
            plane: NDArray[Any] = np.ascontiguousarray(pixels[..., place])
            made[channel] = Pyramid.of(plane, whole_range=in_colour)
        with self._lock:
            for channel, pyramid in made.items():
                self._kept[name, channel] = pyramid
                self._bytes += pyramid.size_bytes
            while self._bytes > self._limit and len(self._kept) > len(channels):
                self._bytes -= self._kept.popitem(last=False)[1].size_bytes
        return made
