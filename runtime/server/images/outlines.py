"""Outlines of the cells of an image, for a page that draws and edits them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.files.outputs.polygons import mask_polygons
from runtime.ops.masks import MaskCrop, label_crops
from runtime.types import I32, Extent

Points = list[tuple[float, float]]


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """One cell."""

    label: int
    box: Extent
    """Top, left, bottom, right; image pixels."""
    area_px: int
    crop: MaskCrop
    polygons: list[list[list[tuple[int, int]]]]
    """Outer ring, then holes, of each part; corners of pixels, xy."""


@dataclass(frozen=True, slots=True, eq=False)
class Traced:
    """The cells of one revision."""

    revision: int
    since: int
    """Revision from which on changes are known."""
    cells: Mapping[int, Outline]
    """Cells by label."""
    changed: Mapping[int, int]
    """Labels with the revision at which their pixels were last found changed; also those of cells that are gone."""


class Outlines:
    """Outlines of one image at its latest revision; cells that did not change are not traced again."""

    def __init__(self) -> None:
        """Start without cells."""
        self._lock = threading.Lock()
        self._traced: Traced | None = None

    def update(self, revision: int, labels: I32) -> Traced:
        """Trace the cells of a revision.

        Args:
            revision: revision of the labels.
            labels: (H, W), 0 background.
        """
        with self._lock:
            before = self._traced
            if before is not None and revision <= before.revision:
                return before
            known = {} if before is None else before.cells
            cells = {label: _outline(label, crop, known.get(label)) for label, crop in numbered_crops(labels)}
            if before is None:
                self._traced = Traced(revision, revision, cells, {})
            else:
                new = {label: revision for label in {*known, *cells} if known.get(label) is not cells.get(label)}
                self._traced = Traced(revision, before.since, cells, {**before.changed, **new})
            return self._traced


def _outline(label: int, crop: MaskCrop, known: Outline | None) -> Outline:
    """Trace a cell, unless it is as it was."""
    if known is not None and known.crop.offset_yx == crop.offset_yx and np.array_equal(known.crop.mask, crop.mask):
        return known
    (top, left), (height, width) = crop.offset_yx, crop.mask.shape
    own = MaskCrop(crop.mask.copy(), crop.offset_yx)  # the crop is a view of the whole map
    return Outline(
        label, (top, left, top + height, left + width), crop.area_px, own, mask_polygons(own.mask, own.offset_yx)
    )


def numbered_crops(labels: I32) -> Iterable[tuple[int, MaskCrop]]:
    """Yield each label of a map, which may have gaps, with its cell."""
    present = np.flatnonzero(np.bincount(labels.reshape(-1), minlength=1)[1:]) + 1
    return zip(present.tolist(), label_crops(labels), strict=True)


def select(cells: Mapping[int, Outline], region: Extent) -> list[Outline]:
    """Return the cells whose bounding box meets a region (top, left, bottom, right), by label."""
    top, left, bottom, right = region
    return [
        cell
        for cell in cells.values()
        if cell.box[0] < bottom and cell.box[2] > top and cell.box[1] < right and cell.box[3] > left
    ]


def describe(cell: Outline, tolerance: float) -> dict[str, Any]:
    """Describe a cell for JSON.

    Args:
        cell: the cell.
        tolerance: how far a simplified outline may be from the edges of its pixels, pixels; 0 keeps all corners.
    """
    top, left, bottom, right = cell.box
    rings = [[simplify(ring, tolerance) for ring in polygon] for polygon in cell.polygons]
    return {
        "label": cell.label,
        "bbox": [left, top, right, bottom],
        "area_px": cell.area_px,
        "polygons": [[ring for ring in polygon if len(ring) > 3] or polygon[:1] for polygon in rings],
    }


def simplify(ring: list[tuple[int, int]], tolerance: float) -> list[tuple[int, int]]:
    """Leave out points of a closed ring that are closer than ``tolerance`` to the line between their neighbours."""
    if tolerance <= 0 or len(ring) < 6:
        return ring
    from skimage.measure import approximate_polygon

    points: list[list[int]] = approximate_polygon(np.array(ring), tolerance).astype(int).tolist()  # type: ignore[no-untyped-call]
    return [(x, y) for x, y in points] if len(points) > 3 else ring
