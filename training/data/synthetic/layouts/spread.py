"""Adherent cells in culture: spindles, ramified and polygonal cells, and round ones that divide or die."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.data.synthetic.fields import ellipse_radii, log_uniform, near, texture, wobble
from training.data.synthetic.layouts.places import draw_count, draw_places
from training.data.synthetic.scene import Canvas, Scene, Stamp, blob, roughened, stroke

F64 = NDArray[np.float64]


_AROUND = ((0.45, 0.0), (-0.45, 0.0), (0.0, 0.45), (0.0, -0.45))
"""Positions that nearly every spread cell covers, as shares of its radius, tested before its outline is computed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Habit:
    """Shares of shapes in one culture; the rest is polygonal."""

    spindle: float
    ramified: float
    rounded: float


def culture(
    rng: np.random.Generator,
    size_hw: tuple[int, int],
    diameter_px: float,
    *,
    coverage: tuple[float, float] = (0.06, 0.6),
    hidden: float = 0.15,
    max_cells: int = 200,
) -> Scene:
    """Place spread cells of one habit, sparse to nearly confluent."""
    canvas = Canvas(size_hw)
    number = draw_count(rng, size_hw, diameter_px, coverage, max_cells)
    parts = rng.dirichlet([0.6, 0.6, 0.6])
    habit = Habit(spindle=float(parts[0]), ramified=float(parts[1]), rounded=float(rng.uniform(0, 0.25)))
    covered = hidden * float(rng.random() < 0.5)
    direction, aligned = rng.uniform(0, np.pi), rng.choice([0.15, 0.6, 3.0])
    relief = np.float32(rng.uniform(0, min(2.5, 0.05 * diameter_px))) * texture(rng, size_hw, rng.uniform(5, 14), 2)
    edge = rng.uniform(0.3, 1.0)
    for y, x in draw_places(rng, size_hw, 5 * number // 2):
        if canvas.count >= number:
            break
        if canvas.taken(y, x):
            continue
        radius = diameter_px / 2 * near(rng, 0.22)
        angle = direction + aligned * rng.standard_normal()
        if rng.random() < habit.rounded:
            stamp = blob((y, x), 0.62 * radius * wobble(rng, 0.02)[0], size_hw)
            canvas.add(stamp, height=log_uniform(rng, 2.5, 12), gap_px=1.0)
            continue
        if not covered and any(canvas.taken(y + dy * radius, x + dx * radius) for dy, dx in _AROUND):
            continue
        stamp = _spread_cell((y, x), radius, angle, habit, rng, size_hw)
        stamp = roughened(stamp, relief)
        canvas.add(stamp, height=near(rng, 0.35), edge=edge, gap_px=1.0, hidden=covered)
    return canvas.scene(diameter_px)


def _spread_cell(
    centre_yx: tuple[float, float],
    radius: float,
    angle: float,
    habit: Habit,
    rng: np.random.Generator,
    size_hw: tuple[int, int],
) -> Stamp | None:
    """Return a spindle, a ramified or a polygonal cell of about the area of a disc."""
    kind = rng.random()
    if kind < habit.spindle:
        return _spindle(centre_yx, radius, angle, rng, size_hw)
    if kind < habit.spindle + habit.ramified:
        return _ramified(centre_yx, radius, angle, rng, size_hw)
    aspects = rng.uniform(1.0, 2.2, 1)
    outline = ellipse_radii(radius / np.sqrt(aspects), aspects, np.array([angle]))[0]
    return blob(centre_yx, outline * wobble(rng, rng.uniform(0.06, 0.2), orders=7)[0], size_hw)


def _spindle(
    centre_yx: tuple[float, float], radius: float, angle: float, rng: np.random.Generator, size_hw: tuple[int, int]
) -> Stamp | None:
    """Return a cell that is thick at its centre and drawn out to both sides, with a slight bend."""
    middle = radius * rng.uniform(0.42, 0.6)
    reach = radius**2 / middle * rng.uniform(1.2, 1.7, 2)
    thin = max(1.3, 0.08 * radius)
    turn = rng.normal(0, 0.25, 2)
    body = np.array([*centre_yx, middle])
    knots = []
    for side, (far, bent) in enumerate(zip(reach, turn, strict=True)):
        heading = angle + side * np.pi
        half = body[:2] + 0.5 * far * np.array([np.sin(heading), np.cos(heading)])
        tip = half + 0.5 * far * np.array([np.sin(heading + bent), np.cos(heading + bent)])
        knots.append((np.array([*half, middle * rng.uniform(0.35, 0.6)]), np.array([*tip, thin])))
    starts = np.array([body, knots[0][0], body, knots[1][0]])
    ends = np.array([knots[0][0], knots[0][1], knots[1][0], knots[1][1]])
    return stroke(starts, ends, 0.3 * radius, size_hw)


def _ramified(
    centre_yx: tuple[float, float], radius: float, angle: float, rng: np.random.Generator, size_hw: tuple[int, int]
) -> Stamp | None:
    """Return a body with two to six tapering processes joined by webs."""
    arms = int(rng.integers(2, 7))
    middle = radius * rng.uniform(0.5, 0.75)
    headings = angle + 2 * np.pi * (np.arange(arms) + rng.uniform(-0.3, 0.3, arms)) / arms
    starts, ends = [[*centre_yx, middle]], [[centre_yx[0] + 0.3, centre_yx[1], middle]]
    for heading in headings:
        far, bent = radius * rng.uniform(0.9, 2.1), rng.normal(0, 0.35)
        half = np.array(centre_yx) + 0.55 * far * np.array([np.sin(heading), np.cos(heading)])
        tip = half + 0.45 * far * np.array([np.sin(heading + bent), np.cos(heading + bent)])
        width = radius * rng.uniform(0.16, 0.4)
        starts += [[*centre_yx, middle * 0.8], [*half, width]]
        ends += [[*half, width], [*tip, max(1.3, width * rng.uniform(0.2, 0.8))]]
    return stroke(np.array(starts), np.array(ends), radius * rng.uniform(0.2, 0.6), size_hw)
