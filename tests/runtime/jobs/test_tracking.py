"""Tests of links over time."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from runtime.errors import InputError
from runtime.jobs.tracking import check_tracker, link_frames, link_points
from tests.runtime.files.outputs.made import made_result


def test_cells_move_divide_and_are_missed() -> None:
    steps = [[(10, 10), (50, 50)], [(12, 10), (50, 48), (50, 53)], [(50, 46), (50, 56)], [(15, 12), (50, 44), (50, 58)]]
    points = [np.array(each, np.float64) for each in steps]
    numbers, parents = link_points(points, 10.0)
    first, second = numbers[0]
    assert numbers[1][0] == numbers[3][0] == first, "missed in one frame"
    left, right = numbers[1][1:]
    assert numbers[2].tolist() == [left, right]
    assert numbers[3][1:].tolist() == [left, right]
    assert parents == {left: second, right: second}
    assert sorted({first, second, left, right}) == [1, 2, 3, 4]


def test_cells_beyond_the_distance_are_others() -> None:
    numbers, parents = link_points([np.array([[0.0, 0.0]]), np.array([[0.0, 30.0]])], 10.0)
    assert [each.tolist() for each in numbers] == [[1], [2]]
    assert parents == {}


@pytest.mark.parametrize("counts", [[], [0], [0, 0], [2], [0, 2, 0]])
def test_movies_with_cells_in_one_frame_or_none(counts: list[int]) -> None:
    numbers, parents = link_points([np.arange(2.0 * n).reshape(n, 2) * 9 for n in counts], 5.0)
    assert [each.tolist() for each in numbers] == [list(range(1, n + 1)) for n in counts]
    assert parents == {}


def test_the_distance_follows_the_diameter() -> None:
    """Discs of 12 pixels move by 10 pixels, discs of 4 by less than that of others."""

    def disc(x: int, radius: int) -> np.ndarray:
        ys, xs = np.ogrid[:40, :90]
        return np.asarray(((ys - 20) ** 2 + (xs - x) ** 2 <= radius**2), np.int32)

    large = link_frames([made_result(disc(20, 6)), made_result(disc(30, 6))])
    small = link_frames([made_result(disc(20, 2)), made_result(disc(30, 2))])
    assert [each.tolist() for each in large.numbers] == [[1], [1]]
    assert [each.tolist() for each in small.numbers] == [[1], [2]]


def test_laptrack_is_named_if_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "laptrack", None)
    with pytest.raises(InputError, match=r"by the package laptrack.*pip install .*\[track\]'"):
        check_tracker()
