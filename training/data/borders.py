"""Detection of tiles from one field by their borders.

DSB 2018 publishes tiles without naming their fields. If the last column or row of one tile continues in the first of
another, the two were neighbours in one field and must stay in one split.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.types import F32

# In DSB 2018 stage 1, mutual best matches of borders cluster above 0.95; unrelated tiles stay below 0.8.
MIN_CORRELATION = 0.9
_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class Borders:
    """Outermost rows and columns of an image, averaged over channels."""

    size_hw: tuple[int, int]
    top: F32
    bottom: F32
    left: F32
    right: F32


def borders_of(channels: NDArray[Any]) -> Borders:
    """Return the borders of an image (H, W) or (H, W, C)."""
    lines = [np.asarray(line, np.float32) for line in (channels[0], channels[-1], channels[:, 0], channels[:, -1])]
    means = [line.mean(axis=-1) if line.ndim == 2 else line for line in lines]
    return Borders((channels.shape[0], channels.shape[1]), *means)


def neighbours(borders: Sequence[Borders]) -> list[tuple[int, int]]:
    """Find pairs of images of equal size whose borders continue each other.

    A pair counts if each border is the other's best match and their correlation is at least 0.9.

    Returns:
        Pairs of positions in ``borders``, in ascending order.
    """
    by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, item in enumerate(borders):
        by_size[item.size_hw].append(index)
    pairs: set[tuple[int, int]] = set()
    for members in by_size.values():
        for last, first in (("right", "left"), ("bottom", "top")):
            before = np.stack([getattr(borders[i], last) for i in members])
            after = np.stack([getattr(borders[i], first) for i in members])
            found = _mutual_best(_standardise(before), _standardise(after))
            pairs |= {(min(members[i], members[j]), max(members[i], members[j])) for i, j in found}
    return sorted(pairs)


def _standardise(lines: F32) -> F32:
    """Give each row zero mean and unit length; a flat line becomes 0 and matches nothing."""
    centred = lines - lines.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    out: F32 = np.where(length > 0, centred / np.maximum(length, np.float32(1e-12)), np.float32(0))
    return out


def _mutual_best(before: F32, after: F32) -> list[tuple[int, int]]:
    """Return pairs (i, j), i != j, where ``after[j]`` correlates best with ``before[i]`` and vice versa."""
    count = len(before)
    best_after = np.zeros(count, np.intp)
    best_before = np.zeros(count, np.intp)
    top = np.full(count, -np.inf, np.float32)
    for start in range(0, count, _CHUNK):  # limits the correlation matrix
        rows = np.arange(start, min(start + _CHUNK, count))
        correlation = before[rows] @ after.T
        correlation[np.arange(len(rows)), rows] = -1  # a tile is not its own neighbour
        best_after[rows] = np.where(correlation.max(axis=1) >= MIN_CORRELATION, correlation.argmax(axis=1), -1)
        column = correlation.max(axis=0)
        better = column > top
        best_before[better] = rows[correlation.argmax(axis=0)][better]
        top = np.maximum(top, column)
    return [(i, int(j)) for i, j in enumerate(best_after) if j >= 0 and best_before[j] == i]
