"""Links of cells over time, by laptrack: each cell of a movie becomes a track, and divisions link tracks.

Source: laptrack (github.com/yfukai/laptrack), linear assignment after Jaqaman et al. 2008 (doi:10.1038/nmeth.1237).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from runtime.errors import InputError
from runtime.extras import install_command
from runtime.results import Segmentation
from runtime.types import F64, I32

FURTHEST = 1.0
"""A cell moves at most this many median diameters from one frame to the next."""

LONGEST_GAP = 1
"""Frames in which a cell may be missed."""


class Tracks(NamedTuple):
    """The tracks of a movie."""

    numbers: list[I32]
    """For each frame, the track of each cell, (n,), from 1."""
    parents: dict[int, int]
    """The track of the mother cell, of tracks that begin with a division."""


def check_tracker() -> None:
    """Raise an ``InputError`` if laptrack is not installed."""
    _tracker_class()


def link_frames(results: Sequence[Segmentation]) -> Tracks:
    """Link the cells of the frames of a movie by the distance of their centroids.

    Args:
        results: the cells of each frame.

    Raises:
        InputError: laptrack is not installed.
    """
    cells = [_centroids(result) for result in results]
    areas = np.concatenate([result.table(shapes=False)["label_area_px"] for result in results])
    diameter = 2 * math.sqrt(float(np.median(areas)) / math.pi) if len(areas) else 1.0
    return link_points(cells, FURTHEST * diameter)


def link_points(points: Sequence[F64], furthest_px: float) -> Tracks:
    """Link the points of the frames of a movie.

    Args:
        points: (n, 2) of each frame.
        furthest_px: the largest distance between linked points of neighbouring frames.

    Raises:
        InputError: laptrack is not installed.
    """
    numbers = [np.zeros(len(each), np.int32) for each in points]
    parents: dict[int, int] = {}
    # laptrack needs points in two frames.
    if sum(bool(len(each)) for each in points) < 2:
        for each in numbers:
            each[:] = np.arange(1, len(each) + 1)
        return Tracks(numbers, parents)
    cutoff = furthest_px**2
    tracker = _tracker_class()(
        metric="sqeuclidean",
        cutoff=cutoff,
        gap_closing_cutoff=cutoff,
        gap_closing_max_frame_count=LONGEST_GAP + 1,
        alternative_cost_percentile=100,
        splitting_cutoff=cutoff,
        merging_cutoff=False,
    )
    tree = tracker.predict(points)
    count = 0
    for frame, each in enumerate(numbers):
        for place in range(len(each)):
            before = list(tree.predecessors((frame, place))) if (frame, place) in tree else []
            if before and tree.out_degree(before[0]) == 1:
                each[place] = numbers[before[0][0]][before[0][1]]
                continue
            count += 1
            each[place] = count
            if before:
                parents[count] = int(numbers[before[0][0]][before[0][1]])
    return Tracks(numbers, parents)


def _centroids(result: Segmentation) -> F64:
    table = result.table(shapes=False)
    return np.stack([table["centroid_y"], table["centroid_x"]], axis=1)


def _tracker_class() -> Any:
    try:
        from laptrack import LapTrack
    except ImportError as error:
        raise InputError(
            f"cells are linked over time by the package laptrack, which cannot be imported ({error}); expected it, or "
            f"unlinked=True. Install it: {install_command('track')}.",
            kind="not_installed",
            field="unlinked",
        ) from error
    return LapTrack
