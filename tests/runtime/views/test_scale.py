"""Measurement of the median cell diameter from detections at several scales."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.measure import label, regionprops

from runtime.views.grid import Tile
from runtime.views.scale import CellSizes, Measurement, inverted_is_better, measure_at, measure_diameter, measured_of


def sure(diameters: NDArray[np.float64]) -> CellSizes:
    """Build cells in which the detector is confident."""
    return CellSizes(diameters, np.full(len(diameters), 0.9, np.float32))


@pytest.mark.parametrize(("size", "radius"), [((200, 300), 8), ((512, 512), 5), ((900, 400), 20)])
def test_measured_diameter(size: tuple[int, int], radius: int) -> None:
    """A detector that sees only objects of at least 8 model pixels finds the scale by zooming in."""
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
    assert measured is not None
    assert measured.diameter_px == pytest.approx(2 * radius + 1, rel=0.1)
    assert 0.6 < measured.confidence <= 0.9, "many cells of high scores; one scale may cut some of them"
    assert looks[0] == max(size)


def test_the_view_nearest_to_the_wanted_scale_counts() -> None:
    """Half of the cells are small and visible only from close by; from afar, the median would be that of large ones."""
    image = np.zeros((512, 512, 3), np.float32)
    y, x = np.mgrid[:512, :512]
    for number, (cy, cx) in enumerate((cy, cx) for cy in range(40, 500, 64) for cx in range(40, 500, 64)):
        image[(y - cy) ** 2 + (x - cx) ** 2 <= (30 if number % 3 == 0 else 10) ** 2] = 1.0

    def find_cells(view: Tile) -> CellSizes:
        found = np.array([r.equivalent_diameter_area for r in regionprops(label(view.pixels[..., 0] > 0.5))])
        return sure(found[found * 128 / view.side >= 8])

    measured = measure_diameter(image, 128, find_cells, view_diameter_px=12)
    assert measured is not None
    assert measured.diameter_px == pytest.approx(21, abs=1)
    assert measured.agreement < 0.6, "other scales see larger cells"


def test_what_is_seen_with_low_scores_does_not_count() -> None:
    """From afar, the detector mistakes texture for cells of exactly the wanted diameter."""

    def find_cells(view: Tile) -> CellSizes:
        if view.side > 256:
            return CellSizes(np.full(9, view.side * 20 / 128), np.full(9, 0.45, np.float32))
        return CellSizes(np.full(30, 12.0), np.full(200, 0.75, np.float32))

    image = np.random.default_rng(0).random((1024, 1024, 3)).astype(np.float32)
    measured = measure_diameter(image, 128, find_cells, view_diameter_px=20)
    assert measured is not None
    assert (measured.diameter_px, measured.agreement) == (12, 1)
    assert measured.score == pytest.approx(0.75 * 400 / 401)


def test_nothing_to_measure() -> None:
    looks = []

    def find_cells(view: Tile) -> CellSizes:
        looks.append(view.side)
        return sure(np.zeros(0))

    assert measure_diameter(np.zeros((500, 500, 3), np.float32), 128, find_cells, view_diameter_px=20) is None
    assert looks == [500], "nothing but ground is looked at once"


def test_one_cell_is_not_a_sure_measurement() -> None:
    one = measured_of([sure(np.array([20.0]))], 256, 128)
    many = measured_of([sure(np.full(50, 20.0))], 256, 128)
    assert one is not None
    assert many is not None
    assert one.confidence == pytest.approx(0.45)
    assert many.confidence == pytest.approx(0.9 * 50 / 51)
    assert measured_of([sure(np.zeros(0))], 256, 128) is None
    assert measured_of([], 256, 128) is None


def test_one_scale_is_measured_in_the_parts_with_most_contrast() -> None:
    image = np.zeros((256, 256, 3), np.float32)
    image[128:, 128:] = np.random.default_rng(0).random((128, 128, 3))
    looks: list[Tile] = []

    def find_cells(tile: Tile) -> CellSizes:
        looks.append(tile)
        return sure(np.array([18.0, 20.0, 22.0]))

    measured = measure_at(image, 128, 128, find_cells)
    assert measured is not None
    assert measured.diameter_px == 20
    assert len(looks) == 1, "constant parts are not looked at"
    np.testing.assert_array_equal(looks[0].pixels, image[128:, 128:])


@pytest.mark.parametrize(
    ("score", "inverted", "better"), [(0.6, 0.7, True), (0.6, 0.63, False), (0.6, None, False), (None, 0.3, True)]
)
def test_the_inverted_image_has_to_be_clearly_better(score: float | None, inverted: float | None, better: bool) -> None:
    one, other = (None if value is None else Measurement(20.0, value, 1.0) for value in (score, inverted))
    chosen, margin = inverted_is_better(one, other)
    assert chosen is better
    higher = (inverted or 0) - (score or 0)
    assert margin == pytest.approx(higher if better else -higher)
