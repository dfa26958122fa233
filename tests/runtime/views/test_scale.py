"""The median diameter of the cells, from what a detector finds at several scales."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.measure import label, regionprops

from runtime.views.grid import Tile
from runtime.views.scale import CellSizes, measure_diameter


def sure(diameters: NDArray[np.float64]) -> CellSizes:
    """Of cells that the detector is sure of."""
    return CellSizes(diameters, np.full(len(diameters), 0.9, np.float32))


@pytest.mark.parametrize(("size", "radius"), [((200, 300), 8), ((512, 512), 5), ((900, 400), 20)])
def test_measured_diameter(size: tuple[int, int], radius: int) -> None:
    """A detector that sees only what is at least 8 model pixels wide finds the scale by looking closer."""
    image = np.zeros((*size, 3), np.float32)
    y, x = np.mgrid[: size[0], : size[1]]
    for cy in range(radius + 2, size[0] - radius, 3 * radius):
        for cx in range(radius + 2, size[1] - radius, 3 * radius):
            image[(y - cy) ** 2 + (x - cx) ** 2 <= radius**2] = 1.0
    looks = []

    def find_cells(view: Tile) -> CellSizes:
        side = view.side
        looks.append(side)
        found = np.array([r.equivalent_diameter_area for r in regionprops(label(view.pixels[..., 0] > 0.5))])
        return sure(found[found * 128 / side >= 8])

    measured = measure_diameter(image, 128, find_cells, view_diameter_px=20)
    assert measured == pytest.approx(2 * radius + 1, rel=0.1)
    assert looks[0] == max(size)


def test_the_view_nearest_to_the_wanted_scale_counts() -> None:
    """Half of the cells are small and seen from close by only; far off, the large ones alone would be the median."""
    image = np.zeros((512, 512, 3), np.float32)
    y, x = np.mgrid[:512, :512]
    for number, (cy, cx) in enumerate((cy, cx) for cy in range(40, 500, 64) for cx in range(40, 500, 64)):
        image[(y - cy) ** 2 + (x - cx) ** 2 <= (30 if number % 3 == 0 else 10) ** 2] = 1.0

    def find_cells(view: Tile) -> CellSizes:
        found = np.array([r.equivalent_diameter_area for r in regionprops(label(view.pixels[..., 0] > 0.5))])
        return sure(found[found * 128 / view.side >= 8])

    assert measure_diameter(image, 128, find_cells, view_diameter_px=12) == pytest.approx(21, abs=1)


def test_what_is_seen_with_low_scores_does_not_count() -> None:
    """Far off, the detector takes texture for cells of just the wanted diameter."""

    def find_cells(view: Tile) -> CellSizes:
        if view.side > 256:
            return CellSizes(np.full(9, view.side * 20 / 128), np.full(9, 0.45, np.float32))
        return CellSizes(np.full(30, 12.0), np.full(200, 0.75, np.float32))

    image = np.random.default_rng(0).random((1024, 1024, 3)).astype(np.float32)
    assert measure_diameter(image, 128, find_cells, view_diameter_px=20) == 12


def test_nothing_to_measure() -> None:
    looks = []

    def find_cells(view: Tile) -> CellSizes:
        looks.append(view.side)
        return sure(np.zeros(0))

    assert measure_diameter(np.zeros((500, 500, 3), np.float32), 128, find_cells, view_diameter_px=20) is None
    assert looks == [500], "nothing but ground is looked at once"
