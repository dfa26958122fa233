"""Reading of parts of TIFF pages, which decodes only the tiles or strips that overlap a part."""

from __future__ import annotations

import math
import struct
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError

Array = NDArray[np.generic]

CACHE_BYTES = 256 << 20
"""Memory for decoded segments; neighbouring parts share strips, which are as wide as the image."""


class Segment(NamedTuple):
    """A tile or strip of a page."""

    number: int
    plane: int
    """The sample, if samples have separate segments, else 0."""
    y: int
    x: int
    """The first pixel is (y, x)."""


class PageParts:
    """Reader of parts of one file's pages, with a cache of decoded segments; several threads may use it."""

    def __init__(self, limit_bytes: int = CACHE_BYTES) -> None:
        self._limit = limit_bytes
        self._kept: OrderedDict[object, Array] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()
        self._file_lock = threading.Lock()

    def read(self, page: Any, part: tuple[int, int, int, int], samples: tuple[int, ...]) -> Array:
        """Read a part of one page.

        Args:
            page: a ``tifffile.TiffPage`` or ``TiffFrame`` of depth 1.
            part: top, left, height and width, within the page.
            samples: the samples of a pixel to read, in the order of the result.

        Returns:
            (height, width, len(samples)).

        Raises:
            InputError: the file ends within a segment.
        """
        top, left, height, width = part
        out = np.zeros((height, width, len(samples)), page.keyframe.dtype)
        for segment in _segments(page.keyframe, part, samples):
            pixels = self._decoded(page, segment)
            y0, y1 = max(top, segment.y), min(top + height, segment.y + pixels.shape[0])
            x0, x1 = max(left, segment.x), min(left + width, segment.x + pixels.shape[1])
            found = pixels[y0 - segment.y : y1 - segment.y, x0 - segment.x : x1 - segment.x]
            for place, sample in enumerate(samples):
                if segment.plane <= sample < segment.plane + found.shape[2]:
                    out[y0 - top : y1 - top, x0 - left : x1 - left, place] = found[..., sample - segment.plane]
        return out

    def _decoded(self, page: Any, segment: Segment) -> Array:
        """Return the pixels of one segment, (h, w, samples), without padding."""
        keyframe, offset = page.keyframe, page.dataoffsets[segment.number]
        # The offset identifies the segment: tifffile sometimes creates a page object again.
        key = (page.parent.filehandle.path, offset)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        raw = self._raw(page.parent.filehandle, offset, page.databytecounts[segment.number])
        tables = {"jpegtables": page.jpegtables, "jpegheader": keyframe.jpegheader}
        data, _, (_, h, w, samples) = keyframe.decode(raw, segment.number, **tables)
        if data is None:  # an omitted segment contains only the value for no data
            return np.full((h, w, samples), keyframe.nodata, keyframe.dtype)
        pixels: Array = data[0, :h, :w, :samples]
        with self._lock:
            if key not in self._kept:
                self._kept[key] = pixels
                self._size += pixels.nbytes
            while self._size > self._limit and len(self._kept) > 1:
                self._size -= self._kept.popitem(last=False)[1].nbytes
        return pixels

    def _raw(self, file: Any, offset: int, size: int) -> bytes | None:
        """Read the encoded bytes of a segment; None if the file omits the segment."""
        if not offset or not size:
            return None
        with self._file_lock:
            if file.closed:  # tifffile keeps the other files of an OME-TIFF closed until they are read
                file.open()
            file.seek(offset)
            data: bytes = file.read(size)
        if len(data) < size:
            raise InputError(
                f"{file.path} ends {size - len(data)} bytes before its image does; it is truncated. Copy it again.",
                kind="damaged",
            )
        return data


def _segments(keyframe: Any, part: tuple[int, int, int, int], samples: tuple[int, ...]) -> Iterator[Segment]:
    """Yield the tiles or strips that overlap a part."""
    top, left, height, width = part
    planes, _, length, across, _ = keyframe.shaped
    tile_h, tile_w = (keyframe.tilelength, keyframe.tilewidth) if keyframe.is_tiled else (keyframe.rowsperstrip, across)
    rows, columns = math.ceil(length / tile_h), math.ceil(across / tile_w)
    for plane in range(planes) if planes == 1 else sorted(set(samples)):
        for row in range(top // tile_h, (top + height - 1) // tile_h + 1):
            for column in range(left // tile_w, (left + width - 1) // tile_w + 1):
                yield Segment((plane * rows + row) * columns + column, plane, row * tile_h, column * tile_w)


def check_page_chain(tiff: Any) -> None:
    """Raise an ``InputError`` if the last page refers to a next page beyond the end of the file.

    Such a file is truncated, but tifffile reads it as a file with fewer pages.
    """
    layout, file = tiff.tiff, tiff.filehandle
    if layout.is_ndpi or not len(tiff.pages):
        return
    following = _after_tags(tiff.pages[-1].offset, layout, file)
    next_page = _number(following, layout.offsetformat, file)
    if next_page and (_after_tags(next_page, layout, file) + layout.offsetsize > file.size):
        raise InputError(f"{file.path} lacks its last pages; it is truncated. Copy it again.", kind="damaged")


def _after_tags(offset: int, layout: Any, file: Any) -> int:
    """Return where the tags of the page at ``offset`` end, or the end of the file if there is no page."""
    if offset + layout.tagnosize > file.size:
        return int(file.size)
    return offset + int(layout.tagnosize) + _number(offset, layout.tagnoformat, file) * int(layout.tagsize)


def _number(offset: int, form: str, file: Any) -> int:
    file.seek(offset)
    (number,) = struct.unpack(form, file.read(struct.calcsize(form)))
    return int(number)
