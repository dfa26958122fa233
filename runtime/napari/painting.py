"""Changes of label maps: which pixels get which label when cells are added or segmented again."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from runtime.types import I32, I64, Extent


class Change(NamedTuple):
    """New labels of some pixels of a plane."""

    rows: I64
    columns: I64
    values: I32


def segmented_again(labels: I32, found: I32, extent: Extent) -> Change:
    """Replace the cells of a part by new ones.

    Cells that reach beyond the part stay and keep their pixels; new cells get the others. New cells are numbered from
    the highest label that stays.

    Args:
        labels: (H, W), the cells so far.
        found: (h, w), 0..n, the cells found in the part.
        extent: the part.
    """
    window = _window(labels, extent)
    counts = np.bincount(labels.ravel())
    stays = counts > np.bincount(window.ravel(), minlength=len(counts))
    stays[0] = False  # the background
    first = int(np.flatnonzero(stays).max(initial=0))
    new = np.where(stays[window], window, np.where(found > 0, found + first, 0))
    return _change(window, new.astype(np.int32), extent)


def added(labels: I32, found: I32, extent: Extent) -> Change:
    """Add cells in pixels that no cell has; they are numbered from the highest label.

    Args:
        labels: (H, W), the cells so far.
        found: (h, w), 0..n, the new cells.
        extent: the part that they are in.
    """
    window = _window(labels, extent)
    new = np.where((window == 0) & (found > 0), found + int(labels.max(initial=0)), window)
    return _change(window, new.astype(np.int32), extent)


def _window(labels: I32, extent: Extent) -> I32:
    top, left, bottom, right = extent
    return labels[top:bottom, left:right]


def _change(before: I32, after: I32, extent: Extent) -> Change:
    rows, columns = np.nonzero(before != after)
    return Change(rows + extent[0], columns + extent[1], after[rows, columns])
