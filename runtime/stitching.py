"""One result from the results of overlapping tiles. Pure functions on arrays.

A cell that several tiles see is one cell: the tile that sees it whole, and most of what is around it, gives its
outline. A cell that no tile sees whole is put together from its parts. The order of the tiles does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from runtime.masks import MaskCrop, relabel
from runtime.results import Segmentation

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I32 = NDArray[np.int32]
Extent = tuple[int, int, int, int]
"""Top, left, bottom, right in image pixels, the last two exclusive."""

SAME_CELL_IOU = 0.5
"""Two labels are one cell when they agree by more than this where both tiles look; from 0.5 on, each has one partner at
most."""

COVERED = 0.5
"""Of two cells that share more than this part of the smaller one's pixels, one goes."""

EDGE_PX = 2
"""A label this close to a tile's edge may go on beyond it."""


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


def tile_cells(result: Segmentation, origin_yx: tuple[int, int], size_hw: tuple[int, int]) -> TileCells:
    """The part of a tile's result that is stitched.

    Args:
        result: of the tile.
        origin_yx: its first pixel in the image.
        size_hw: the image; labels beyond it are left out.
    """
    y, x = origin_yx
    labels, ids = relabel(result.labels[: size_hw[0] - y, : size_hw[1] - x], result.count)
    instance_ids = np.concatenate((np.zeros(1, np.int32), ids))[result.ids]
    rows = np.flatnonzero(instance_ids)
    rows = rows[np.argsort(instance_ids[rows])]
    return TileCells(
        extent=(y, x, y + labels.shape[0], x + labels.shape[1]),
        labels=labels,
        boxes=result.boxes[rows] + np.array([x, y, x, y]),
        scores=result.scores[rows],
        iou_predictions=result.iou_predictions[rows],
    )


Key = tuple[int, int]
"""A cell: place of its tile, and its label there less 1."""


@dataclass(frozen=True, slots=True)
class _Cell:
    """One label of one tile."""

    key: Key
    area: int
    extent: Extent
    margin: int
    """Pixels from its extent to the nearest edge of its tile that is not the image's."""

    @property
    def cut(self) -> bool:
        return self.margin < EDGE_PX


@dataclass(slots=True)
class _Group:
    """What several tiles saw of one cell: one whole label, or all parts where no tile sees the whole."""

    parts: tuple[_Cell, ...]

    @property
    def rank(self) -> tuple[bool, int, Key]:
        """Whole cells come before cut ones, then those well inside their tile."""
        first = self.parts[0]
        return first.cut, -first.margin, first.key

    @property
    def extent(self) -> Extent:
        tops, lefts, bottoms, rights = zip(*(part.extent for part in self.parts), strict=True)
        return min(tops), min(lefts), max(bottoms), max(rights)


def stitch(tiles: Sequence[TileCells], size_hw: tuple[int, int], *, min_area_px: int = 0) -> Segmentation:
    """One result from those of the tiles.

    Args:
        tiles: in any order.
        size_hw: the image.
        min_area_px: cells with fewer pixels are left out.

    Returns:
        The cells from top to bottom and left to right of their first row and column; each one's mask is what the label
        map shows of it.
    """
    tiles = sorted(tiles, key=lambda tile: tile.extent)
    cells = {cell.key: cell for place, tile in enumerate(tiles) for cell in _cells(place, tile, size_hw)}
    same, covers = _relations(tiles, cells)
    groups = [group for group in _groups(cells, same) if not _is_fragment(group, tiles, size_hw)]
    owner = {part.key: group for group in groups for part in group.parts}
    beaten = set()
    for one, other in covers:
        a, b = owner.get(one), owner.get(other)
        if a is not None and b is not None and a is not b:
            beaten.add(max(a.rank, b.rank))
    return _paint([group for group in groups if group.rank not in beaten], tiles, size_hw, min_area_px)


def _cells(place: int, tile: TileCells, size_hw: tuple[int, int]) -> Iterator[_Cell]:
    """The cells of one tile with their extents in the image."""
    top, left, bottom, right = tile.extent
    areas = np.bincount(tile.labels.ravel())
    far = max(size_hw)  # an edge of the image cuts nothing off
    for n, (y, x) in enumerate(ndimage.find_objects(tile.labels)):
        extent = (top + y.start, left + x.start, top + y.stop, left + x.stop)
        margins = (
            extent[0] - top if top > 0 else far,
            extent[1] - left if left > 0 else far,
            bottom - extent[2] if bottom < size_hw[0] else far,
            right - extent[3] if right < size_hw[1] else far,
        )
        yield _Cell((place, n), int(areas[n + 1]), extent, min(margins))


