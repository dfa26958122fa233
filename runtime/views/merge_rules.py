"""Rules to merge labels of overlapping tiles: which are the same cell, and which of them is shown. No I/O.

``runtime.views.stitch`` and ``runtime.jobs.slides`` share these definitions. Each decision concerns one cell and needs
only the tiles around it, so a slide of any size needs only a few tiles in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from runtime.ops.mask_kernels import areas_of, extents
from runtime.types import F32, F64, I32, Extent
from runtime.views.merge_kernels import joint_areas, paint_label

SAME_CELL_IOU = 0.5
"""Two labels are the same cell if their IoU within the area that both tiles show exceeds this value. From 0.5 on, a
label has at most one partner."""

COVERED = 0.5
"""If two cells share more than this part of the smaller one's pixels, one of them is dropped."""

EDGE_PX = 2
"""A label this close to a tile's edge may continue beyond it."""

_MANY_PARTS = 32
"""Groups with more parts are cached, because otherwise each of their tiles would rebuild them."""


@dataclass(frozen=True, slots=True)
class TileCells:
    """The cells of one tile. Arrays have one entry for each of its N cells; cell n has label n + 1."""

    extent: Extent
    """Extent of the tile, clipped to the image."""
    labels: I32
    """(h, w), dense labels."""
    boxes: F64
    """(N, 4) xyxy, image pixels: the box prompts."""
    scores: F32
    """(N,)"""
    iou_predictions: F32
    """(N,)"""


Key = tuple[int, int]
"""Key of a cell: index of its tile among the tiles sorted by extent, and its label there minus 1."""

Rank = tuple[bool, int, Key]

Links = tuple[dict[int, list[Key]], dict[int, list[Key]]]
"""By label of a tile: partners that are the same cell, and partners that cover it or that it covers."""

Pairs = tuple[list[tuple[int, int]], list[tuple[int, int]]]
"""The same relations between two tiles, as pairs of labels."""

K = TypeVar("K")
V = TypeVar("V")


class _Recent(Generic[K, V]):
    """A cache of the most recent results.

    Unlike a cached method, it holds no reference to its owner, so the owner's tiles are freed with it.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._items: dict[K, V] = {}

    def get(self, key: K, make: Callable[[K], V]) -> V:
        if self._limit is None:
            if key not in self._items:
                self._items[key] = make(key)
            return self._items[key]
        value = self._items.pop(key) if key in self._items else make(key)
        self.put(key, value)
        return value

    def put(self, key: K, value: V) -> None:
        self._items[key] = value
        if self._limit is not None and len(self._items) > self._limit:
            del self._items[next(iter(self._items))]


@dataclass(frozen=True, slots=True)
class Cell:
    """One label of one tile."""

    key: Key
    area: int
    extent: Extent
    margin: int
    """Pixels from its extent to the nearest edge of its tile, ignoring edges of the image."""

    @property
    def cut(self) -> bool:
        """Whether the label may continue beyond its tile."""
        return self.margin < EDGE_PX


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """The labels of one cell in several tiles: one whole label, or all parts if no tile contains the whole cell."""

    parts: tuple[Cell, ...]

    @property
    def key(self) -> Key:
        """Key of the part that represents the cell."""
        return self.parts[0].key

    @property
    def rank(self) -> Rank:
        """Sort key: whole cells before cut ones, then by distance from the tile's edges."""
        first = self.parts[0]
        return first.cut, -first.margin, first.key

    @property
    def extent(self) -> Extent:
        """Bounding extent of all parts."""
        tops, lefts, bottoms, rights = zip(*(part.extent for part in self.parts), strict=True)
        return min(tops), min(lefts), max(bottoms), max(rights)


