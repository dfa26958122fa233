"""Rod-shaped bacteria: single, in colonies of parallel rods, as filaments, and in the channels of a mother machine.

The diameter of a rod is that of a disc of equal area, as for all cells.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.data.synthetic.fields import near
from training.data.synthetic.layouts.places import draw_count, draw_places
from training.data.synthetic.scene import Canvas, Scene, Stamp, scene_of, stroke

F64 = NDArray[np.float64]


def rod_radius(diameter_px: float, ratio: float) -> float:
    """Return the radius of a rod ``ratio`` times as long as wide with the area of a disc."""
    return float(diameter_px / 2 * np.sqrt(np.pi / (np.pi + 4 * (ratio - 1))))


def rod(
    centre_yx: tuple[float, float],
    length_px: float,
    radius_px: float,
    angle: float,
    bend: float,
    size_hw: tuple[int, int],
) -> Stamp | None:
    """Return a capsule bent into an arc of ``bend`` radians; the sign gives the direction."""
    if abs(bend) < 0.05:
        half = max(length_px / 2 - radius_px, 0.0)
        dy, dx = half * np.sin(angle), half * np.cos(angle)
        starts = np.array([[centre_yx[0] - dy, centre_yx[1] - dx, radius_px]])
        return stroke(starts, np.array([[centre_yx[0] + dy, centre_yx[1] + dx, radius_px]]), 0.0, size_hw)
    pieces = 5
    along = np.linspace(-0.5, 0.5, pieces + 1)
    inner = max(length_px - 2 * radius_px, 0.0)
    headings = angle + bend * (along[1:] + along[:-1]) / 2
    steps = inner / pieces * np.stack((np.sin(headings), np.cos(headings)), axis=1)
    points = np.concatenate((np.zeros((1, 2)), np.cumsum(steps, axis=0)))
    points += np.array(centre_yx) - points.mean(axis=0)
    ends = np.concatenate((points, np.full((pieces + 1, 1), radius_px)), axis=1)
    return stroke(ends[:-1], ends[1:], 0.0, size_hw)


def scattered_rods(
    rng: np.random.Generator,
    size_hw: tuple[int, int],
    diameter_px: float,
    *,
    ratio: tuple[float, float] = (1.6, 6.0),
    bend: float = 0.4,
    max_cells: int = 600,
) -> Scene:
    """Place rods at random angles, some in dividing pairs or chains, and colonies of parallel rods."""
    canvas = Canvas(size_hw)
    number = draw_count(rng, size_hw, diameter_px, (0.02, 0.35), max_cells)
    mean_ratio, bent = rng.uniform(*ratio), bend * rng.random() ** 2
    radius = rod_radius(diameter_px, mean_ratio)
    colonies = int(rng.integers(1, 6)) if rng.random() < 0.6 else 0
    for centre in draw_places(rng, size_hw, colonies) if colonies else ():
        share = int(number * rng.uniform(0.5, 1.0) / colonies)
        _fill_colony(canvas, rng, centre, share, (radius, mean_ratio))
    chained = rng.random() < 0.3
    for y, x in draw_places(rng, size_hw, 2 * number):
        if canvas.count >= number:
            break
        angle, links = rng.uniform(0, np.pi), int(rng.integers(1, 6)) if chained else 1
        for _ in range(links):
            if canvas.taken(y, x):
                break
            length = 2 * radius * mean_ratio * near(rng, 0.25)
            stamp = rod((y, x), length, radius, angle, bent * rng.standard_normal(), size_hw)
            if not canvas.add(stamp, gap_px=0.0):
                break
            y, x = y + (length + 0.5) * np.sin(angle), x + (length + 0.5) * np.cos(angle)
            angle += 0.12 * rng.standard_normal()
    return canvas.scene(diameter_px)


def _fill_colony(canvas: Canvas, rng: np.random.Generator, centre: F64, number: int, size: tuple[float, float]) -> None:
    """Place rods end to end in adjacent lanes, in domains with one direction each."""
    radius, mean_ratio = size
    area = number * 4 * radius**2 * mean_ratio * 1.25
    spread = np.sqrt(area / np.pi)
    placed = canvas.count
    for _ in range(max(1, int(number / rng.uniform(12, 60)))):
        middle = centre + spread * 0.7 * rng.standard_normal(2)
        angle, curve = rng.uniform(0, np.pi), rng.normal(0, 0.25) / max(spread, 1)
        lanes = int(max(1, spread / (2 * radius) * rng.uniform(0.4, 1.0)))
        for lane in sorted(range(-lanes, lanes + 1), key=abs):
            across = lane * 2 * radius * 1.04
            width = spread * np.sqrt(max(0.0, 1 - (lane / (lanes + 1)) ** 2))
            along = -width + rng.uniform(-1, 1) * radius * mean_ratio
            while along < width and canvas.count - placed < number:
                length = 2 * radius * mean_ratio * near(rng, 0.22)
                u = along + length / 2
                heading = angle + curve * u + 0.05 * rng.standard_normal()
                v = across + curve * u * u / 2
                y = middle[0] + u * np.sin(angle) + v * np.cos(angle)
                x = middle[1] + u * np.cos(angle) - v * np.sin(angle)
                if not canvas.taken(y, x):
                    canvas.add(rod((y, x), length, radius * 0.98, heading, 0.0, canvas.size_hw), gap_px=-0.4)
                along += length + rng.uniform(0, 0.6) * radius


def filaments(rng: np.random.Generator, size_hw: tuple[int, int], diameter_px: float) -> Scene:
    """Place long, winding bacteria that cross each other."""
    canvas = Canvas(size_hw)
    ratio = rng.uniform(8, 22)
    radius = max(rod_radius(diameter_px, ratio), 1.6)
    number = draw_count(rng, size_hw, diameter_px, (0.02, 0.15), 150)
    for y, x in draw_places(rng, size_hw, 2 * number):
        if canvas.count >= number:
            break
        if canvas.taken(y, x):
            continue
        length = 2 * radius * ratio * near(rng, 0.35)
        headings = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, rng.uniform(0.05, 0.45), 10))
        steps = length / 10 * np.stack((np.sin(headings), np.cos(headings)), axis=1)
        points = np.array([y, x]) + np.concatenate((np.zeros((1, 2)), np.cumsum(steps, axis=0)))
        ends = np.concatenate((points, np.full((11, 1), radius)), axis=1)
        canvas.add(stroke(ends[:-1], ends[1:], 0.0, size_hw), gap_px=0.5)
    return canvas.scene(diameter_px)


def mother_machine(rng: np.random.Generator, size_hw: tuple[int, int], diameter_px: float) -> Scene:
    """Place rods end to end in parallel channels that open into a trench."""
    canvas = Canvas(size_hw)
    mean_ratio = rng.uniform(2.2, 4.0)
    radius = rod_radius(diameter_px, mean_ratio)
    pitch = 2 * radius * rng.uniform(2.2, 5.0)
    length, clearance = rng.uniform(0.35, 0.6) * size_hw[0], radius * rng.uniform(1.1, 1.4)
    top, upside_down = rng.uniform(0.1, 0.3) * size_hw[0], rng.random() < 0.5
    walls = np.ones(size_hw, np.float32)
    y, x = np.mgrid[: size_hw[0], : size_hw[1]].astype(np.float32)
    for centre in np.arange(rng.uniform(0, pitch), size_hw[1], pitch):
        walls[(np.abs(x - centre) < clearance) & (y > top) & (y < top + length)] = 0
        place = top + radius * 0.3
        occupied = length * rng.choice([0.0, 0.6, 1.0], p=[0.1, 0.2, 0.7]) * rng.uniform(0.7, 1.0)
        while place < top + occupied:
            size = 2 * radius * mean_ratio * near(rng, 0.22)
            middle = (place + size / 2, centre + rng.normal(0, 0.1) * radius)
            stamp = rod(middle, size, radius, np.pi / 2 + 0.02 * rng.standard_normal(), 0.0, size_hw)
            canvas.add(stamp, gap_px=-0.4)
            place += size + rng.uniform(0.2, 0.8)
    walls[y >= top + length] = 0
    labels, thickness = canvas.labels, canvas.thickness
    if upside_down:
        labels, thickness, walls = labels[::-1].copy(), thickness[::-1].copy(), walls[::-1].copy()
    return scene_of(labels, thickness, diameter_px, walls)
