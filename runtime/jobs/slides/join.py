"""Second pass of a slide job: join the results of the tiles into the cells of the slide, a few tiles at a time.

It applies the rules of ``runtime.views.merge_rules``. Unlike ``runtime.views.stitch``, it keeps its data on disk. There
are four streaming steps:

1. Tile by tile, decide which labels are shown. Write one line per label, and one per cell in the file of the row of
   tiles in which the cell begins.
2. Row by row, number the cells in reading order.
3. Block by block, paint and compress the pixels. Their counts show which cells are too small.
4. Number the remaining cells without gaps; ``cells``, ``outlined`` and ``blocks`` pass them to the file writers.

Memory contains some tiles, the cells that begin in one row of tiles, and any cells with unusually many parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.jobs.slides.blocks import BLOCK_PX, LabelBlocks
from runtime.jobs.slides.layout import SlideLayout
from runtime.types import Bool, Extent
from runtime.views.merge_rules import Cell, JoinedCells, Rank, TileCells, group_box, paint

TILES_BYTES = 128 << 20
"""Memory for the label maps of tiles."""

FEWEST_TILES = 32
"""Minimum number of tiles in memory: a tile and two rings of neighbours."""

_SHOWN = np.dtype([("place", "<i4"), ("n", "<i4"), ("cut", "?"), ("margin", "<i4")])
"""Key and rank of the cell to which a label belongs; place is -1 if the label is not shown."""

_CELL = np.dtype(
    [
        ("extent", "<i4", 4),
        ("cut", "?"),
        ("margin", "<i4"),
        ("place", "<i4"),
        ("n", "<i4"),
        ("box", "<f8", 4),
        ("score", "<f4"),
        ("iou_prediction", "<f4"),
    ]
)

_ZEROS_BYTES = 1 << 20

_PLACES = ("row_sums", "column_sums")
"""Files with the sums of each cell's pixel coordinates along each axis."""


@dataclass(frozen=True, slots=True)
class SlideCell:
    """One cell of the result."""

    label: int
    box: tuple[float, ...]
    """The box prompt, xyxy in slide pixels."""
    score: float
    iou_prediction: float
    area_px: int
    centroid_yx: tuple[float, float]
    """Mean position of the cell's pixels, in slide pixels; the first pixel of the slide is at 0."""


