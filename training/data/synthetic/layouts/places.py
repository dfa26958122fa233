"""Numbers and positions of cells."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.data.synthetic.fields import log_uniform, smooth_field

F64 = NDArray[np.float64]


def draw_count(
    rng: np.random.Generator,
    size_hw: tuple[int, int],
    diameter_px: float,
    coverage: tuple[float, float],
    max_cells: int,
) -> int:
    """Draw a number of cells that cover a share of the field; ``max_cells`` is the limit per 512 x 512 pixels."""
    area = size_hw[0] * size_hw[1]
    number = log_uniform(rng, *coverage) * area / (np.pi / 4 * diameter_px**2)
    return int(np.clip(round(number), 1, max(1, max_cells * area // 512**2)))


def draw_places(rng: np.random.Generator, size_hw: tuple[int, int], number: int) -> F64:
    """Draw positions (number, 2) y and x: uniform, in islands, or dense on one side."""
    limits = np.array(size_hw)
    kind = rng.random()
    if kind < 0.45:
        return rng.uniform(0, limits, (number, 2))
    field = smooth_field(rng, size_hw, float(rng.uniform(0.15, 0.6) * min(size_hw)))
    candidates = rng.uniform(0, limits, (6 * number, 2))
    height = field[tuple(candidates.astype(int).T)]
    keys = height + rng.gumbel(0, rng.uniform(0.1, 0.8), len(height))
    chosen = np.sort(np.argpartition(-keys, number - 1)[:number])
    return candidates[chosen]
