"""Images without cells: an empty field for every microscope, and photographs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from training.data.synthetic.camera import compressed
from training.data.synthetic.fields import smooth_field, texture
from training.data.synthetic.scene import Canvas, Scene


def nothing(_rng: np.random.Generator, size_hw: tuple[int, int], diameter_px: float) -> Scene:
    """Return a field without cells."""
    return Canvas(size_hw).scene(diameter_px)


def photograph(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw large flat shapes with edges, gradients, textures, lines and text; one image in three is gray."""
    height, width = scene.size_hw
    layer = Image.fromarray(_ground(scene, rng))
    draw = ImageDraw.Draw(layer)
    for _ in range(int(rng.integers(0, 9))):
        points = [
            (float(x), float(y)) for x, y in rng.uniform(-0.2, 1.2, (int(rng.integers(3, 6)), 2)) * (width, height)
        ]
        draw.polygon(points, fill=_colour(rng))
    for _ in range(int(rng.integers(0, 12))):
        ends = rng.uniform(0, 1, 4) * (width, height, width, height)
        draw.line([float(v) for v in ends], fill=_colour(rng), width=int(rng.integers(1, 9)))
    for _ in range(int(rng.integers(0, 6))):
        letters = "".join(chr(int(n)) for n in rng.integers(65, 91, int(rng.integers(3, 18))))
        place = (float(rng.uniform(-0.1, 0.8) * width), float(rng.uniform(0, 1) * height))
        draw.text(place, letters, fill=_colour(rng), font_size=int(rng.integers(10, 60)))
    grain = texture(rng, scene.size_hw, float(rng.uniform(2, 40)), 4) * np.float32(rng.uniform(0, 25))
    noise = rng.standard_normal(scene.size_hw, np.float32) * np.float32(rng.uniform(0, 20))
    image = np.clip(np.asarray(layer, np.float32) + (grain + noise)[..., None], 0, 255).astype(np.uint8)
    if rng.random() < 0.33:
        image = np.repeat(image.mean(axis=-1, keepdims=True).astype(np.uint8), 3, axis=-1)
    return compressed(image, int(rng.integers(40, 97)))


def _ground(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Blend two colours smoothly."""
    share = 1 / (1 + np.exp(-np.float32(rng.uniform(0.3, 3)) * smooth_field(rng, scene.size_hw, rng.uniform(80, 400))))
    first, second = (np.array(_colour(rng), np.float32) for _ in range(2))
    out: NDArray[np.uint8] = (first + (second - first) * share[..., None]).astype(np.uint8)
    return out


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = rng.integers(0, 256, 3)
    return int(red), int(green), int(blue)
