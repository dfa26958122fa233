"""Fluorescent cells: emission, point spread function, and light from other planes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from runtime.types import F32
from training.data.synthetic import kernels
from training.data.synthetic.camera import Stored, expose
from training.data.synthetic.fields import ellipse_radii, log_uniform, smooth_field, texture, wobble
from training.data.synthetic.optics import blurred
from training.data.synthetic.render.clutter import debris, illumination, spots_in
from training.data.synthetic.scene import Scene

F64 = NDArray[np.float64]

ELECTRONS = (60.0, 8000.0)
FILL = (0.35, 1.0)


def nuclei(scene: Scene, rng: np.random.Generator) -> Stored:
    """Render stained nuclei on a dark background."""
    emission = _chromatin(scene.thickness, scene, rng)
    light = _microscope(emission, scene.diameter_px, rng)
    return expose(light, rng, electrons=ELECTRONS, fill=FILL)


def cytoplasm(scene: Scene, rng: np.random.Generator) -> Stored:
    """Render one channel: cells filled or outlined by their stain, with a bright, dark or invisible nucleus."""
    nucleus = nucleus_distance(scene, rng)
    emission = _cell_stain(scene, rng) * np.where(nucleus > 0, np.float32(rng.choice([0.3, 0.6, 1.0, 1.8])), 1)
    light = _microscope(emission.astype(np.float32), scene.diameter_px, rng)
    return expose(light, rng, electrons=ELECTRONS, fill=FILL)


def nuclear_and_cell(scene: Scene, rng: np.random.Generator) -> Stored:
    """Render two channels, nuclear and whole-cell, of cells in culture."""
    nucleus = nucleus_distance(scene, rng)
    nuclear = _chromatin(np.clip(nucleus / 3, 0, 1), scene, rng)
    cell = _cell_stain(scene, rng) * np.where(nucleus > 0, np.float32(rng.uniform(0.3, 1.1)), 1)
    planes = [_microscope(part.astype(np.float32), scene.diameter_px, rng) for part in (nuclear, cell)]
    return expose(np.stack(planes, axis=-1), rng, electrons=ELECTRONS, fill=FILL)


def tissue(scene: Scene, rng: np.random.Generator) -> Stored:
    """Render two channels, nuclear and membrane or cytoplasm, of a section in multiplexed imaging.

    The section is thin: some cells show no nucleus, some nuclei show little membrane, and pieces of cells from other
    planes shine through.
    """
    nucleus = nucleus_distance(scene, rng, share=(0.5, 0.9), present=(0.75, 1.0), aspect=(1.0, 1.8))
    envelope = 1 + np.float32(rng.uniform(0, 1.2)) * np.exp(-((nucleus / np.float32(1.8)) ** 2))
    nuclear = _chromatin(np.clip(nucleus / 2.5, 0, 1) * envelope, scene, rng)
    width = log_uniform(rng, 0.8, 2.5)
    membrane = np.exp(-((scene.depth / np.float32(width)) ** 2)) * scene.inside
    filled = np.float32(rng.uniform(0.0, 0.8) * float(rng.random() < 0.8))
    stain = membrane + filled * (nucleus <= 0) * scene.inside
    stain = stain * _expression(scene, rng, float(rng.uniform(0.15, 0.6))) * _compartments(scene, rng)
    patches = np.exp(np.float32(rng.uniform(0, 0.5)) * texture(rng, scene.size_hw, 6.0, 2))
    grain = np.exp(np.float32(rng.uniform(0, 0.5)) * smooth_field(rng, scene.size_hw, 1.7))
    matrix = np.float32(rng.uniform(0, 0.15)) * np.clip(texture(rng, scene.size_hw, scene.diameter_px, 3), 0, None)
    cell = (stain * patches + matrix) * grain
    planes = [_microscope(part.astype(np.float32), scene.diameter_px, rng) for part in (nuclear, cell)]
    return expose(np.stack(planes, axis=-1), rng, electrons=ELECTRONS, fill=FILL)


def membranes(scene: Scene, rng: np.random.Generator) -> Stored:
    """Render one channel: the outlines of a monolayer, with uneven brightness, over dim cells."""
    width = log_uniform(rng, 0.7, 2.2)
    outline = np.exp(-((scene.depth / np.float32(width)) ** 2))
    outline = outline * np.exp(
        np.float32(rng.uniform(0.1, 0.6)) * texture(rng, scene.size_hw, scene.diameter_px / 2, 4)
    )
    inside = np.float32(rng.uniform(0.02, 0.3)) * _expression(scene, rng, 0.35) * scene.inside
    grain = np.exp(np.float32(0.4) * texture(rng, scene.size_hw, 8.0, 3))
    emission = outline * (scene.depth < 4 * width) + inside * grain
    emission += spots_in(scene.inside, rng, float(rng.uniform(0, 0.002)), 1.0, 0.3)
    light = _microscope(emission.astype(np.float32), scene.diameter_px, rng)
    return expose(light, rng, electrons=ELECTRONS, fill=FILL)


def plant_walls(scene: Scene, rng: np.random.Generator) -> Stored:
    """Render one channel: thick, bright walls of a plant organ, and dark cells, some with chloroplasts."""
    width = np.float32(log_uniform(rng, 0.9, 3.5))
    walls = 1 / (1 + np.exp(np.minimum(scene.depth - width, 20) * np.float32(2.5)))
    ground = scene.labels == 0
    walls = np.where(ground, np.exp(-scene.depth / width), walls)
    walls = walls * np.exp(np.float32(rng.uniform(0.1, 0.5)) * texture(rng, scene.size_hw, 3 * scene.diameter_px, 3))
    emission = walls + np.float32(rng.uniform(0, 0.12)) * _expression(scene, rng, 0.6) * scene.inside
    if rng.random() < 0.35:
        bodies = spots_in(scene.inside & (scene.depth > width + 2), rng, 0.004, float(rng.uniform(1.2, 2.8)), 0.5)
        emission = emission + bodies
    light = _microscope(emission.astype(np.float32), scene.diameter_px, rng)
    return expose(light, rng, electrons=ELECTRONS, fill=FILL)


def bacteria(scene: Scene, rng: np.random.Generator) -> Stored:
    """Render bacteria with a cytoplasmic or membrane stain, or with bright nucleoids in dim cells."""
    filled = scene.thickness * _expression(scene, rng, float(rng.uniform(0.1, 0.5)))
    kind = rng.random()
    if kind < 0.3:
        emission = (
            np.exp(-((scene.depth / np.float32(rng.uniform(0.8, 1.4))) ** 2))
            * scene.inside
            * _expression(scene, rng, 0.2)
        )
    elif kind < 0.5:
        emission = filled * np.exp(
            np.float32(0.7) * smooth_field(rng, scene.size_hw, max(2.0, 0.4 * scene.diameter_px))
        )
    else:
        emission = filled
    light = _microscope(emission.astype(np.float32), scene.diameter_px, rng, sharp=True)
    return expose(light, rng, electrons=ELECTRONS, fill=FILL)


def nucleus_distance(
    scene: Scene,
    rng: np.random.Generator,
    *,
    share: tuple[float, float] = (0.35, 0.65),
    present: tuple[float, float] = (0.95, 1.0),
    aspect: tuple[float, float] = (1.0, 1.5),
) -> F32:
    """Compute the distance (H, W) to the outline of each cell's nucleus, positive inside.

    Args:
        scene: the cells.
        rng: source of all randomness.
        share: range of the nuclear radius as a share of the cell's depth; each image uses one value.
        present: range of the share of cells with a visible nucleus.
        aspect: range of the ratio of long to short axis.
    """
    number = scene.count
    size = rng.uniform(*share) * np.exp(0.12 * rng.standard_normal(number)) * scene.cells[:, 2]
    aspects = rng.uniform(*aspect, number)
    radii = ellipse_radii(np.minimum(size, 0.95 * scene.cells[:, 2]), aspects, rng.uniform(0, np.pi, number))
    radii *= wobble(rng, 0.03, count=max(number, 1))[:number]
    radii[rng.random(number) > rng.uniform(*present)] = 0
    moved = scene.cells[:, :2] + 0.15 * scene.cells[:, 2:] * rng.standard_normal((number, 2))
    return kernels.nuclei_distance(scene.labels, moved, radii)


def _expression(scene: Scene, rng: np.random.Generator, spread: float) -> F32:
    """Draw the brightness of each cell, a log-normal factor."""
    return scene.per_cell(np.exp(spread * np.clip(rng.standard_normal(scene.count), -2.5, 2)))


def _compartments(scene: Scene, rng: np.random.Generator) -> F32:
    """Draw where a tissue marker is expressed: everywhere, or in nests and little in the stroma between them."""
    if rng.random() < 0.4:
        return np.ones(scene.size_hw, np.float32)
    form = smooth_field(rng, scene.size_hw, float(rng.uniform(4, 12)) * scene.diameter_px)
    at = scene.cells[:, :2].astype(int)
    nest = form[at[:, 0], at[:, 1]] > rng.uniform(-1.5, 0.5)
    return scene.per_cell(np.where(nest, 1.0, rng.uniform(0.02, 0.3)))


def _chromatin(form: F32, scene: Scene, rng: np.random.Generator) -> F32:
    """Stain a nuclear shape, (H, W) from 0 to about 1, with lumps and unstained nucleoli."""
    lumps = texture(rng, scene.size_hw, max(2.5, scene.diameter_px / 4), 3)
    stain = np.clip(1 + np.float32(rng.uniform(0.05, 0.35)) * lumps, 0.2, None)
    if rng.random() < 0.4:
        holes = smooth_field(rng, scene.size_hw, max(3.0, scene.diameter_px / 5)) > 1.6
        stain = np.where(holes, np.float32(rng.uniform(0.3, 0.8)) * stain, stain)
    out: F32 = (form * stain * _expression(scene, rng, float(rng.uniform(0.1, 0.5)))).astype(np.float32)
    return out


def _cell_stain(scene: Scene, rng: np.random.Generator) -> F32:
    """Stain whole cells: thickness, filaments, a rim and vesicles in random shares."""
    form = np.clip(scene.thickness, 0, 3) * np.float32(rng.uniform(0.3, 1)) + np.float32(0.25)
    grain = np.exp(np.float32(rng.uniform(0.1, 0.6)) * texture(rng, scene.size_hw, max(3.0, scene.diameter_px / 4), 4))
    stain = form * grain
    if rng.random() < 0.5:
        fibres = np.abs(texture(rng, scene.size_hw, max(4.0, scene.diameter_px / 6), 2))
        stain = stain + np.float32(rng.uniform(0.2, 1.0)) * np.exp(-((fibres / np.float32(0.25)) ** 2))
    if rng.random() < 0.6:
        rim = np.exp(-((scene.depth / np.float32(rng.uniform(1, 3))) ** 2))
        stain = stain + np.float32(rng.uniform(0.3, 2.0)) * rim
    if rng.random() < 0.3:
        stain = stain + spots_in(scene.inside, rng, 0.004, 1.2, 1.5)
    out: F32 = (stain * scene.inside * _expression(scene, rng, float(rng.uniform(0.15, 0.6)))).astype(np.float32)
    return out


def _microscope(emission: F32, diameter_px: float, rng: np.random.Generator, *, sharp: bool = False) -> F32:
    """Image an emitter: blur, out-of-focus light, background, uneven light and bright specks."""
    max_sigma = max(0.9, min(3.0, (0.06 if sharp else 0.09) * diameter_px))
    sigma = log_uniform(rng, 0.6, max_sigma)
    haze = float(rng.uniform(0, 0.5)) if rng.random() < 0.6 else 0.0
    if rng.random() < 0.25:
        shift = tuple(int(n) for n in rng.integers(40, 200, 2))
        ghost = np.roll(emission, shift, (0, 1))
        emission = emission + blurred(ghost, float(rng.uniform(0.15, 0.4)) * diameter_px) * np.float32(
            rng.uniform(0.1, 0.5)
        )
    light = blurred(emission, sigma, haze, float(rng.uniform(0.3, 1.2)) * diameter_px)
    scale = float(np.percentile(light[::4, ::4], 99)) + 1e-6
    if rng.random() < 0.3:
        size = (1.5, max(2.0, 0.25 * diameter_px))
        light = light + blurred(debris(rng, emission.shape, 40, size), sigma) * np.float32(
            scale * rng.uniform(0.2, 1.2)
        )
    ground = np.float32(scale * log_uniform(rng, 0.005, 0.25))
    ripple = 1 + np.float32(rng.uniform(0, 0.3)) * smooth_field(rng, (emission.shape[0], emission.shape[1]), 120)
    out: F32 = (light + ground * ripple) * illumination(rng, (emission.shape[0], emission.shape[1]))
    return np.clip(out, 0, None)