class SlideJoin:
    """Join of the tiles of a job into one label map."""

    def __init__(
        self, layout: SlideLayout, read_tile: Callable[[int], TileCells], directory: Path, *, min_area_px: int
    ) -> None:
        """Prepare to join; ``run`` does the work.

        Args:
            layout: the layout of the slide.
            read_tile: returns the result of a tile.
            directory: an empty directory for data between the steps.
            min_area_px: cells with fewer pixels are removed.
        """
        self._layout = layout
        self._directory = directory
        self._min_area_px = min_area_px
        tiles = max(FEWEST_TILES, TILES_BYTES // (2 * layout.grid.side**2))
        tile = lru_cache(min(tiles, 1024))(read_tile)
        extents = [layout.extent(place) for place in range(len(layout.grid))]
        self._joined = JoinedCells(extents, layout.grid.size_hw, tile, remembered=2 * FEWEST_TILES)
        self._first = np.zeros(len(extents) + 1, np.int64)
        self._count = 0
        self.blocks = LabelBlocks(directory / "blocks", layout.grid.size_hw, directory / "labels")
        """The label map, after ``run``."""
        self.cell_count = 0
        """Number of cells in the result, after ``run``."""

    @property
    def steps(self) -> int:
        """Number of tiles and blocks to process, for the progress."""
        return len(self._layout.grid) + len(self.blocks)

    def run(self) -> Iterator[int]:
        """Run all four steps; yield the number of tiles and blocks done."""
        yield from self._show()
        self._number()
        yield from (len(self._layout.grid) + painted for painted in self._paint())
        self._renumber()

    def _show(self) -> Iterator[int]:
        tops = np.array(self._layout.grid.tops)
        with (self._directory / "shown").open("wb") as file:
            for place in range(len(self._layout.grid)):
                lines = np.zeros(len(self._joined.cells(place)), _SHOWN)
                lines["place"] = -1
                begun: dict[int, list[Any]] = {}
                for cell, group in self._joined.shown(place):
                    first = group.parts[0]
                    lines[cell.key[1]] = (*first.key, first.cut, first.margin)
                    if cell.key == first.key:
                        tile = self._joined.tile(place)
                        row = int(np.searchsorted(tops, group.extent[0], side="right")) - 1
                        box = tuple(group_box(group, self._joined.tile).tolist())
                        scores = tile.scores[cell.key[1]], tile.iou_predictions[cell.key[1]]
                        begun.setdefault(row, []).append(
                            (group.extent, first.cut, first.margin, *first.key, box, *scores)
                        )
                file.write(lines.tobytes())
                self._first[place + 1] = self._first[place] + len(lines)
                for row, cells in begun.items():
                    with self._row_path(row).open("ab") as of_row:
                        of_row.write(np.array(cells, _CELL).tobytes())
                yield place + 1

    def _row_path(self, row: int) -> Path:
        return self._directory / f"row_{row:05d}"

    def _rows(self) -> Iterator[tuple[Path, NDArray[Any]]]:
        for row in range(len(self._layout.grid.tops)):
            path = self._row_path(row)
            if path.exists():
                yield path, np.fromfile(path, _CELL)

    def _number(self) -> None:
        """Sort the cells of each row by extent and rank, which numbers them in reading order."""
        with mapped(self._directory / "numbers", np.uint32, int(self._first[-1])) as numbers:
            for path, cells in self._rows():
                extent = cells["extent"]
                order = np.lexsort(
                    (
                        cells["n"],
                        cells["place"],
                        -cells["margin"],
                        cells["cut"],
                        *(extent[:, axis] for axis in (3, 2, 1, 0)),
                    )
                )
                cells = cells[order]
                cells.tofile(path)
                numbers[self._first[cells["place"]] + cells["n"]] = self._count + 1 + np.arange(len(cells))
                self._count += len(cells)

    def _paint(self) -> Iterator[int]:
        for done, extent in enumerate(self.blocks.extents, start=1):
            claims = list(self._claims(extent))
            numbers = np.array(sorted({number for _, number, _, _ in claims}), np.uint32)
            local = {number: n for n, number in enumerate(numbers.tolist(), start=1)}
            block = paint(extent, ((rank, local[number], cell, tile) for rank, number, cell, tile in claims))
            with mapped(self._directory / "areas", np.int64, self._count + 1) as areas:
                areas[numbers] += np.bincount(block.ravel(), minlength=len(numbers) + 1)[1:]
            for axis, name in enumerate(_PLACES):
                places = np.arange(extent[axis], extent[axis + 2], dtype=np.float64)
                spread = np.broadcast_to(places[:, None] if axis == 0 else places, block.shape)
                with mapped(self._directory / name, np.float64, self._count + 1) as sums:
                    sums[numbers] += np.bincount(block.ravel(), spread.ravel(), minlength=len(numbers) + 1)[1:]
            self.blocks.add(numbers, block)
            yield done

    def _claims(self, extent: Extent) -> Iterator[tuple[Rank, int, Cell, TileCells]]:
        """Yield the labels shown in an extent: rank, number, cell and tile."""
        for place in self._joined.at(extent):
            first, last = self._first[place : place + 2].tolist()
            lines = np.fromfile(self._directory / "shown", _SHOWN, last - first, offset=first * _SHOWN.itemsize)
            shown = np.flatnonzero(lines["place"] >= 0)
            if not len(shown):
                continue
            keys = lines[shown]
            with mapped(self._directory / "numbers", np.uint32, int(self._first[-1])) as numbers:
                number_of = numbers[self._first[keys["place"]] + keys["n"]].tolist()
            cells = self._joined.cells(place)
            for n, key, number in zip(shown.tolist(), keys.tolist(), number_of, strict=True):
                top, left, bottom, right = cells[n].extent
                if top < extent[2] and bottom > extent[0] and left < extent[3] and right > extent[1]:
                    yield (key[2], -key[3], key[:2]), number, cells[n], self._joined.tile(place)

    def _renumber(self) -> None:
        """Remove the cells that are too small; map the other numbers to labels without gaps."""
        upto, step = 0, 1 << 20
        with (
            mapped(self._directory / "areas", np.int64, self._count + 1) as areas,
            mapped(self._directory / "labels", np.uint32, self._count + 1) as labels,
        ):
            for start in range(1, self._count + 1, step):
                kept = areas[start : start + step] >= max(self._min_area_px, 1)
                labels[start : start + step] = np.where(kept, upto + np.cumsum(kept), 0)
                upto += int(kept.sum())
        self.cell_count = upto

    def cells(self) -> Iterator[SlideCell]:
        """Yield the cells by label, after ``run``."""
        for of_row in self._by_row():
            yield from (cell for cell, _ in of_row)

    def outlined(self) -> Iterator[tuple[SlideCell, Bool, tuple[int, int]]]:
        """Yield each cell with its mask and the slide position (y, x) of the mask's first pixel, after ``run``.

        Cells come block by block within a row of tiles, so that few blocks are in memory.
        """
        for of_row in self._by_row():
            for cell, extent in sorted(of_row, key=lambda one: (one[1][0] // BLOCK_PX, one[1][1] // BLOCK_PX)):
                yield cell, self.blocks.part(extent) == cell.label, extent[:2]

    def _by_row(self) -> Iterator[list[tuple[SlideCell, Extent]]]:
        """Yield the cells that begin in each row of tiles, by label, with their extents."""
        start = 1
        for _, cells in self._rows():
            with (
                mapped(self._directory / "areas", np.int64, self._count + 1) as areas,
                mapped(self._directory / "labels", np.uint32, self._count + 1) as labels,
                mapped(self._directory / _PLACES[0], np.float64, self._count + 1) as rows,
                mapped(self._directory / _PLACES[1], np.float64, self._count + 1) as columns,
            ):
                part = slice(start, start + len(cells))
                pixels = np.maximum(areas[part], 1)
                centroids = np.stack((rows[part] / pixels, columns[part] / pixels), axis=1)
                found = zip(
                    map(tuple, cells["extent"].tolist()),
                    labels[part].tolist(),
                    map(tuple, cells["box"].tolist()),
                    cells["score"].tolist(),
                    cells["iou_prediction"].tolist(),
                    areas[part].tolist(),
                    map(tuple, centroids.tolist()),
                    strict=True,
                )
                yield [(SlideCell(label, *rest), extent) for extent, label, *rest in found if label]
            start += len(cells)


@contextmanager
def mapped(path: Path, dtype: type[np.generic], count: int) -> Iterator[NDArray[Any]]:
    """Map a file of ``count`` numbers into memory; a new file is filled with zeros."""
    size = max(1, count) * np.dtype(dtype).itemsize
    if not path.exists():
        with path.open("wb") as file:
            # Write the zeros explicitly: storing into a sparse file on a full disk would kill the process.
            for start in range(0, size, _ZEROS_BYTES):
                file.write(bytes(min(_ZEROS_BYTES, size - start)))
    yield np.memmap(path, dtype, "r+")
