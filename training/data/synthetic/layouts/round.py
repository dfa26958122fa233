"""Round and elliptical cells: nuclei, cells in suspension, yeast, cocci."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from training.data.synthetic.fields import ellipse_radii, near, wobble
from training.data.synthetic.layouts.places import draw_count, draw_places
from training.data.synthetic.scene import Canvas, Scene, blob

F64 = NDArray[np.float64]


def scattered(
    rng: np.random.Generator,
    size_hw: tuple[int, int],
    diameter_px: float,
    *,
    coverage: tuple[float, float] = (0.02, 0.45),
    aspect: tuple[float, float] = (1.0, 1.9),
    roughness: tuple[float, float] = (0.01, 0.09),
    hidden: float = 0.25,
    edge: float = 1.0,
    max_cells: int = 500,
) -> Scene:
    """Place ellipses with uneven outlines: isolated, touching and overlapping.

    Args:
        rng: source of all randomness.
        size_hw: size of the field (height, width), pixels.
        diameter_px: median diameter.
        coverage: range of the share of the field that cells cover.
        aspect: range of the ratio of long to short axis; each image uses a part of it.
        roughness: range of the unevenness of outlines.
        hidden: largest share of a cell below others.
        edge: edge of the thickness, as in ``Canvas.add``.
        max_cells: largest number of cells in 512 x 512 pixels.
    """
    canvas = Canvas(size_hw)
    number = draw_count(rng, size_hw, diameter_px, coverage, max_cells)
    places = draw_places(rng, size_hw, 3 * number)
    spread, longest = rng.uniform(0.05, 0.3), rng.uniform(aspect[0], aspect[1])
    sizes = diameter_px / 2 * np.exp(spread * np.clip(rng.standard_normal(len(places)), -2, 2))
    aspects = rng.uniform(aspect[0], longest + 0.15, len(places))
    radii = ellipse_radii(sizes / np.sqrt(aspects), aspects, rng.uniform(0, np.pi, len(places)))
    radii *= wobble(rng, rng.uniform(*roughness), count=len(places))
    heights = np.exp(0.2 * rng.standard_normal(len(places)))
    gap, covered = rng.choice([-0.5, 0.5, 2.0]), hidden * float(rng.random() < 0.6)
    for place, outline, height in zip(places, radii, heights, strict=True):
        if canvas.count >= number:
            break
        if canvas.taken(*place):
            continue
        stamp = blob((place[0], place[1]), outline, size_hw)
        canvas.add(stamp, height=float(height), edge=edge, gap_px=float(gap), hidden=covered)
    return canvas.scene(diameter_px)


_OUTLINES = 64
"""Number of yeast shapes in one image; each cell has one of them at its own size."""

_WITHIN = tuple((0.75 * math.sin(angle), 0.75 * math.cos(angle)) for angle in np.arange(0, 2 * np.pi, np.pi / 4))
"""Positions inside every yeast cell, as shares of its radius, tested before its outline is computed."""


def budding(
    rng: np.random.Generator,
    size_hw: tuple[int, int],
    diameter_px: float,
    *,
    coverage: tuple[float, float] = (0.03, 0.5),
    max_cells: int = 400,
) -> Scene:
    """Place yeast: colonies of touching, nearly round cells, some with a bud."""
    canvas = Canvas(size_hw)
    number = draw_count(rng, size_hw, diameter_px, coverage, max_cells)
    seeds = draw_places(rng, size_hw, max(1, int(number * rng.uniform(0.03, 0.7))))
    longest, buds = rng.uniform(1.05, 1.35), rng.uniform(0.05, 0.4)
    placed: list[tuple[float, float, float]] = []
    aspects = rng.uniform(1, longest, _OUTLINES)
    outlines = ellipse_radii(1 / np.sqrt(aspects), aspects, rng.uniform(0, np.pi, _OUTLINES))
    outlines *= wobble(rng, 0.015, orders=4, count=_OUTLINES)

    def add(cy: float, cx: float, radius: float) -> bool:
        if any(canvas.taken(cy + dy * radius, cx + dx * radius) for dy, dx in _WITHIN):
            return False
        outline = radius * outlines[int(rng.integers(_OUTLINES))]
        kept = canvas.add(blob((cy, cx), outline, size_hw), height=radius / diameter_px * 2, gap_px=-0.7)
        if kept:
            placed.append((cy, cx, radius))
        return kept

    def size() -> float:
        return diameter_px / 2 * near(rng, 0.13)

    for seed in seeds:
        add(seed[0], seed[1], size())
    for _ in range(6 * number):
        if canvas.count >= number or not placed:
            break
        my, mx, mother = placed[int(rng.integers(len(placed)))]
        radius = size() * (rng.uniform(0.35, 0.7) if rng.random() < buds else 1.0)
        angle = rng.uniform(0, 2 * np.pi)
        reach = (mother + radius) * rng.uniform(0.97, 1.1)
        add(my + reach * math.sin(angle), mx + reach * math.cos(angle), radius)
    return canvas.scene(diameter_px)


def cocci(rng: np.random.Generator, size_hw: tuple[int, int], diameter_px: float, *, max_cells: int = 500) -> Scene:
    """Place round bacteria in pairs, chains or grape-like clusters."""
    canvas = Canvas(size_hw)
    number = draw_count(rng, size_hw, diameter_px, (0.02, 0.25), max_cells)
    bend = rng.choice([0.25, 0.6, 3.0])
    longest = int(rng.integers(2, 20))
    for start in draw_places(rng, size_hw, number):
        if canvas.count >= number:
            break
        y, x, angle = start[0], start[1], rng.uniform(0, 2 * np.pi)
        for _ in range(int(rng.integers(1, longest + 1))):
            radius = diameter_px / 2 * near(rng, 0.08)
            aspects = rng.uniform(1.0, 1.25, 1)
            outline = ellipse_radii(radius / np.sqrt(aspects), aspects, np.array([angle]))[0]
            if not canvas.add(blob((y, x), outline, size_hw), gap_px=-0.6) and bend < 1:
                break
            angle += bend * rng.standard_normal()
            y, x = y + 1.95 * radius * np.sin(angle), x + 1.95 * radius * np.cos(angle)
    return canvas.scene(diameter_px)
