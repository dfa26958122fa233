"""Label map that knows the area and the bounding box of each cell, so that edits touch only their surroundings."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from runtime.correction.difference import Difference
from runtime.errors import InputError
from runtime.ops.masks import MaskCrop, cut_to_pixels
from runtime.types import I32, Bool, Extent

MAX_LABEL = 1_000_000
"""Highest label of a cell. An image of a project has at most 100 million pixels, and tables of labels stay small."""

_MANY = 64
"""If a difference touches more cells, all cells are measured again, which is then faster."""


class LabelMap:
    """Labels of one image, with the area and the bounding box of each cell."""

    def __init__(self, labels: I32) -> None:
        """Measure all cells.

        Args:
            labels: (H, W) int32, 0 is background; not copied. Change it with ``put`` only.

        Raises:
            InputError: the labels have another shape or type, or a value is outside 0 to ``MAX_LABEL``.
        """
        self.labels = check_labels(labels)
        self._areas: dict[int, int] = {}
        self._boxes: dict[int, Extent] = {}
        self._measure()

    def _measure(self) -> None:
        areas = np.bincount(self.labels.ravel()).tolist()
        self._areas = {label: area for label, area in enumerate(areas) if label and area}
        found = ndimage.find_objects(self.labels)
        self._boxes = {label: _extent(found[label - 1]) for label in self._areas}

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.labels.shape[0], self.labels.shape[1]

    @property
    def areas(self) -> dict[int, int]:
        """Pixels of each cell, by label, in ascending order of labels."""
        return dict(sorted(self._areas.items()))

    def __contains__(self, label: object) -> bool:
        """Return whether a cell has this label."""
        return label in self._areas

    def __len__(self) -> int:
        """Return the number of cells."""
        return len(self._areas)

    def next_label(self) -> int:
        """Return the label of the next new cell: the highest label plus one.

        Raises:
            InputError: there is none up to ``MAX_LABEL``.
        """
        label = max(self._areas, default=0) + 1
        if label > MAX_LABEL:
            raise InputError(
                f"the highest label is {label - 1}; expected at most {MAX_LABEL - 1} to add a cell. Renumber the "
                "cells.",
                kind="too_large",
            )
        return label

    def check_cell(self, label: int, field: str = "label") -> None:
        """Raise an ``InputError`` unless a cell has this label."""
        if label not in self._areas:
            raise InputError(
                f"{field} is {label}, but no cell has this label; expected one of {len(self)} cells. Read the labels "
                "again: another edit may have removed it.",
                kind="not_found",
                field=field,
            )

    def box(self, label: int, margin: int = 0) -> Extent:
        """Return the bounding box of a cell.

        Args:
            label: label of a cell.
            margin: pixels to add on each side, within the image.

        Raises:
            InputError: no cell has this label.
        """
        self.check_cell(label)
        return padded(self._boxes[label], margin, self.size_hw)

    def boxes(self, labels: tuple[int, ...]) -> Extent:
        """Return the bounding box of several cells.

        Raises:
            InputError: a label belongs to no cell.
        """
        return union([self.box(label) for label in labels])

    def window(self, box: Extent) -> I32:
        """Return a part of the labels, (h, w), as a view."""
        top, left, bottom, right = box
        return self.labels[top:bottom, left:right]

    def mask(self, label: int) -> tuple[Bool, Extent]:
        """Return the pixels of a cell within its bounding box, and the box."""
        box = self.box(label)
        return self.window(box) == label, box

    def cell(self, label: int) -> MaskCrop:
        """Return the pixels of a cell as a crop.

        Raises:
            InputError: no cell has this label.
        """
        mask, box = self.mask(label)
        return MaskCrop(mask, box[:2])

    def count_after(self, difference: Difference) -> int:
        """Return the number of cells after a difference, without making it."""
        areas = self._areas_after(difference)
        return len(self) + sum((area > 0) - (label in self._areas) for label, area in areas.items())

    def put(self, difference: Difference) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Change the labels in place.

        Returns:
            Labels whose pixels changed, labels that are new, and labels that are gone, each in ascending order.
        """
        areas = self._areas_after(difference)
        touched = sorted(areas)
        created = tuple(label for label in touched if label not in self._areas)
        gone = tuple(label for label in touched if not areas[label])
        difference.put(self.labels)
        if len(touched) > _MANY:
            self._measure()
        else:
            self._update(areas, difference)
        return tuple(touched), created, gone

    def _areas_after(self, difference: Difference) -> dict[int, int]:
        """Return the area of each label that a difference touches, after it."""
        areas: dict[int, int] = {}
        for values, sign in ((difference.old, -1), (difference.new, 1)):
            counts = np.bincount(values)
            for label in np.flatnonzero(counts).tolist():
                if label:
                    areas[label] = areas.get(label, self._areas.get(label, 0)) + sign * int(counts[label])
        return areas

    def _update(self, areas: dict[int, int], difference: Difference) -> None:
        """Measure the touched cells again, within their earlier box and that of the difference."""
        for label, area in areas.items():
            within = [self._boxes.pop(label)] if label in self._boxes else []
            self._areas.pop(label, None)
            if area:
                box = union([*within, difference.box])
                crop = cut_to_pixels(self.window(box) == label, box[:2])
                (top, left), (height, width) = crop.offset_yx, crop.mask.shape
                self._areas[label], self._boxes[label] = area, (top, left, top + height, left + width)


def check_labels(labels: I32) -> I32:
    """Return labels as a contiguous int32 array.

    Raises:
        InputError: the array is not (H, W) of integers from 0 to ``MAX_LABEL``.
    """
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise InputError(
            f"labels have shape {labels.shape} and dtype {labels.dtype}; expected (H, W) integers, 0 for the "
            "background.",
            kind="wrong_shape" if labels.ndim != 2 else "wrong_type",
            field="labels",
        )
    least, most = int(labels.min(initial=0)), int(labels.max(initial=0))
    if least < 0 or most > MAX_LABEL:
        raise InputError(
            f"labels range from {least} to {most}; expected 0 to {MAX_LABEL}. Number the cells 1..n first.",
            kind="out_of_range",
            field="labels",
        )
    return np.ascontiguousarray(labels, np.int32)


def padded(box: Extent, margin: int, size_hw: tuple[int, int]) -> Extent:
    """Enlarge a box by a margin on each side, within an image."""
    top, left, bottom, right = box
    return (
        max(0, top - margin),
        max(0, left - margin),
        min(size_hw[0], bottom + margin),
        min(size_hw[1], right + margin),
    )


def union(boxes: list[Extent]) -> Extent:
    """Return the smallest box that contains one or more boxes."""
    tops, lefts, bottoms, rights = zip(*boxes, strict=True)
    return min(tops), min(lefts), max(bottoms), max(rights)


def _extent(box: tuple[slice, slice]) -> Extent:
    return int(box[0].start), int(box[1].start), int(box[0].stop), int(box[1].stop)
