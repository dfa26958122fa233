"""Edits of whole cells: delete, merge, swap and number them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from runtime.correction.difference import Difference, difference_of
from runtime.correction.edits.base import check_labels_given
from runtime.correction.label_map import MAX_LABEL, LabelMap
from runtime.errors import InputError
from runtime.ops.compiled import looked_up


@dataclass(frozen=True, kw_only=True, slots=True)
class Delete:
    """Delete cells."""

    operation: ClassVar[str] = "delete"

    labels: tuple[int, ...]

    def __post_init__(self) -> None:
        check_labels_given(self.labels, 1)

    def difference(self, cells: LabelMap) -> Difference:
        """Compute the pixels that change.

        Raises:
            InputError: a label belongs to no cell.
        """
        return _renamed(cells, dict.fromkeys(self.labels, 0))


@dataclass(frozen=True, kw_only=True, slots=True)
class Merge:
    """Merge cells into the first one."""

    operation: ClassVar[str] = "merge"

    labels: tuple[int, ...]

    def __post_init__(self) -> None:
        check_labels_given(self.labels, 2)

    def difference(self, cells: LabelMap) -> Difference:
        """Compute the pixels that change.

        Raises:
            InputError: a label belongs to no cell.
        """
        cells.check_cell(self.labels[0], "labels")
        return _renamed(cells, dict.fromkeys(self.labels[1:], self.labels[0]))


@dataclass(frozen=True, kw_only=True, slots=True)
class Swap:
    """Exchange the labels of two cells."""

    operation: ClassVar[str] = "swap"

    first: int
    second: int

    def __post_init__(self) -> None:
        check_labels_given((self.first, self.second), 2)

    def difference(self, cells: LabelMap) -> Difference:
        """Compute the pixels that change.

        Raises:
            InputError: a label belongs to no cell.
        """
        return _renamed(cells, {self.first: self.second, self.second: self.first})


@dataclass(frozen=True, kw_only=True, slots=True)
class Relabel:
    """Give a cell another label, which no cell has."""

    operation: ClassVar[str] = "relabel"

    label: int
    to: int

    def __post_init__(self) -> None:
        if not 1 <= self.to <= MAX_LABEL:
            raise InputError(f"to is {self.to}; expected 1 to {MAX_LABEL}.", kind="out_of_range", field="to")

    def difference(self, cells: LabelMap) -> Difference:
        """Compute the pixels that change.

        Raises:
            InputError: no cell has the label, or another cell has the new one.
        """
        if self.to in cells and self.to != self.label:
            raise InputError(
                f"to is {self.to}, which is the label of another cell; expected a free one. Swap or merge the two "
                "cells.",
                kind="exists",
                field="to",
            )
        return _renamed(cells, {self.label: self.to})


@dataclass(frozen=True, kw_only=True, slots=True)
class Renumber:
    """Number all cells 1..n without gaps, in the order of their labels."""

    operation: ClassVar[str] = "renumber"

    def difference(self, cells: LabelMap) -> Difference:
        """Compute the pixels that change."""
        labels = list(cells.areas)
        numbers = np.zeros(max(labels, default=0) + 1, np.int32)
        numbers[labels] = np.arange(1, len(labels) + 1)
        return difference_of(cells.labels, looked_up(cells.labels, numbers))


def _renamed(cells: LabelMap, names: dict[int, int]) -> Difference:
    """Replace labels by others, or by 0."""
    for label in names:
        cells.check_cell(label, "labels" if len(names) > 1 else "label")
    box = cells.boxes(tuple(names))
    before = cells.window(box)
    after = before.copy()
    for label, name in names.items():
        after[before == label] = name
    return difference_of(before, after, box[:2])
