"""Images without cells: an empty field for every microscope, photographs, text and surfaces."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from runtime.types import F32
from training.data.synthetic.camera import compressed
from training.data.synthetic.fields import log_uniform, smooth_field, texture
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


def text(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw lines of words in one or two columns, dark on bright or reversed; two images in three are gray."""
    height, width = scene.size_hw
    paper, ink = (int(rng.integers(*between)) for between in ((170, 256), (0, 110)))
    layer = Image.new("L", (width, height), paper)
    draw = ImageDraw.Draw(layer)
    size = int(log_uniform(rng, 8, 64))
    font = ImageFont.truetype(str(rng.choice(_fonts())), size)
    columns = int(rng.integers(1, 3))
    spacing = float(rng.uniform(1.1, 1.9)) * size
    for column in range(columns):
        left = column * width / columns + float(rng.uniform(-1, 2)) * size
        end = (column + 1) * width / columns - float(rng.uniform(0, 1)) * size
        for top in np.arange(float(rng.uniform(-1, 1)) * size, height, spacing):
            if rng.random() < 0.9:  # the others separate paragraphs
                draw.text((left, float(top)), _line(rng, int((end - left) / (0.5 * size))), fill=ink, font=font)
    layer = layer.rotate(float(rng.normal(0, 2)), Image.Resampling.BICUBIC, fillcolor=paper)
    shade = 1 + np.float32(rng.uniform(0, 0.25)) * smooth_field(rng, scene.size_hw, float(rng.uniform(80, 400)))
    gray = gaussian_filter(np.asarray(layer, np.float32) * shade, float(rng.uniform(0, 0.04)) * size)
    if rng.random() < 0.3:
        gray = 255 - gray
    return _photographed(np.repeat(gray[..., None], 3, axis=-1), rng, coloured=0.33)


def surface(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a photographed surface: bricks, blades of grass, or rough ground; two images in three are gray."""
    rough = texture(rng, scene.size_hw, log_uniform(rng, 3, 80), int(rng.integers(2, 6)))
    form = (_bricks, _blades, _rough)[int(rng.integers(3))]
    gray = 128 + np.float32(rng.uniform(15, 50)) * (
        form(scene.size_hw, rng) + np.float32(rng.uniform(0.1, 0.8)) * rough
    )
    return _photographed(np.repeat(gray[..., None], 3, axis=-1), rng, coloured=0.33)


def _bricks(size_hw: tuple[int, int], rng: np.random.Generator) -> F32:
    """Return rows of bricks with joints, each brick with its own brightness."""
    tall, joint = log_uniform(rng, 10, 90), float(rng.uniform(0.05, 0.25))
    wide = tall * float(rng.uniform(1.0, 4.0))
    turn = float(rng.normal(0, 0.05))
    y, x = np.mgrid[: size_hw[0], : size_hw[1]].astype(np.float32)
    y, x = y + turn * x, x - turn * y
    row = np.floor(y / tall)
    x = x + (row % 2) * np.float32(wide / 2)
    column = np.floor(x / wide)
    in_joint = (y / tall - row < joint) | (x / wide - column < joint * tall / wide)
    brightness = rng.standard_normal(4096, np.float32)[((row * 61 + column * 7) % 4096).astype(np.int64)]
    return np.where(in_joint, np.float32(rng.choice([-2.0, 2.0])), np.float32(0.5) * brightness).astype(np.float32)


def _blades(size_hw: tuple[int, int], rng: np.random.Generator) -> F32:
    """Return many thin strokes of about one direction."""
    layer = Image.new("F", (size_hw[1], size_hw[0]))
    draw = ImageDraw.Draw(layer)
    length, spread, middle = log_uniform(rng, 10, 120), float(rng.uniform(0.1, 1.5)), float(rng.uniform(0, np.pi))
    for _ in range(int(rng.integers(300, 2500))):
        angle, reach = float(rng.normal(middle, spread)), length * float(rng.uniform(0.4, 1.6))
        x, y = float(rng.uniform(0, size_hw[1])), float(rng.uniform(0, size_hw[0]))
        ends = (x, y, x + reach * float(np.cos(angle)), y + reach * float(np.sin(angle)))
        draw.line(ends, fill=float(rng.normal(0, 1.5)), width=int(rng.integers(1, 6)))
    return np.asarray(layer, np.float32)


def _rough(size_hw: tuple[int, int], rng: np.random.Generator) -> F32:
    """Return a rough texture, sharpened into ridges half of the time."""
    field = texture(rng, size_hw, log_uniform(rng, 4, 60), 5)
    return -np.abs(field) if rng.random() < 0.5 else field


def _photographed(image: NDArray[np.float32], rng: np.random.Generator, *, coloured: float) -> NDArray[np.uint8]:
    """Tint a share of the images, and add noise and compression."""
    if rng.random() < coloured:
        image = image * rng.uniform(0.6, 1.2, 3).astype(np.float32)
    noise = rng.standard_normal(image.shape[:2], np.float32) * np.float32(rng.uniform(0, 10))
    return compressed(np.clip(image + noise[..., None], 0, 255).astype(np.uint8), int(rng.integers(40, 97)))


@lru_cache(maxsize=1)
def _fonts() -> tuple[str, ...]:
    """Return the paths of the fonts that Matplotlib contains, without those of symbols."""
    found = sorted((Path(matplotlib.get_data_path()) / "fonts" / "ttf").glob("*.ttf"))
    return tuple(str(path) for path in found if path.name.startswith("DejaVu") and "Display" not in path.name)


def _line(rng: np.random.Generator, characters: int) -> str:
    """Return made-up words of lower-case letters, some of them capitalised or numbers."""
    words: list[str] = []
    while sum(map(len, words)) + len(words) < characters:
        letters = "".join(chr(97 + int(n)) for n in rng.integers(0, 26, int(rng.integers(1, 11))))
        words.append(str(int(rng.integers(10000))) if rng.random() < 0.06 else letters)
        if rng.random() < 0.15:
            words[-1] = words[-1].capitalize() + "."
    return " ".join(words)


def _ground(scene: Scene, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Blend two colours smoothly."""
    share = 1 / (1 + np.exp(-np.float32(rng.uniform(0.3, 3)) * smooth_field(rng, scene.size_hw, rng.uniform(80, 400))))
    first, second = (np.array(_colour(rng), np.float32) for _ in range(2))
    out: NDArray[np.uint8] = (first + (second - first) * share[..., None]).astype(np.uint8)
    return out


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = rng.integers(0, 256, 3)
    return int(red), int(green), int(blue)
