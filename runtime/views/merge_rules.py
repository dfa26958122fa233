"""Which labels of overlapping tiles are one cell, and which of them is shown. No I/O.

The definitions behind ``runtime.views.stitch`` and ``runtime.jobs.slides``. Every question is answered for one
cell at a time from the tiles around it, so that a slide of any size needs only a few tiles in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from scipy import ndimage

from runtime.types import F32, F64, I32, Extent

SAME_CELL_IOU = 0.5
"""Two labels are one cell when they agree by more than this where both tiles look; from 0.5 on, each has one partner at
most."""

COVERED = 0.5
"""Of two cells that share more than this part of the smaller one's pixels, one goes."""

EDGE_PX = 2
"""A label this close to a tile's edge may go on beyond it."""

_MANY_PARTS = 32
"""Cells of more parts are remembered: each of their tiles would put them together again."""


@dataclass(frozen=True, slots=True)
class TileCells:
    """The cells of one tile. Arrays run over its N cells; cell n has label n + 1."""

    extent: Extent
    """The tile, as far as it lies in the image."""
    labels: I32
    """(h, w), dense."""
    boxes: F64
    """(N, 4) xyxy, image pixels: the prompts."""
    scores: F32
    """(N)"""
    iou_predictions: F32
    """(N)"""


Key = tuple[int, int]
"""A cell: place of its tile among the tiles sorted by extent, and its label there less 1."""

Rank = tuple[bool, int, Key]

Links = tuple[dict[int, list[Key]], dict[int, list[Key]]]
"""By label of a tile: partners that are the same cell, and partners of which one covers the other."""

Pairs = tuple[list[tuple[int, int]], list[tuple[int, int]]]
"""The same for two tiles, as pairs of labels."""

K = TypeVar("K")
V = TypeVar("V")


class _Recent(Generic[K, V]):
    """What was worked out last. Unlike a cached method it holds no reference to its owner, so that the tiles behind it
    are let go of as soon as the owner is."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._items: dict[K, V] = {}

    def get(self, key: K, make: Callable[[K], V]) -> V:
        value = self._items.pop(key) if key in self._items else make(key)
        self._items[key] = value
        if self._limit is not None and len(self._items) > self._limit:
            del self._items[next(iter(self._items))]
        return value


@dataclass(frozen=True, slots=True)
class Cell:
    """One label of one tile."""

    key: Key
    area: int
    extent: Extent
    margin: int
    """Pixels from its extent to the nearest edge of its tile that is not the image's."""

    @property
    def cut(self) -> bool:
        """It may go on beyond its tile."""
        return self.margin < EDGE_PX


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """What several tiles saw of one cell: one whole label, or all parts where no tile sees the whole."""

    parts: tuple[Cell, ...]

    @property
    def key(self) -> Key:
        """Of the part that stands for the cell."""
        return self.parts[0].key

    @property
    def rank(self) -> Rank:
        """Whole cells come before cut ones, then those well inside their tile."""
        first = self.parts[0]
        return first.cut, -first.margin, first.key

    @property
    def extent(self) -> Extent:
        """Around all parts."""
        tops, lefts, bottoms, rights = zip(*(part.extent for part in self.parts), strict=True)
        return min(tops), min(lefts), max(bottoms), max(rights)


