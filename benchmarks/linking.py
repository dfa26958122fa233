"""Share of correct links of ``segment --planes``, on made movies and stacks whose links are known.

    python -m benchmarks.linking

Cells of a movie walk at random, divide, leave, and are missed in some frames; their centroids are linked over time.
Cells of a stack are balls that may not overlap; their label maps are linked over z.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import write_record
from runtime.jobs.tracking import FURTHEST, LONGEST_GAP, Tracks, link_points
from runtime.ops.link_planes import LEAST_IOU, link_planes
from runtime.types import F64, I32

DIAMETER_PX = 20.0
SIDE_PX = 400
BEGIN_CELLS = 80
FRAMES = 30
DIVISIONS = 0.01
"""Share of the cells that divide from one frame to the next."""

Link = tuple[tuple[int, int], tuple[int, int]]
"""Frame and place of two cells."""


@dataclass(frozen=True, slots=True)
class Movie:
    """The cells of a made movie."""

    points: list[F64]
    """Centroids of each frame, (n, 2) yx."""
    links: set[Link]
    """True links, across gaps of up to ``LONGEST_GAP`` frames."""


def made_movie(step: float, missed: float, seed: int) -> Movie:
    """Make a movie.

    Args:
        step: standard deviation of a cell's way from one frame to the next, in diameters.
        missed: share of the cells that are missed in a frame.
        seed: seed of the random numbers.
    """
    rng = np.random.default_rng(seed)
    cells = dict(enumerate(_apart(rng, BEGIN_CELLS, 2)))
    mothers: dict[int, int] = {}
    seen: dict[int, tuple[int, int]] = {}
    points: list[F64] = []
    links: set[Link] = set()
    following = BEGIN_CELLS
    for frame in range(FRAMES):
        shown: list[F64] = []
        for number, place in cells.items():
            if rng.random() < missed:
                continue
            here = (frame, len(shown))
            before = seen.get(number, seen.get(mothers.get(number, -1)))
            if before is not None and frame - before[0] <= 1 + LONGEST_GAP:
                links.add((before, here))
            seen[number] = here
            shown.append(place)
        points.append(np.array(shown).reshape(-1, 2))
        moved: dict[int, F64] = {}
        for number, place in cells.items():
            place = place + rng.normal(0, step * DIAMETER_PX, 2) / math.sqrt(2)
            if rng.random() < DIVISIONS:
                away = rng.normal(size=2)
                away *= DIAMETER_PX / 2 / np.linalg.norm(away)
                moved |= {following: place + away, following + 1: place - away}
                mothers |= {following: number, following + 1: number}
                following += 2
            elif ((place > 0) & (place < SIDE_PX)).all():
                moved[number] = place
        cells = _pushed_apart(moved)
    return Movie(points, links)


def _apart(rng: np.random.Generator, count: int, axes: int, side: float = SIDE_PX) -> list[F64]:
    """Draw points at least a diameter apart."""
    found: list[F64] = []
    while len(found) < count:
        point = rng.uniform(0, side, axes)
        if all(np.linalg.norm(point - other) >= DIAMETER_PX for other in found):
            found.append(point)
    return found


def _pushed_apart(cells: dict[int, F64]) -> dict[int, F64]:
    """Move cells that overlap by more than a fifth of their diameter away from each other."""
    numbers, places = list(cells), np.array(list(cells.values())).reshape(-1, 2)
    for _ in range(10):
        between = places[:, None] - places[None]
        distance = np.linalg.norm(between, axis=2) + 1e-9
        lacking = np.clip(0.8 * DIAMETER_PX - distance, 0, None)
        np.fill_diagonal(lacking, 0)
        places = places + (between / distance[..., None] * lacking[..., None] / 2).sum(axis=1)
    return dict(zip(numbers, places, strict=True))


def links_of(tracks: Tracks) -> set[Link]:
    """Return the links of tracks."""
    places: dict[int, list[tuple[int, int]]] = {}
    for frame, numbers in enumerate(tracks.numbers):
        for place, number in enumerate(numbers.tolist()):
            places.setdefault(number, []).append((frame, place))
    found = {link for each in places.values() for link in pairwise(each)}
    for child, parent in tracks.parents.items():
        found.add(([one for one in places[parent] if one[0] < places[child][0][0]][-1], places[child][0]))
    return found


@dataclass(frozen=True, slots=True)
class Score:
    """Agreement of links with the true ones."""

    true: int
    found: int
    correct: int

    @property
    def shares(self) -> dict[str, float]:
        """Share of the true links that were found, and of the found links that are true."""
        return {"recall": round(self.correct / self.true, 4), "precision": round(self.correct / self.found, 4)}


def score_movies(step: float, missed: float, seeds: int) -> dict[str, Any]:
    """Link made movies; return the figures."""
    total = Score(0, 0, 0)
    for seed in range(seeds):
        movie = made_movie(step, missed, seed)
        found = links_of(link_points(movie.points, FURTHEST * DIAMETER_PX))
        total = Score(total.true + len(movie.links), total.found + len(found), total.correct + len(movie.links & found))
    return {"step_diameters": step, "missed": missed, **asdict(total), **total.shares}


def made_stack(planes_per_cell: int, seed: int) -> list[I32]:
    """Make the label maps of the planes of a stack of balls; balls keep their labels in all planes."""
    rng = np.random.default_rng(seed)
    centres = _apart(rng, BEGIN_CELLS, 3, side=SIDE_PX / 2)
    spacing = DIAMETER_PX / planes_per_cell
    ys, xs = np.ogrid[: SIDE_PX // 2, : SIDE_PX // 2]
    planes = []
    for depth in np.arange(0, SIDE_PX / 2, spacing):
        labels = np.zeros((SIDE_PX // 2, SIDE_PX // 2), np.int32)
        for number, (z, y, x) in enumerate(centres, start=1):
            labels[(ys - y) ** 2 + (xs - x) ** 2 + (depth - z) ** 2 < (DIAMETER_PX / 2) ** 2] = number
        planes.append(labels)
    return planes


def score_stacks(planes_per_cell: int, seeds: int) -> dict[str, Any]:
    """Link made stacks; return the figures."""
    true = found = correct = 0
    for seed in range(seeds):
        truth = made_stack(planes_per_cell, seed)
        names = [np.unique(plane[plane > 0]) for plane in truth]
        dense = [np.searchsorted(name, plane).astype(np.int32) + 1 for name, plane in zip(names, truth, strict=True)]
        dense = [
            np.where(plane > 0, numbered, 0).astype(np.int32) for plane, numbered in zip(truth, dense, strict=True)
        ]
        wanted, linked = set(_neighbours(names)), set(_neighbours(link_planes(dense)))
        true, found, correct = true + len(wanted), found + len(linked), correct + len(wanted & linked)
    total = Score(true, found, correct)
    return {"planes_per_cell": planes_per_cell, **asdict(total), **total.shares}


def _neighbours(numbers: list[I32]) -> Iterator[tuple[int, int, int]]:
    """Yield plane and places of cells of neighbouring planes that have the same number."""
    for plane, (one, other) in enumerate(pairwise(numbers)):
        for place, number in enumerate(one.tolist()):
            for found in np.flatnonzero(other == number).tolist():
                yield plane, place, found


def main() -> None:
    """Measure the links and write a record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="movies and stacks of each case")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    given = parser.parse_args()
    movies = [score_movies(step, missed, given.seeds) for step in (0.1, 0.25, 0.5) for missed in (0.0, 0.05)]
    stacks = [score_stacks(planes, given.seeds) for planes in (4, 8, 16)]
    settings = {"furthest_diameters": FURTHEST, "longest_gap": LONGEST_GAP, "least_iou": LEAST_IOU}
    made = {"frames": FRAMES, "cells": BEGIN_CELLS, "divisions": DIVISIONS, "seeds": given.seeds}
    path = write_record(given.out, "linking", {"settings": settings, "made": made, "movies": movies, "stacks": stacks})
    print(json.dumps({"movies": movies, "stacks": stacks}, indent=1))  # noqa: T201
    print(path)  # noqa: T201


if __name__ == "__main__":
    main()
