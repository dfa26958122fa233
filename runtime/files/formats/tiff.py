"""Reader of TIFF and OME-TIFF files: tiles or strips, pyramids, several series, stacks."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.files.formats.axes import Plane, find_plane, part_of_array
from runtime.files.formats.base import RGB, FileReader, ImageInfo, channel_names, check_opaque, damage_named
from runtime.files.formats.choices import check_level, choose_series
from runtime.files.formats.tiff_metadata import tiff_metadata
from runtime.files.formats.tiff_pages import PageParts, check_page_chain

Array = NDArray[np.generic]

_FROM_8_BITS = 257
"""Factor from 0..255 to 0..65535."""

_ALPHA = (1, 2)
"""Codes of associated and unassociated alpha; 0 is any other channel (TIFF 6.0, ExtraSamples)."""


class TiffReader(FileReader):
    """Reader of one plane of one series of a TIFF file."""

    def __init__(self, path: Path, *, series: int | str | None, plane: Plane, level: int) -> None:
        """Open the file; see ``runtime.files.formats.open_image``."""
        import tifffile

        with damage_named(path):
            self._tiff = tifffile.TiffFile(path)
        try:
            with damage_named(path):
                check_page_chain(self._tiff)
                number = choose_series(path, [_described(s) for s in self._tiff.series], series)
                self._open(path, self._tiff.series[number], number, plane, level)
        except BaseException:
            self._tiff.close()
            raise

    def _open(self, path: Path, series: Any, number: int, plane: Plane, level: int) -> None:
        image = series.levels[check_level(path, level, len(series.levels))]
        self._axes = find_plane(image.axes, image.shape, plane, str(path))
        self._image = image
        self.axes = str(image.axes)
        self._keyframe = image.keyframe
        self._colour_map = _colour_map(self._keyframe)
        self._alpha, stored = self._stored_channels(path)
        metadata = tiff_metadata(self._tiff, number)
        sizes = tuple(_size_hw(one) for one in series.levels)
        shrunk = (sizes[0][0] / sizes[level][0] * sizes[0][1] / sizes[level][1]) ** 0.5
        super().__init__(
            path,
            ImageInfo(
                size_hw=sizes[level],
                dtype=np.dtype(image.dtype) if self._colour_map is None else self._colour_map.dtype,
                channels=RGB if self._in_colour(stored) else channel_names(stored, metadata.channels),
                pixel_size_um=None if metadata.pixel_size_um is None else metadata.pixel_size_um * shrunk,
                levels=sizes,
            ),
        )
        self._parts = PageParts()
        self._whole = self._in_one_piece()
        if self._whole is None:
            self._keyframe.decode  # noqa: B018 - created once, before threads use it

    def _stored_channels(self, path: Path) -> tuple[int | None, int]:
        """Return the index of the alpha channel among the samples, and the number of other channels."""
        axis = self._axes.channel
        count = 1 if axis is None else int(self._image.shape[axis])
        if self._colour_map is not None:
            if axis is not None:
                raise InputError(
                    f"{path} has axes {self.axes} with shape {self._image.shape} and a palette; expected one plane of "
                    "up to three channels. Save it in colour, or without the palette.",
                    kind="unsupported",
                )
            return None, 3
        if axis is None or self.axes[axis] != "S":
            return None, count
        extra = [int(kind) for kind in self._keyframe.extrasamples]
        alphas = [count - len(extra) + place for place, kind in enumerate(extra) if kind in _ALPHA]
        return (alphas[0], count - 1) if len(alphas) == 1 else (None, count)

    def _in_colour(self, stored: int) -> bool:
        names = self._keyframe.photometric.name if hasattr(self._keyframe.photometric, "name") else ""
        is_samples = self._axes.channel is not None and self.axes[self._axes.channel] == "S"
        return self._colour_map is not None or (stored == 3 and is_samples and names in ("RGB", "YCBCR"))

    @property
    def stack(self) -> Mapping[str, int]:
        """Length of the axes T (time) and Z of the file that are longer than 1."""
        return self._axes.stack

    @property
    def _leading(self) -> tuple[int, ...]:
        """Sizes of the axes over the pages."""
        shape = tuple(self._image.shape)
        return shape[: len(shape) - len(self._keyframe.shape)]

    def _in_one_piece(self) -> Array | None:
        """Return the series if it cannot be read page by page: mapped if contiguous in the file, else in memory."""
        image, page = self._image, tuple(self._keyframe.shape)
        by_page = tuple(image.shape[-len(page) :]) == page and prod(self._leading) == len(image.pages)
        if image.transform is None and not image.is_multifile and image.dataoffset is not None:
            # ImageJ stores stacks over 4 GB in this way, with one page for all planes.
            dtype = np.dtype(self._tiff.byteorder + np.dtype(image.dtype).char)
            return np.memmap(self.path, dtype, "r", image.dataoffset, tuple(image.shape))
        if by_page and image.transform is None:
            return None
        whole: Array = image.asarray()  # a layout that only tifffile can assemble
        return whole

    def _read(self, part: tuple[int, int, int, int], channels: tuple[int, ...]) -> Array:
        if self._colour_map is not None:
            indices = self._stored(part, (0,))[..., 0]
            return np.ascontiguousarray(self._colour_map[list(channels)].T[indices])
        if self._alpha is None:
            return self._stored(part, channels)
        places = [place for place in range(len(self.channels) + 1) if place != self._alpha]
        found = self._stored(part, (*(places[channel] for channel in channels), self._alpha))
        check_opaque(found[..., -1], self.path)
        return found[..., :-1]

    def _stored(self, part: tuple[int, int, int, int], channels: tuple[int, ...]) -> Array:
        """Read channels as stored in the file, (h, w, C)."""
        if self._whole is not None:
            return part_of_array(self._whole, self._axes, part, channels)
        axis = self._axes.channel
        if axis is None or axis >= len(self._leading):
            return self._parts.read(self._page(0), part, (0,) if axis is None else channels)
        planes = [self._parts.read(self._page(channel), part, (0,)) for channel in channels]
        return np.concatenate(planes, axis=2)

    def _page(self, channel: int) -> Any:
        """Return the page of the plane, and of this channel if channels are pages."""
        place = tuple(
            channel if axis == self._axes.channel else self._axes.fixed[axis] for axis in range(len(self._leading))
        )
        page = self._image.pages[int(np.ravel_multi_index(place, self._leading)) if place else 0]
        if page is None:
            raise InputError(
                f"{self.path} lacks a page of its image; another of its files may be missing. Copy all its files.",
                kind="damaged",
            )
        return page

    def close(self) -> None:
        """Close the file."""
        self._whole = None
        self._tiff.close()


def _described(series: Any) -> tuple[str, str]:
    return str(series.name), f"{series.name or 'no name'}, axes {series.axes}, shape {tuple(series.shape)}"


def _size_hw(image: Any) -> tuple[int, int]:
    sizes = dict(zip(image.axes, image.shape, strict=True))
    return int(sizes.get("Y", 1)), int(sizes.get("X", 1))


def _colour_map(page: Any) -> Array | None:
    """Return the (3, N) colours of a palette: uint8 if they are 8-bit colours scaled to 16 bits, else uint16."""
    if getattr(page.photometric, "name", "") != "PALETTE" or page.colormap is None:
        return None
    colours: NDArray[np.uint16] = page.colormap
    return colours if (colours % _FROM_8_BITS).any() else (colours // _FROM_8_BITS).astype(np.uint8)
