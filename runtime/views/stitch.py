"""One result from the results of overlapping tiles. Pure functions on arrays.

A cell that several tiles see is one cell: the tile that sees it whole, and most of what is around it, gives its
outline. A cell that no tile sees whole is put together from its parts. The order of the tiles does not matter.
``runtime.views.merge_rules`` says which labels are one cell and which are shown.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from runtime.ops.masks import MaskCrop, relabel
from runtime.results import Segmentation
from runtime.types import I32
from runtime.views.merge_rules import Group, JoinedCells, TileCells, group_box, paint

__all__ = ["TileCells", "stitch", "tile_cells"]


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
    joined = JoinedCells([tile.extent for tile in tiles], size_hw, tiles.__getitem__)
    shown = [(cell, group) for place in range(len(tiles)) for cell, group in joined.shown(place)]
    ordered = sorted((g for cell, g in shown if cell.key == g.key), key=lambda group: (group.extent, group.rank))
    number = {group.key: n for n, group in enumerate(ordered, start=1)}
    labels = paint(
        (0, 0, *size_hw), ((group.rank, number[group.key], cell, tiles[cell.key[0]]) for cell, group in shown)
    )
    areas = np.bincount(labels.ravel(), minlength=len(ordered) + 1)
    small = areas < max(min_area_px, 1)
    small[0] = False
    if small.any():
        labels[small[labels]] = 0
    labels, ids = relabel(labels, len(ordered))
    return _result(labels, [group for group, label in zip(ordered, ids, strict=True) if label], tiles)


def _result(labels: I32, groups: list[Group], tiles: Sequence[TileCells]) -> Segmentation:
    """The label map with what the tiles say about its cells."""
    masks = tuple(
        MaskCrop(labels[region] == n, (region[0].start, region[1].start))
        for n, region in enumerate(ndimage.find_objects(labels), start=1)
    )
    first = [group.key for group in groups]
    return Segmentation(
        labels=labels,
        boxes=np.array([group_box(group, tiles.__getitem__) for group in groups]).reshape(-1, 4),
        scores=np.array([tiles[place].scores[n] for place, n in first], np.float32),
        iou_predictions=np.array([tiles[place].iou_predictions[n] for place, n in first], np.float32),
        ids=np.arange(1, len(groups) + 1, dtype=np.int32),
        masks=masks,
    )
