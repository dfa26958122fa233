"""Unstained cells in transmitted light: phase objects and the microscopes that image them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from runtime.types import F32
from training.data.synthetic.camera import Stored, expose
from training.data.synthetic.fields import log_uniform, smooth_field, texture
from training.data.synthetic.optics import PhaseOptics, blurred, bright_field, interference_contrast, phase_contrast
from training.data.synthetic.render.clutter import debris, dust, illumination, posts, spots_in
from training.data.synthetic.render.fluorescence import nucleus_distance
from training.data.synthetic.scene import Scene

ELECTRONS = (1500.0, 40000.0)
FILL = (0.5, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Body:
    """Ranges of the optical properties of one kind of cells; phases in radians."""

    phase: tuple[float, float]
    """Phase shift by the centre of a cell of height 1."""
    spread: float = 0.12
    """Standard deviation of the logarithm of the shift between cells."""
    nucleus: tuple[float, float] = (0.0, 0.0)
    """Additional shift by the nucleus."""
    grain: tuple[float, float] = (0.0, 0.1)
    """Standard deviation of the shift by organelles, as a share of ``phase``."""
    vesicles: tuple[float, float] = (0.0, 0.0)
    """Share of the cells' pixels with a vesicle or granule."""
    absorption: tuple[float, float] = (0.0, 0.03)
    rim: tuple[float, float] = (0.0, 0.0)
    """Additional shift by a wall or membrane at the outline, as a share of ``phase``."""


MAMMALIAN = Body(
    phase=(0.12, 0.9), spread=0.25, nucleus=(0.03, 0.4), grain=(0.05, 0.35), vesicles=(0.001, 0.015), rim=(0.0, 0.6)
)
MONOLAYER = replace(MAMMALIAN, phase=(0.2, 0.8), spread=0.2, grain=(0.03, 0.15), rim=(0.2, 0.9))
"""Properties of cells in a monolayer. Only their rims separate such cells, so organelles must not hide the rims."""
BACTERIA = Body(phase=(0.6, 1.5), grain=(0.0, 0.08))
YEAST = Body(phase=(1.0, 3.5), nucleus=(-0.6, 0.5), grain=(0.02, 0.12), vesicles=(0.0, 0.006), rim=(0.0, 0.5))


def positive_phase(scene: Scene, rng: np.random.Generator, *, body: Body) -> Stored:
    """Render positive phase contrast: dark on gray, with a bright halo."""
    return _phase(scene, rng, body, positive=True)


def negative_phase(scene: Scene, rng: np.random.Generator, *, body: Body) -> Stored:
    """Render negative phase contrast: bright on gray, with a dark halo."""
    return _phase(scene, rng, body, positive=False)


def focus_series(scene: Scene, rng: np.random.Generator, *, body: Body) -> Stored:
    """Render bright field at a random focus: bright or dark rims, fringes, or hardly any contrast."""
    phase, absorption = object_of(scene, rng, body)
    # Fringes as wide as a cell would hide its outline.
    farthest = float(np.clip(0.04 * scene.diameter_px**2, 5.0, 60.0))
    defocus = float(rng.choice([-1, 1])) * log_uniform(rng, 2.0, farthest)
    light = bright_field(phase, absorption, defocus, float(rng.uniform(0.02, 0.08)), log_uniform(rng, 0.6, 1.4))
    return _record(light, rng)


def relief(scene: Scene, rng: np.random.Generator, *, body: Body) -> Stored:
    """Render differential interference contrast: a relief lit from one side."""
    phase, _ = object_of(scene, rng, body)
    angle = float(rng.choice([np.pi / 4, -np.pi / 4])) if rng.random() < 0.7 else rng.uniform(0, 2 * np.pi)
    angle += np.pi * float(rng.integers(2))
    length = rng.uniform(0.8, 2.5)
    shear = (length * np.sin(angle), length * np.cos(angle))
    light = interference_contrast(phase, shear, rng.uniform(0.5, 1.5), log_uniform(rng, 0.6, 1.3))
    return _record(light / np.float32(np.median(light[::4, ::4]) + 1e-6), rng)


