"""Tests of the links between neighbouring planes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from runtime.ops.link_planes import link_planes, match_cells
from runtime.ops.masks import relabel

planes = st.lists(arrays(np.int32, (6, 7), elements=st.integers(0, 3)).map(lambda a: relabel(a, 3)[0]), max_size=4)


def test_a_cell_keeps_its_number_through_the_planes() -> None:
    stack = np.zeros((4, 20, 20), np.int32)
    for z in range(4):
        stack[z, 2:10, 2 + z : 10 + z] = 1
    stack[1, 12:18, 12:18] = stack[2, 12:18, 12:18] = 2
    numbers = link_planes(list(stack))
    assert [each.tolist() for each in numbers] == [[1], [1, 2], [1, 2], [1]]
    assert [each.tolist() for each in link_planes(list(stack), least_iou=0.9)] == [[1], [2, 3], [4, 3], [5]]


def test_the_better_overlap_wins() -> None:
    one, other = np.zeros((2, 10, 20), np.int32)
    one[:, :12] = 1
    one[:, 12:] = 2
    other[:, :10] = 1
    other[:, 10:14] = 2
    assert [each.tolist() for each in match_cells(one, other, 0.2)] == [[1, 2], [1, 2]]
    assert [each.tolist() for each in match_cells(one, other, 0.8)] == [[1], [1]]


@given(planes)
def test_numbers_have_no_gaps_and_links_overlap(stack: Any) -> None:
    numbers = link_planes(stack, least_iou=0.3)
    assert [len(each) for each in numbers] == [plane.max() for plane in stack]
    every = np.unique(np.concatenate([np.zeros(0, np.int32), *numbers]))
    np.testing.assert_array_equal(every, np.arange(1, len(every) + 1))
    for each in numbers:
        assert len(np.unique(each)) == len(each), "cells of one plane have different numbers"
    for (above, below), (first, second) in zip(pairwise(stack), pairwise(numbers), strict=True):
        for label, number in enumerate(first, start=1):
            for other in np.flatnonzero(second == number) + 1:
                one, two = above == label, below == other
                assert (one & two).sum() / (one | two).sum() >= 0.3
