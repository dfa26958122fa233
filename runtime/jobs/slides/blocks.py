"""Label map of a slide in a file, as compressed square blocks: written once, read in any order."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from runtime.engines.manifest import sha256_file
from runtime.types import I32, U32, Extent

BLOCK_PX = 512
"""Side of the blocks, pixels."""

KEPT_BLOCKS = 8
"""Number of blocks cached for reading; a cell of usual size lies in four at most."""

_HEAD = struct.Struct("<II")


class LabelBlocks:
    """Blocks from top to bottom and left to right, each with the cell numbers that occur in it."""

    def __init__(self, path: Path, size_hw: tuple[int, int], labels: Path) -> None:
        """Begin without blocks.

        Args:
            path: the file of the blocks; must not exist yet.
            size_hw: height and width of the slide, pixels.
            labels: a file of uint32, the label of each cell number; it must exist before blocks are read.
        """
        self._path = path
        self.size_hw = size_hw
        self._labels = labels
        self._offsets: list[int] = []
        self._kept = lru_cache(KEPT_BLOCKS)(self.read)

    def __len__(self) -> int:
        """Return the number of blocks of the whole slide."""
        return int(np.prod([-(-length // BLOCK_PX) for length in self.size_hw]))

    @property
    def extents(self) -> Iterator[Extent]:
        """Extents of the blocks, in order."""
        height, width = self.size_hw
        for top in range(0, height, BLOCK_PX):
            for left in range(0, width, BLOCK_PX):
                yield top, left, min(top + BLOCK_PX, height), min(left + BLOCK_PX, width)

    @property
    def checksum(self) -> str:
        """Checksum of the whole label map."""
        return sha256_file(self._path) + sha256_file(self._labels)

    def add(self, numbers: U32, block: I32) -> None:
        """Write the next block.

        Args:
            numbers: (N), cell numbers.
            block: (h, w), 0 for background, n for a pixel of cell ``numbers[n - 1]``. Such small values compress better
                than cell numbers.
        """
        packed = zlib.compress(block.tobytes(), 1) if len(numbers) else b""
        with self._path.open("ab") as file:
            self._offsets.append(file.tell())
            file.write(_HEAD.pack(len(numbers), len(packed)) + numbers.tobytes() + packed)

    def __iter__(self) -> Iterator[tuple[Extent, U32]]:
        """Yield all blocks with their extents."""
        for place, extent in enumerate(self.extents):
            yield extent, self.read(place)

    def read(self, place: int) -> U32:
        """Read the labels of a block, (h, w)."""
        height, width = self.size_hw
        row, column = divmod(place, -(-width // BLOCK_PX))
        shape = min(BLOCK_PX, height - row * BLOCK_PX), min(BLOCK_PX, width - column * BLOCK_PX)
        with self._path.open("rb") as file:
            file.seek(self._offsets[place])
            count, size = _HEAD.unpack(file.read(_HEAD.size))
            if not count:
                return np.zeros(shape, np.uint32)
            numbers = np.frombuffer(file.read(4 * count), np.uint32)
            local = np.frombuffer(zlib.decompress(file.read(size)), np.int32).reshape(shape)
        table = np.concatenate((np.zeros(1, np.uint32), np.memmap(self._labels, np.uint32, "r")[numbers]))
        labels: U32 = table[local]
        return labels

    def part(self, extent: Extent, step: int = 1) -> U32:
        """Read every ``step``-th row and column of a part of the slide, beginning with its first pixel."""
        top, left, bottom, right = extent
        out = np.zeros((-(-(bottom - top) // step), -(-(right - left) // step)), np.uint32)
        across = -(-self.size_hw[1] // BLOCK_PX)
        for row in range(top // BLOCK_PX, -(-bottom // BLOCK_PX)):
            for column in range(left // BLOCK_PX, -(-right // BLOCK_PX)):
                first_y, first_x = max(top, row * BLOCK_PX), max(left, column * BLOCK_PX)
                # The first requested pixel of the block.
                y, x = first_y + (top - first_y) % step, first_x + (left - first_x) % step
                block = self._kept(row * across + column)
                found = block[
                    y - row * BLOCK_PX : bottom - row * BLOCK_PX : step,
                    x - column * BLOCK_PX : right - column * BLOCK_PX : step,
                ]
                out_y, out_x = (y - top) // step, (x - left) // step
                out[out_y : out_y + found.shape[0], out_x : out_x + found.shape[1]] = found
        return out

    def tiles(self, level: int) -> Iterator[U32]:
        """Yield a level of ``outputs.pyramid`` in squares of ``BLOCK_PX``, from top to bottom and left to right.

        Pixels beyond the slide are 0.
        """
        height, width = self.size_hw
        step = 1 << level
        side = step * BLOCK_PX
        for top in range(0, height, side):
            for left in range(0, width, side):
                part = self.part((top, left, min(top + side, height), min(left + side, width)), step)
                yield np.pad(part, [(0, BLOCK_PX - length) for length in part.shape])
