"""Stained sections and smears in colour: optical densities of stains by the Beer-Lambert law."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from runtime.types import F32
from training.data.synthetic.camera import compressed
from training.data.synthetic.fields import fibres, log_uniform, texture
from training.data.synthetic.optics import blurred
from training.data.synthetic.render.clutter import illumination
from training.data.synthetic.render.fluorescence import nucleus_distance
from training.data.synthetic.scene import Scene

Colour = tuple[float, float, float]

HAEMATOXYLIN: tuple[Colour, Colour] = ((0.65, 0.70, 0.29), (0.56, 0.72, 0.41))
EOSIN: tuple[Colour, Colour] = ((0.07, 0.99, 0.11), (0.22, 0.80, 0.56))
"""Optical density of red, green and blue, unit length; stain batches lie between the two. Sources: Ruifrok and Johnston
2001, Anal Quant Cytol Histol 23:291; Macenko et al. 2009, ISBI:1107."""
DAB: tuple[Colour, Colour] = ((0.27, 0.57, 0.78), (0.30, 0.55, 0.78))
AZURE: tuple[Colour, Colour] = ((0.62, 0.75, 0.20), (0.50, 0.82, 0.28))
ERYTHROCYTE: tuple[Colour, Colour] = ((0.15, 0.88, 0.45), (0.30, 0.80, 0.52))


def haematoxylin_eosin(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Render a section: blue to purple nuclei in pink tissue with white gaps."""
    holes = _gaps(scene, rng)
    pink = np.float32(rng.uniform(0.1, 0.55)) * _matrix(scene, rng) * holes
    blue = _stained_nuclei(scene, rng, np.ones(scene.count))
    pink += np.float32(rng.uniform(0, 0.3)) * scene.inside.astype(np.float32)
    haze = np.float32(rng.uniform(0, 0.12)) * holes
    return _picture([(blue + haze, HAEMATOXYLIN), (pink, EOSIN)], scene, rng)


def immunohistochemistry(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Render a section with brown marked nuclei or membranes among blue nuclei."""
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
    """Render stained blood: pink discs with a pale centre, and a few white cells with a purple nucleus."""
    white = rng.random(scene.count) < rng.uniform(0, 0.3)
    radius = np.float32(0.25 * scene.diameter_px)
    pallor = 1 - np.float32(rng.uniform(0, 0.7)) * np.clip(scene.depth / radius - 0.8, 0, 1)
    strength = np.where(white, rng.uniform(0.1, 0.5), 1.0) * np.exp(0.12 * rng.standard_normal(scene.count))
    pink = np.float32(rng.uniform(0.2, 0.7)) * np.clip(scene.thickness, 0, 2) * pallor * scene.per_cell(strength)
    nucleus = np.clip(nucleus_distance(scene, rng, share=(0.5, 0.85)) / 2, 0, 1) * scene.per_cell(white.astype(float))
    lumps = np.clip(1 + np.float32(0.3) * texture(rng, scene.size_hw, scene.diameter_px / 5, 3), 0.2, None)
    purple = np.float32(rng.uniform(0.6, 1.3)) * nucleus * lumps
    purple = purple + np.float32(rng.uniform(0.05, 0.3)) * scene.per_cell(white.astype(float))
    return _picture([(purple, AZURE), (pink, ERYTHROCYTE)], scene, rng)


def _stained_nuclei(scene: Scene, rng: np.random.Generator, marked: NDArray[np.float64]) -> F32:
    """Return the density of a nuclear stain; open nuclei are pale with a dark rim, dense ones are uniform."""
    tone = log_uniform(rng, 0.45, 1.3) * np.exp(0.25 * np.clip(rng.standard_normal(scene.count), -2, 2)) * marked
    size = max(2.0, scene.diameter_px / float(rng.uniform(3, 7)))
    lumps = np.clip(1 + np.float32(rng.uniform(0.1, 0.45)) * texture(rng, scene.size_hw, size, 3), 0.15, None)
    rim = np.float32(rng.uniform(-0.2, 0.45)) * np.exp(-((scene.depth / np.float32(1.5)) ** 2))
    out: F32 = scene.per_cell(tone) * (np.float32(rng.uniform(0.5, 1.0)) * lumps + rim)
    return out


def _matrix(scene: Scene, rng: np.random.Generator) -> F32:
    """Return the tissue between nuclei, around 1: uneven cytoplasm, cell borders, fibres in one direction."""
    base = np.exp(np.float32(rng.uniform(0.1, 0.4)) * texture(rng, scene.size_hw, 2 * scene.diameter_px, 4))
    folds = np.abs(texture(rng, scene.size_hw, 1.6 * scene.diameter_px, 2))
    borders = np.float32(rng.uniform(-0.5, 0.6)) * np.exp(-((folds / np.float32(0.12)) ** 2))
    strands = fibres(rng, scene.size_hw, float(rng.uniform(2.5, 7)), float(rng.uniform(4, 12)))
    out: F32 = np.clip(base + borders, 0.05, None) * np.exp(np.float32(rng.uniform(0, 0.3)) * strands)
    return out


def _gaps(scene: Scene, rng: np.random.Generator) -> F32:
    """Return the presence of tissue, (H, W) from 0 to 1; lumina, fat and tears are 0, but never near nuclei."""
    if rng.random() < 0.35:
        return np.ones(scene.size_hw, np.float32)
    form = texture(rng, scene.size_hw, float(rng.uniform(3, 8)) * scene.diameter_px, 3)
    solid = np.clip((form + np.float32(rng.uniform(0.3, 1.8))) * 6, 0, 1)
    around = np.clip(rng.uniform(1.5, 3) - scene.depth / np.float32(0.25 * scene.diameter_px), 0, 1)
    out: F32 = np.maximum(np.maximum(solid, around), scene.inside).astype(np.float32)
    return out


def _picture(
    stains: list[tuple[F32, tuple[Colour, Colour]]], scene: Scene, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Render an RGB image behind layers of stain; a density of 1 reduces light by a factor of 10."""
    sigma = log_uniform(rng, 0.5, 1.5)
    soft = [(blurred(layer.astype(np.float32), sigma), _between(*ends, rng)) for layer, ends in stains]
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


def _between(first: Colour, second: Colour, rng: np.random.Generator) -> Colour:
    """Draw the colour of a stain batch, unit length."""
    mixed = np.array(first) + rng.uniform(-0.1, 1.1) * (np.array(second) - np.array(first))
    red, green, blue = mixed * np.exp(0.08 * rng.standard_normal(3)) / np.linalg.norm(mixed)
    return float(red), float(green), float(blue)