def _relations(tiles: Sequence[TileCells], cells: dict[Key, _Cell]) -> tuple[list[tuple[Key, Key]], ...]:
    """Pairs of labels of different tiles that are one cell, and pairs of which one covers the other."""
    same, covers = [], []
    for a, b, shared in _overlapping(tiles):
        (one, other), (count_a, count_b) = (
            (_view(tiles[i], shared) for i in (a, b)),
            (len(tiles[i].scores) for i in (a, b)),
        )
        joint = np.bincount(
            (one.astype(np.int64) * (count_b + 1) + other).ravel(), minlength=(count_a + 1) * (count_b + 1)
        ).reshape(count_a + 1, count_b + 1)
        areas_a, areas_b = joint.sum(axis=1), joint.sum(axis=0)
        for i, j in zip(*np.nonzero(joint[1:, 1:]), strict=True):
            pixels = int(joint[i + 1, j + 1])
            pair = (a, int(i)), (b, int(j))
            if pixels > SAME_CELL_IOU * (areas_a[i + 1] + areas_b[j + 1] - pixels):
                same.append(pair)
            elif pixels > COVERED * min(cells[key].area for key in pair):
                covers.append(pair)
    return same, covers


def _overlapping(tiles: Sequence[TileCells]) -> Iterator[tuple[int, int, Extent]]:
    """Pairs of tiles, sorted by their top, that overlap, and where."""
    for a, first in enumerate(tiles):
        for b in range(a + 1, len(tiles)):
            if tiles[b].extent[0] >= first.extent[2]:
                break
            (t0, l0, b0, r0), (t1, l1, b1, r1) = first.extent, tiles[b].extent
            shared = max(t0, t1), max(l0, l1), min(b0, b1), min(r0, r1)
            if shared[0] < shared[2] and shared[1] < shared[3]:
                yield a, b, shared


def _view(tile: TileCells, extent: Extent) -> I32:
    top, left = tile.extent[:2]
    return tile.labels[extent[0] - top : extent[2] - top, extent[1] - left : extent[3] - left]


def _groups(cells: dict[Key, _Cell], same: Sequence[tuple[Key, Key]]) -> Iterator[_Group]:
    """Join the labels that are one cell; the part that is well inside its tile stands for the others."""
    parent = {key: key for key in cells}

    def root(key: Key) -> Key:
        while parent[key] != key:
            parent[key] = key = parent[parent[key]]
        return key

    for one, other in same:
        low, high = sorted((root(one), root(other)))
        parent[high] = low
    members: dict[Key, list[_Cell]] = {}
    for key, cell in cells.items():
        members.setdefault(root(key), []).append(cell)
    for parts in members.values():
        parts.sort(key=lambda cell: (-cell.margin, cell.key))
        yield _Group((parts[0],) if not parts[0].cut else tuple(parts))


def _is_fragment(group: _Group, tiles: Sequence[TileCells], size_hw: tuple[int, int]) -> bool:
    """A cut label where another tile sees whole what is there, and sees it otherwise."""
    if not group.parts[0].cut or len(group.parts) > 1:
        return False
    top, left, bottom, right = group.extent
    for place, tile in enumerate(tiles):
        if place == group.parts[0].key[0]:
            continue
        edges = tile.extent
        inner = [edges[0] > 0, edges[1] > 0, edges[2] < size_hw[0], edges[3] < size_hw[1]]
        room = [top - edges[0], left - edges[1], edges[2] - bottom, edges[3] - right]
        if all(pixels >= EDGE_PX * cuts for pixels, cuts in zip(room, inner, strict=True)):
            return True
    return False


def _paint(
    groups: list[_Group], tiles: Sequence[TileCells], size_hw: tuple[int, int], min_area_px: int
) -> Segmentation:
    """Give every pixel to the best of the cells that claim it, then number the cells."""
    ordered = sorted(groups, key=lambda group: (group.extent, group.rank))
    number = {group.rank: n for n, group in enumerate(ordered, start=1)}
    labels = np.zeros(size_hw, np.int32)
    for group in sorted(groups, key=lambda group: group.rank):
        for part in group.parts:
            place, n = part.key
            region = labels[part.extent[0] : part.extent[2], part.extent[1] : part.extent[3]]
            region[(_view(tiles[place], part.extent) == n + 1) & (region == 0)] = number[group.rank]
    areas = np.bincount(labels.ravel(), minlength=len(ordered) + 1)
    small = areas < max(min_area_px, 1)
    small[0] = False
    if small.any():
        labels[small[labels]] = 0
    labels, ids = relabel(labels, len(ordered))
    kept = [group for group, label in zip(ordered, ids, strict=True) if label]
    masks = tuple(
        MaskCrop(labels[region] == n, (region[0].start, region[1].start))
        for n, region in enumerate(ndimage.find_objects(labels), start=1)
    )
    boxes = [np.array([tiles[place].boxes[n] for place, n in (part.key for part in group.parts)]) for group in kept]
    first = [group.parts[0].key for group in kept]
    return Segmentation(
        labels=labels,
        boxes=np.array([[*b[:, :2].min(0), *b[:, 2:].max(0)] for b in boxes]).reshape(-1, 4),
        scores=np.array([tiles[place].scores[n] for place, n in first], np.float32),
        iou_predictions=np.array([tiles[place].iou_predictions[n] for place, n in first], np.float32),
        ids=np.arange(1, len(kept) + 1, dtype=np.int32),
        masks=masks,
    )
