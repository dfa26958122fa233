"""Stained sections and smears in colour: optical densities of stains, by Beer and Lambert."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from runtime.types import F32
from training.data.synthetic.camera import compressed
from training.data.synthetic.fields import log_uniform, texture
from training.data.synthetic.optics import blurred
from training.data.synthetic.render.clutter import illumination
from training.data.synthetic.render.fluorescence import nucleus_distance
from training.data.synthetic.scene import Scene

HAEMATOXYLIN = (0.65, 0.70, 0.29)
EOSIN = (0.07, 0.99, 0.11)
DAB = (0.27, 0.57, 0.78)
"""Optical density of red, green and blue, unit length. Source: Ruifrok and Johnston 2001, AQCH 23:291."""

Colour = tuple[float, float, float]


def haematoxylin_eosin(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A section: blue to purple nuclei in pink tissue with white gaps."""
    holes = _gaps(scene, rng)
    pink = np.float32(rng.uniform(0.1, 0.55)) * _matrix(scene, rng) * holes
    blue = _stained_nuclei(scene, rng, np.ones(scene.count))
    pink += np.float32(rng.uniform(0, 0.3)) * scene.inside.astype(np.float32)
    haze = np.float32(rng.uniform(0, 0.12)) * holes
    return _picture([(blue + haze, HAEMATOXYLIN), (pink, EOSIN)], scene, rng)


def immunohistochemistry(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A section with brown marked nuclei or membranes among blue nuclei."""
    marked = (rng.random(scene.count) < rng.uniform(0, 0.8)).astype(np.float64)
    nuclear = rng.random() < 0.6
    blue = _stained_nuclei(scene, rng, 1 - 0.8 * marked if nuclear else np.ones(scene.count))
    if nuclear:
        brown = _stained_nuclei(scene, rng, marked)
    else:
        around = np.where(scene.inside, 0, np.exp(-(((scene.depth - 2) / np.float32(2)) ** 2)))
        patches = np.clip(texture(rng, scene.size_hw, 3 * scene.diameter_px, 2), 0, 1.5)
        brown = np.float32(rng.uniform(0.3, 1.0)) * around * patches
    matrix = _matrix(scene, rng) * _gaps(scene, rng)
    blue = blue + np.float32(rng.uniform(0.02, 0.15)) * matrix
    brown = brown + np.float32(rng.uniform(0, 0.12)) * matrix
    return _picture([(blue, HAEMATOXYLIN), (brown, DAB)], scene, rng)


def blood_smear(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Stained blood: pink discs with a pale middle, and a few white cells with a purple nucleus."""
    white = rng.random(scene.count) < rng.uniform(0, 0.3)
    radius = np.float32(0.25 * scene.diameter_px)
    pallor = 1 - np.float32(rng.uniform(0, 0.7)) * np.clip(scene.depth / radius - 0.8, 0, 1)
    strength = np.where(white, rng.uniform(0.1, 0.5), 1.0) * np.exp(0.12 * rng.standard_normal(scene.count))
    pink = np.float32(rng.uniform(0.2, 0.7)) * np.clip(scene.thickness, 0, 2) * pallor * scene.per_cell(strength)
    nucleus = np.clip(nucleus_distance(scene, rng, share=(0.5, 0.85)) / 2, 0, 1) * scene.per_cell(white.astype(float))
    lumps = np.clip(1 + np.float32(0.3) * texture(rng, scene.size_hw, scene.diameter_px / 5, 3), 0.2, None)
    purple = np.float32(rng.uniform(0.6, 1.3)) * nucleus * lumps
    purple = purple + np.float32(rng.uniform(0.05, 0.3)) * scene.per_cell(white.astype(float))
    return _picture([(purple, (0.55, 0.80, 0.25)), (pink, (0.25, 0.85, 0.45))], scene, rng)


def _stained_nuclei(scene: Scene, rng: np.random.Generator, marked: NDArray[np.float64]) -> F32:
    """Density of a nuclear stain; open nuclei are pale with a dark rim, dense ones even."""
    tone = log_uniform(rng, 0.45, 1.3) * np.exp(0.25 * np.clip(rng.standard_normal(scene.count), -2, 2)) * marked
    size = max(2.0, scene.diameter_px / float(rng.uniform(3, 7)))
    lumps = np.clip(1 + np.float32(rng.uniform(0.1, 0.45)) * texture(rng, scene.size_hw, size, 3), 0.15, None)
    rim = np.float32(rng.uniform(0, 0.8)) * np.exp(-((scene.depth / np.float32(1.5)) ** 2))
    out: F32 = scene.per_cell(tone) * (np.float32(rng.uniform(0.5, 1.0)) * lumps + rim)
    return out


def _matrix(scene: Scene, rng: np.random.Generator) -> F32:
    """Tissue between nuclei, around 1: cytoplasm of uneven density, fibres in one direction."""
    base = np.exp(np.float32(rng.uniform(0.1, 0.4)) * texture(rng, scene.size_hw, 2 * scene.diameter_px, 4))
    height, width = scene.size_hw
    thin = texture(rng, (height, max(16, width // 6)), float(rng.uniform(3, 8)), 2)
    columns = np.linspace(0, thin.shape[1] - 1.001, width)
    left = columns.astype(int)
    share = (columns - left).astype(np.float32)
    stretched = thin[:, left] * (1 - share) + thin[:, np.minimum(left + 1, thin.shape[1] - 1)] * share
    fibres = stretched.T[:height, :width] if rng.random() < 0.5 and height == width else stretched
    out: F32 = base * np.exp(np.float32(rng.uniform(0, 0.4)) * fibres)
    return out


def _gaps(scene: Scene, rng: np.random.Generator) -> F32:
    """Where there is tissue, (H, W) from 0 to 1; lumina, fat and tears are 0, nuclei never."""
    if rng.random() < 0.35:
        return np.ones(scene.size_hw, np.float32)
    form = texture(rng, scene.size_hw, float(rng.uniform(3, 8)) * scene.diameter_px, 2)
    solid = np.clip((form + np.float32(rng.uniform(0.3, 1.8))) * 6, 0, 1)
    out: F32 = np.maximum(solid, scene.inside)
    return out


def _picture(stains: list[tuple[F32, Colour]], scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """RGB image behind layers of stain: light falls by a factor of 10 for a density of 1."""
    sigma = log_uniform(rng, 0.5, 1.5)
    soft = [(blurred(layer.astype(np.float32), sigma), _near(colour, rng)) for layer, colour in stains]
    lamp = rng.uniform(0.82, 1.0) * np.exp(0.02 * rng.standard_normal(3))
    field = illumination(rng, scene.size_hw, 0.12)
    noise = np.float32(rng.uniform(0.5, 4.0))
    planes = []
    for channel in range(3):
        density = sum((layer * np.float32(colour[channel]) for layer, colour in soft), np.float32(0.02))
        light = np.float32(255 * lamp[channel]) * field * np.exp(np.float32(-np.log(10)) * density)
        planes.append(light + noise * rng.standard_normal(scene.size_hw, np.float32))
    stored = np.clip(np.round(np.stack(planes, axis=-1)), 0, 255).astype(np.uint8)
    return compressed(stored, int(rng.integers(55, 97))) if rng.random() < 0.8 else stored


def _near(colour: Colour, rng: np.random.Generator) -> Colour:
    """A stain of another batch: its colour shifted a little, unit length."""
    shifted = np.array(colour) * np.exp(0.15 * rng.standard_normal(3)) + rng.uniform(0, 0.06, 3)
    red, green, blue = shifted / np.linalg.norm(shifted)
    return float(red), float(green), float(blue)
