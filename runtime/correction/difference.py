"""Difference between two label maps of the same size, which applies in both directions."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from runtime.errors import InputError
from runtime.types import I32, Bool, Extent

NOWHERE: Extent = (0, 0, 0, 0)
"""Box of a difference without pixels."""

_LEVEL = 1
"""Level of compression: higher ones take several times longer and save little, since labels repeat."""


@dataclass(frozen=True, slots=True, eq=False)
class Difference:
    """Pixels whose label changes, within their bounding box."""

    box: Extent
    """Bounding box of the changed pixels, image pixels; ``NOWHERE`` if there are none."""
    changed: Bool
    """(h, w), the pixels of the box that change."""
    old: I32
    """(n,) labels before, in row order of the changed pixels."""
    new: I32
    """(n,) labels after."""

    def __len__(self) -> int:
        """Return the number of changed pixels."""
        return len(self.old)

    def inverse(self) -> Difference:
        """Return the difference that brings the earlier labels back."""
        return Difference(self.box, self.changed, self.new, self.old)

    def fits(self, labels: I32) -> bool:
        """Return whether all changed pixels have their old labels in a label map."""
        return bool(np.array_equal(self._window(labels)[self.changed], self.old))

    def put(self, labels: I32) -> None:
        """Write the new labels into a label map, in place."""
        self._window(labels)[self.changed] = self.new

    def encode(self) -> bytes:
        """Return the compressed pixels, without the box."""
        parts = (
            np.packbits(self.changed).tobytes(),
            self.old.astype("<i4").tobytes(),
            self.new.astype("<i4").tobytes(),
        )
        return zlib.compress(b"".join(parts), _LEVEL)

    def _window(self, labels: I32) -> I32:
        top, left, bottom, right = self.box
        return labels[top:bottom, left:right]


def difference_of(before: I32, after: I32, offset_yx: tuple[int, int] = (0, 0)) -> Difference:
    """Compare two label maps, or the same window of both.

    Args:
        before: (h, w) labels.
        after: (h, w) labels.
        offset_yx: image pixel of ``before[0, 0]``.
    """
    changed = before != after
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    if not len(rows):
        return no_difference()
    top, bottom, left, right = int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1
    inside = changed[top:bottom, left:right]
    y, x = offset_yx
    return Difference(
        (y + top, x + left, y + bottom, x + right),
        inside,
        before[top:bottom, left:right][inside].astype(np.int32, copy=False),
        after[top:bottom, left:right][inside].astype(np.int32, copy=False),
    )


def no_difference() -> Difference:
    """Return a difference without pixels."""
    nothing = np.zeros(0, np.int32)
    return Difference(NOWHERE, np.zeros((0, 0), np.bool_), nothing, nothing)


def decode_difference(box: Extent, data: bytes, size_hw: tuple[int, int]) -> Difference:
    """Read the result of ``Difference.encode``.

    Args:
        box: the bounding box.
        data: the compressed pixels.
        size_hw: size of the label map, pixels.

    Raises:
        InputError: the box does not lie in the label map, or the data does not fit the box.
    """
    if box == NOWHERE:
        return no_difference()
    top, left, bottom, right = box
    if not (0 <= top < bottom <= size_hw[0] and 0 <= left < right <= size_hw[1]):
        raise InputError(
            f"box is {box}; expected a part of {size_hw[0]} x {size_hw[1]} pixels. Restore the file from a copy.",
            kind="damaged",
        )
    area = (bottom - top) * (right - left)
    bits = -(-area // 8)
    try:
        # The limit keeps an altered file from filling the memory.
        raw = zlib.decompressobj().decompress(data, bits + 8 * area + 1)
    except zlib.error as error:
        raise InputError(
            f"labels cannot be decompressed ({error}); restore the file from a copy.", kind="damaged"
        ) from error
    changed = np.unpackbits(np.frombuffer(raw[:bits], np.uint8), count=min(area, 8 * len(raw))).astype(np.bool_)
    count = int(np.count_nonzero(changed))
    if len(changed) != area or len(raw) != bits + 8 * count:
        raise InputError(
            f"labels have {len(raw)} bytes; expected {bits + 8 * count} for {count} changed pixels in {area}. Restore "
            "the file from a copy.",
            kind="damaged",
        )
    values = np.frombuffer(raw[bits:], "<i4").astype(np.int32)
    return Difference(box, changed.reshape(bottom - top, right - left), values[:count], values[count:])