class JoinedCells:
    """The cells of overlapping tiles, each decided on request."""

    def __init__(
        self,
        extents: Sequence[Extent],
        size_hw: tuple[int, int],
        tile: Callable[[int], TileCells],
        *,
        remembered: int | None = None,
    ) -> None:
        """Prepare to merge tiles.

        Args:
            extents: extents of all tiles, sorted.
            size_hw: size of the image.
            tile: returns the tile with an index.
            remembered: number of tiles whose relations are cached; None caches all.
        """
        self._extents = np.array(extents, np.int64).reshape(-1, 4)
        self._size_hw = size_hw
        self.tile = tile
        self._cells = _Recent[int, tuple[Cell, ...]](remembered)
        self._links = _Recent[int, Links](remembered)
        self._pairs = _Recent[tuple[int, int], Pairs](remembered and 8 * remembered)
        self._kept = _Recent[Group, bool](remembered and 64 * remembered)
        self._groups = _Recent[Key, Group](remembered and 64 * remembered)
        self._many: dict[Key, Group] = {}

    def cells(self, place: int) -> tuple[Cell, ...]:
        """Return the cells of one tile, in the order of their labels."""
        return self._cells.get(place, self._find_cells)

    def shown(self, place: int) -> Iterator[tuple[Cell, Group]]:
        """Yield the labels of a tile that are shown, each with the cell that it belongs to."""
        for cell in self.cells(place):
            group = self.group(cell.key)
            if any(cell.key == part.key for part in group.parts) and self._kept.get(group, self._decide):
                yield cell, group

    def at(self, extent: Extent) -> list[int]:
        """Return the indices of the tiles that overlap an extent."""
        top, left, bottom, right = extent
        tops, lefts, bottoms, rights = self._extents.T
        return np.flatnonzero((tops < bottom) & (bottoms > top) & (lefts < right) & (rights > left)).tolist()

    def group(self, key: Key) -> Group:
        """Join the labels of one cell; the part farthest inside its tile represents the cell."""
        return self._many[key] if key in self._many else self._groups.get(key, self._join)

    def _join(self, key: Key) -> Group:
        found, waiting = {key}, [key]
        while waiting:
            place, n = waiting.pop()
            others = [other for other in self._links.get(place, self._find_links)[0].get(n, ()) if other not in found]
            found.update(others)
            waiting += others
        parts = sorted((self.cells(p)[n] for p, n in found), key=lambda cell: (-cell.margin, cell.key))
        group = Group((parts[0],) if not parts[0].cut else tuple(parts))
        for part in found:
            self._groups.put(part, group)
        if len(found) > _MANY_PARTS:
            self._many.update(dict.fromkeys(found, group))
        return group

    def _decide(self, group: Group) -> bool:
        """Return whether a cell is shown: not if it is a fragment, or if an overlapping cell ranks before it."""
        return not self._is_fragment(group) and not any(rival.rank < group.rank for rival in self._rivals(group))

    def _rivals(self, group: Group) -> Iterator[Group]:
        for part in group.parts:
            for key in self._links.get(part.key[0], self._find_links)[1].get(part.key[1], ()):
                rival = self.group(key)
                stands = any(key == other.key for other in rival.parts)
                if stands and rival.key != group.key and not self._is_fragment(rival):
                    yield rival

    def _is_fragment(self, group: Group) -> bool:
        """Return whether a cut label lies whole inside another tile, which therefore shows it differently."""
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
        """Find the cells of one tile and their extents in the image."""
        tile = self.tile(place)
        top, left = tile.extent[:2]
        if not len(tile.scores):
            return ()
        count = len(tile.scores)
        areas = areas_of(tile.labels, count)[1:].tolist()
        boxes = extents(tile.labels, count)[1:] + np.array([top, top, left, left])
        found = ((y, x, y_end, x_end) for y, y_end, x, x_end in boxes.tolist())
        return tuple(
            Cell((place, n), area, extent, min(edge_margins(extent, tile.extent, self._size_hw)))
            for n, (area, extent) in enumerate(zip(areas, found, strict=True))
        )

    def _find_links(self, place: int) -> Links:
        """Collect, for each label of a tile, labels of other tiles that are the same cell or that overlap too much."""
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
        """Find the pairs of labels of two tiles that are the same cell, and pairs in which one covers the other."""
        a, b = places
        cells_a, cells_b = self.cells(a), self.cells(b)
        same: list[tuple[int, int]] = []
        covers: list[tuple[int, int]] = []
        if not cells_a or not cells_b:
            return same, covers
        low, high = np.maximum(self._extents[a], self._extents[b]), np.minimum(self._extents[a], self._extents[b])
        shared: Extent = (int(low[0]), int(low[1]), int(high[2]), int(high[3]))
        one, other = view(self.tile(a), shared), view(self.tile(b), shared)
        joint = joint_areas(one, other, len(cells_a), len(cells_b))
        areas_a, areas_b = joint.sum(axis=1), joint.sum(axis=0)
        for i, j in zip(*(axis.tolist() for axis in np.nonzero(joint[1:, 1:])), strict=True):
            pixels = int(joint[i + 1, j + 1])
            if pixels > SAME_CELL_IOU * (areas_a[i + 1] + areas_b[j + 1] - pixels):
                same.append((i, j))
            elif pixels > COVERED * min(cells_a[i].area, cells_b[j].area):
                covers.append((i, j))
        return same, covers


def edge_margins(extent: Extent, tile: Extent, size_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the pixels from an extent to the four edges of a tile; edges of the image, which cut nothing, are far."""
    top, left, bottom, right = tile
    far = max(size_hw)
    return (
        extent[0] - top if top > 0 else far,
        extent[1] - left if left > 0 else far,
        bottom - extent[2] if bottom < size_hw[0] else far,
        right - extent[3] if right < size_hw[1] else far,
    )


def view(tile: TileCells, extent: Extent) -> I32:
    """Return the labels of a tile inside an extent that lies in it."""
    top, left = tile.extent[:2]
    return tile.labels[extent[0] - top : extent[2] - top, extent[1] - left : extent[3] - left]


def group_box(group: Group, tile: Callable[[int], TileCells]) -> F64:
    """Return the bounding box (4,) of all parts' boxes, xyxy, image pixels."""
    if len(group.parts) == 1:
        place, n = group.key
        alone: F64 = tile(place).boxes[n]
        return alone
    boxes = np.array([tile(place).boxes[n] for place, n in (part.key for part in group.parts)])
    around: F64 = np.concatenate((boxes[:, :2].min(0), boxes[:, 2:].max(0)))
    return around


def paint(extent: Extent, claims: Iterable[tuple[Rank, int, Cell, TileCells]]) -> I32:
    """Assign each pixel of an extent to the best-ranked cell that claims it.

    Args:
        extent: the area to paint.
        claims: for each label shown there: the rank of its cell, the number to paint, the label and its tile.

    Returns:
        (h, w) int32: the numbers; 0 without a cell.
    """
    top, left, bottom, right = extent
    labels = np.zeros((bottom - top, right - left), np.int32)
    for _, number, cell, tile in sorted(claims, key=lambda claim: claim[0]):
        first_y, first_x, last_y, last_x = cell.extent
        inside = max(first_y, top), max(first_x, left), min(last_y, bottom), min(last_x, right)
        if inside[0] < inside[2] and inside[1] < inside[3]:
            region = labels[inside[0] - top : inside[2] - top, inside[1] - left : inside[3] - left]
            paint_label(region, view(tile, inside), cell.key[1] + 1, number)
    return labels
