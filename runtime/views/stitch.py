"""Merging of the results of overlapping tiles into one result. Pure functions on arrays.

A cell that several tiles show becomes one cell. Its outline comes from the tile that contains all of it and the widest
margin around it. A cell that no tile contains whole is joined from its parts. The order of the tiles does not matter.
``runtime.views.merge_rules`` decides which labels are the same cell and which are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runtime.ops.masks import MaskCrop, join_masks, relabel
from runtime.results import Appearance, Instances, Segmentation
from runtime.types import F64, I64, Bool, Extent
from runtime.views.merge_rules import EDGE_PX, Group, JoinedCells, TileCells, edge_margins, group_box, paint

__all__ = ["TileCells", "ViewCells", "stitch", "tile_cells", "view_cells"]


@dataclass(frozen=True, slots=True, eq=False)
class ViewCells:
    """The cells of one view, as input of ``stitch``."""

    tile: TileCells
    masks: tuple[MaskCrop, ...]
    """Masks of the tile's N cells before overlaps are resolved, in image coordinates."""
    prompts: I64
    """(N,), see ``Instances``."""
    hidden: Instances
    """Instances without a pixel in the tile's label map, in image coordinates."""


def tile_cells(result: Segmentation, origin_yx: tuple[int, int], size_hw: tuple[int, int]) -> TileCells:
    """Return the cells of a tile without their masks, which the label map of a slide does not need.

    Args:
        result: result of the tile.
        origin_yx: position of its first pixel in the image.
        size_hw: size of the image; cells beyond it are left out.
    """
    return _tile_and_rows(result, origin_yx, size_hw)[0]


def view_cells(result: Segmentation, origin_yx: tuple[int, int], size_hw: tuple[int, int]) -> ViewCells:
    """Return ``tile_cells`` with the masks and the hidden instances of the tile."""
    tile, rows = _tile_and_rows(result, origin_yx, size_hw)
    hidden = result.hidden
    return ViewCells(
        tile=tile,
        masks=tuple(result.masks[row].in_image(origin_yx, size_hw) for row in rows.tolist()),
        prompts=result.prompts[rows],
        hidden=Instances(
            boxes=hidden.boxes + _shift(origin_yx),
            scores=hidden.scores,
            iou_predictions=hidden.iou_predictions,
            masks=tuple(mask.in_image(origin_yx, size_hw) for mask in hidden.masks),
            prompts=hidden.prompts,
        ),
    )


def _tile_and_rows(result: Segmentation, origin_yx: tuple[int, int], size_hw: tuple[int, int]) -> tuple[TileCells, I64]:
    """Return the cells of a tile, and their rows in the result."""
    y, x = origin_yx
    labels, ids = relabel(result.labels[: size_hw[0] - y, : size_hw[1] - x], len(result))
    rows = np.flatnonzero(ids)
    tile = TileCells(
        extent=(y, x, y + labels.shape[0], x + labels.shape[1]),
        labels=labels,
        boxes=result.boxes[rows] + _shift(origin_yx),
        scores=result.scores[rows],
        iou_predictions=result.iou_predictions[rows],
    )
    return tile, rows


def _shift(origin_yx: tuple[int, int]) -> F64:
    """Return the offset that moves xyxy boxes from a tile into the image."""
    y, x = origin_yx
    return np.array([x, y, x, y], np.float64)


def stitch(
    views: Sequence[ViewCells], size_hw: tuple[int, int], *, min_area_px: int = 0, appearance: Appearance | None = None
) -> Segmentation:
    """Combine the cells of overlapping tiles into one result.

    Args:
        views: the tiles, in any order.
        size_hw: size of the image.
        min_area_px: cells with fewer pixels are hidden.
        appearance: how the model saw the image.

    Returns:
        The cells, ordered by the first row and column of their extent. The mask of a cell that was joined from several
        tiles is the union of its parts. An instance that is hidden in its tile stays hidden, unless another tile shows
        its place farther from an edge, or its mask reaches the tile's edge; it is then dropped.
    """
    views = sorted(views, key=lambda view: view.tile.extent)
    tiles = [view.tile for view in views]
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
    instances, shown_rows = _instances(ordered, views), ids > 0
    apart = [
        instances[~shown_rows],
        *(view.hidden[_own_hidden(place, views, size_hw)] for place, view in enumerate(views)),
    ]
    return Segmentation.of(labels, instances[shown_rows], Instances.joined(apart), appearance)


def _instances(groups: Sequence[Group], views: Sequence[ViewCells]) -> Instances:
    """Collect the boxes, scores and masks of joined cells from their tiles."""
    first = [(views[place], n) for place, n in (group.key for group in groups)]
    return Instances(
        boxes=np.array([group_box(group, lambda place: views[place].tile) for group in groups]).reshape(-1, 4),
        scores=np.array([view.tile.scores[n] for view, n in first], np.float32),
        iou_predictions=np.array([view.tile.iou_predictions[n] for view, n in first], np.float32),
        masks=tuple(
            join_masks([views[place].masks[n] for place, n in (part.key for part in group.parts)]) for group in groups
        ),
        prompts=np.array([view.prompts[n] for view, n in first], np.int64),
    )


def _own_hidden(place: int, views: Sequence[ViewCells], size_hw: tuple[int, int]) -> Bool:
    """Select (M,) the hidden instances that lie whole inside a tile and that no other tile shows farther inside."""
    hidden, extent = views[place].hidden, views[place].tile.extent
    centres_yx = (hidden.boxes[:, 1::-1] + hidden.boxes[:, :1:-1]) / 2
    starts, stops = np.hsplit(np.array([view.tile.extent for view in views]), 2)
    # Edges of the image do not cut cells.
    before = np.where(starts > 0, centres_yx[:, None] - starts, np.inf)
    after = np.where(stops < size_hw, stops - centres_yx[:, None], np.inf)
    best = np.minimum(before, after).min(axis=-1).argmax(axis=1)  # the first of equally good tiles
    inside = ((centres_yx >= 0) & (centres_yx <= size_hw)).all(axis=1)
    whole = [not mask.area_px or min(edge_margins(_extent(mask), extent, size_hw)) >= EDGE_PX for mask in hidden.masks]
    own: Bool = (best == place) & inside & np.array(whole, np.bool_)
    return own


def _extent(mask: MaskCrop) -> Extent:
    (top, left), (height, width) = mask.offset_yx, mask.mask.shape
    return top, left, top + height, left + width