class JoinedCells:
    """The cells of overlapping tiles, each decided when it is asked for."""

    def __init__(
        self,
        extents: Sequence[Extent],
        size_hw: tuple[int, int],
        tile: Callable[[int], TileCells],
        *,
        remembered: int | None = None,
    ) -> None:
        """Args:
        extents: of all tiles, sorted.
        size_hw: the image.
        tile: gives the tile of a place.
        remembered: tiles whose relations are kept; None keeps all.
        """
        self._extents = np.array(extents, np.int64).reshape(-1, 4)
        self._size_hw = size_hw
        self.tile = tile
        self._cells = _Recent[int, tuple[Cell, ...]](remembered)
        self._links = _Recent[int, Links](remembered)
        self._pairs = _Recent[tuple[int, int], Pairs](remembered and 8 * remembered)
        self._kept = _Recent[Group, bool](remembered and 64 * remembered)
        self._many: dict[Key, Group] = {}

    def cells(self, place: int) -> tuple[Cell, ...]:
        """The cells of one tile, by label."""
        return self._cells.get(place, self._find_cells)

    def shown(self, place: int) -> Iterator[tuple[Cell, Group]]:
        """The labels of a tile that are shown, each with the cell it is of or a part of."""
        for cell in self.cells(place):
            group = self.group(cell.key)
            if any(cell.key == part.key for part in group.parts) and self._kept.get(group, self._decide):
                yield cell, group

    def at(self, extent: Extent) -> list[int]:
        """Places of the tiles that overlap an extent."""
        top, left, bottom, right = extent
        tops, lefts, bottoms, rights = self._extents.T
        return np.flatnonzero((tops < bottom) & (bottoms > top) & (lefts < right) & (rights > left)).tolist()

    def group(self, key: Key) -> Group:
        """Join the labels that are one cell; the part that is well inside its tile stands for the others."""
        if key in self._many:
            return self._many[key]
        found, waiting = {key}, [key]
        while waiting:
            place, n = waiting.pop()
            others = [other for other in self._links.get(place, self._find_links)[0].get(n, ()) if other not in found]
            found.update(others)
            waiting += others
        parts = sorted((self.cells(p)[n] for p, n in found), key=lambda cell: (-cell.margin, cell.key))
        group = Group((parts[0],) if not parts[0].cut else tuple(parts))
        if len(found) > _MANY_PARTS:
            self._many.update(dict.fromkeys(found, group))
        return group

    def _decide(self, group: Group) -> bool:
        """A cell is shown unless it is a fragment, or covers one that ranks before it or is covered by it."""
        return not self._is_fragment(group) and not any(rival.rank < group.rank for rival in self._rivals(group))

    def _rivals(self, group: Group) -> Iterator[Group]:
        for part in group.parts:
            for key in self._links.get(part.key[0], self._find_links)[1].get(part.key[1], ()):
                rival = self.group(key)
                stands = any(key == other.key for other in rival.parts)
                if stands and rival.key != group.key and not self._is_fragment(rival):
                    yield rival

    def _is_fragment(self, group: Group) -> bool:
        """Cut labels where another tile sees whole what is there, and sees it otherwise."""
        if not group.parts[0].cut:
            return False
        top, left, bottom, right = group.extent
        height, width = self._size_hw
        tops, lefts, bottoms, rights = self._extents.T
        return bool(
            np.any(
                ((tops == 0) | (tops + EDGE_PX <= top))
                & ((lefts == 0) | (lefts + EDGE_PX <= left))
                & ((bottoms == height) | (bottoms >= bottom + EDGE_PX))
                & ((rights == width) | (rights >= right + EDGE_PX))
            )
        )

    def _find_cells(self, place: int) -> tuple[Cell, ...]:
        """The cells of one tile with their extents in the image."""
        tile = self.tile(place)
        top, left = tile.extent[:2]
        if not len(tile.scores):
            return ()
        areas = np.bincount(tile.labels.ravel())
        cells = []
        for n, (y, x) in enumerate(ndimage.find_objects(tile.labels)):
            extent = (top + y.start, left + x.start, top + y.stop, left + x.stop)
            margins = edge_margins(extent, tile.extent, self._size_hw)
            cells.append(Cell((place, n), int(areas[n + 1]), extent, min(margins)))
        return tuple(cells)

    def _find_links(self, place: int) -> Links:
        """By label of a tile: labels of other tiles that are the same cell, and those that cover it or it covers."""
        links: Links = ({}, {})
        for other in self.at(tuple(self._extents[place].tolist())):
            if other == place:
                continue
            both = self._pairs.get((min(place, other), max(place, other)), self._compare)
            for found, pairs in zip(links, both, strict=True):
                for i, j in pairs:
                    own, partner = (i, j) if place < other else (j, i)
                    found.setdefault(own, []).append((other, partner))
        return links

    def _compare(self, places: tuple[int, int]) -> Pairs:
        """Labels of two tiles that are one cell, and pairs of which one covers the other."""
        a, b = places
        cells_a, cells_b = self.cells(a), self.cells(b)
        same: list[tuple[int, int]] = []
        covers: list[tuple[int, int]] = []
        if not cells_a or not cells_b:
            return same, covers
        low, high = np.maximum(self._extents[a], self._extents[b]), np.minimum(self._extents[a], self._extents[b])
        shared: Extent = (int(low[0]), int(low[1]), int(high[2]), int(high[3]))
        one, other = view(self.tile(a), shared), view(self.tile(b), shared)
        shape = len(cells_a) + 1, len(cells_b) + 1
        joint = np.bincount((one.astype(np.int64) * shape[1] + other).ravel(), minlength=shape[0] * shape[1])
        joint = joint.reshape(shape)
        areas_a, areas_b = joint.sum(axis=1), joint.sum(axis=0)
        for i, j in zip(*(axis.tolist() for axis in np.nonzero(joint[1:, 1:])), strict=True):
            pixels = int(joint[i + 1, j + 1])
            if pixels > SAME_CELL_IOU * (areas_a[i + 1] + areas_b[j + 1] - pixels):
                same.append((i, j))
            elif pixels > COVERED * min(cells_a[i].area, cells_b[j].area):
                covers.append((i, j))
        return same, covers


def edge_margins(extent: Extent, tile: Extent, size_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """Pixels from an extent to the four edges of a tile; an edge of the image is far away, as it cuts nothing off."""
    top, left, bottom, right = tile
    far = max(size_hw)
    return (
        extent[0] - top if top > 0 else far,
        extent[1] - left if left > 0 else far,
        bottom - extent[2] if bottom < size_hw[0] else far,
        right - extent[3] if right < size_hw[1] else far,
    )


def view(tile: TileCells, extent: Extent) -> I32:
    """The labels of a tile in an extent that lies in it."""
    top, left = tile.extent[:2]
    return tile.labels[extent[0] - top : extent[2] - top, extent[1] - left : extent[3] - left]


def group_box(group: Group, tile: Callable[[int], TileCells]) -> F64:
    """(4) xyxy, image pixels: around the boxes of all parts."""
    boxes = np.array([tile(place).boxes[n] for place, n in (part.key for part in group.parts)])
    around: F64 = np.concatenate((boxes[:, :2].min(0), boxes[:, 2:].max(0)))
    return around


def paint(extent: Extent, claims: Iterable[tuple[Rank, int, Cell, TileCells]]) -> I32:
    """Give every pixel of an extent to the best of the cells that claim it.

    Args:
        extent: what is painted.
        claims: for every label that is shown there, the rank of its cell, the number to paint, and the label.

    Returns:
        (h, w): the numbers, 0 where no cell is.
    """
    top, left, bottom, right = extent
    labels = np.zeros((bottom - top, right - left), np.int32)
    for _, number, cell, tile in sorted(claims, key=lambda claim: claim[0]):
        first_y, first_x, last_y, last_x = cell.extent
        inside = max(first_y, top), max(first_x, left), min(last_y, bottom), min(last_x, right)
        if inside[0] < inside[2] and inside[1] < inside[3]:
            region = labels[inside[0] - top : inside[2] - top, inside[1] - left : inside[3] - left]
            region[(view(tile, inside) == cell.key[1] + 1) & (region == 0)] = number
    return labels