def phase_map(scene: Scene, rng: np.random.Generator, *, body: Body) -> Stored:
    """Render quantitative phase: brightness shows thickness, on a dark background with slow waves."""
    phase, _ = object_of(scene, rng, body)
    waves = np.float32(rng.uniform(0.01, 0.08)) * smooth_field(rng, scene.size_hw, 90)
    light = np.clip(blurred(phase, log_uniform(rng, 0.7, 1.8)) + waves + np.float32(0.15), 0, None)
    return expose(light, rng, electrons=ELECTRONS, fill=(0.7, 1.0))


def object_of(scene: Scene, rng: np.random.Generator, body: Body) -> tuple[F32, F32]:
    """Return the phase shift and the amplitude absorption of a field, both (H, W)."""
    inside = scene.inside
    middle = np.float32(log_uniform(rng, *body.phase))
    per_cell = scene.per_cell(np.exp(body.spread * np.clip(rng.standard_normal(scene.count), -2, 2)))
    phase = middle * scene.thickness * np.where(inside, per_cell, 1)
    if body.nucleus != (0.0, 0.0):
        nucleus = nucleus_distance(scene, rng)
        dome = np.sqrt(np.clip(nucleus / np.float32(0.2 * scene.diameter_px), 0, 1))
        phase = phase + np.float32(rng.uniform(*body.nucleus)) * dome
        bodies = spots_in(nucleus > 2, rng, 4e-3, max(1.0, 0.035 * scene.diameter_px), 0.35 * float(middle))
        phase = phase + bodies
    grain = np.float32(rng.uniform(*body.grain)) * middle
    if grain > 0:
        edge = np.clip(scene.depth / np.float32(3), 0, 1) * inside
        phase = phase + grain * edge * texture(rng, scene.size_hw, max(2.5, scene.diameter_px / rng.uniform(5, 12)), 3)
    vesicles = rng.uniform(*body.vesicles)
    if vesicles > 0:
        sign = float(rng.choice([-1, 1, 1]))
        deep = (scene.thickness > 0.7) & (scene.depth > 2)
        phase = phase + sign * spots_in(deep, rng, vesicles, rng.uniform(0.8, 1.4), 0.5 * float(middle))
    rim = np.float32(rng.uniform(*body.rim)) * middle
    if rim > 0:
        phase = phase + rim * np.exp(-((scene.depth / np.float32(1.5)) ** 2)) * inside
    absorption = np.float32(rng.uniform(*body.absorption)) * np.clip(scene.thickness, 0, 2)
    phase = phase + _surroundings(scene, rng, float(middle))
    return phase.astype(np.float32), absorption.astype(np.float32)


def _surroundings(scene: Scene, rng: np.random.Generator, middle: float) -> F32:
    """Return the phase shift by specks, structures and an uneven background."""
    size = (1.5, max(2.5, 0.22 * scene.diameter_px))
    out = np.float32(middle * rng.uniform(0.2, 0.8)) * debris(rng, scene.size_hw, 120, size)
    if rng.random() < 0.3:
        out = out + np.float32(0.06 * middle * rng.random()) * texture(rng, scene.size_hw, 9, 3)
    if scene.walls is not None:
        out = out + np.float32(rng.choice([-1, 1]) * rng.uniform(0.1, 0.9)) * scene.walls
    elif rng.random() < 0.08:
        out = out + np.float32(rng.uniform(0.5, 2.0)) * posts(rng, scene.size_hw, scene.labels == 0)
    return out.astype(np.float32)


def _phase(scene: Scene, rng: np.random.Generator, body: Body, *, positive: bool) -> Stored:
    phase, absorption = object_of(scene, rng, body)
    optics = PhaseOptics(
        positive=positive,
        ring_px=float(np.clip(scene.diameter_px * rng.uniform(0.08, 0.3), 2.0, 12)),
        transmission=float(rng.uniform(0.35, 0.75)),
        sigma_px=log_uniform(rng, 0.55, 1.3),
    )
    return _record(phase_contrast(phase, absorption, optics), rng)


def _record(light: F32, rng: np.random.Generator) -> Stored:
    """Expose a transmitted-light image with a background of 1."""
    field = illumination(rng, (light.shape[0], light.shape[1]), 0.25)
    if rng.random() < 0.25:
        field = field * dust(rng, (light.shape[0], light.shape[1]))
    brightest = np.float32(rng.uniform(2.2, 4.0))  # brighter pixels saturate, as halos do
    return expose(np.minimum(light, brightest) * field, rng, electrons=ELECTRONS, fill=FILL)
