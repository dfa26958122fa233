"""Image content besides cells: uneven light, debris, dust, scratches, posts, text."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from runtime.types import F32
from training.data.synthetic import kernels
from training.data.synthetic.fields import log_uniform, smooth_field, wobble
from training.data.synthetic.scene import Canvas, blob


def illumination(rng: np.random.Generator, size_hw: tuple[int, int], max_strength: float = 0.35) -> F32:
    """Return uneven light, (H, W) around 1: a slope, a fall-off to the corners and slow waves."""
    strength = max_strength * float(rng.random()) ** 2
    y = np.linspace(-1, 1, size_hw[0], dtype=np.float32)[:, None] - np.float32(rng.normal(0, 0.3))
    x = np.linspace(-1, 1, size_hw[1], dtype=np.float32)[None] - np.float32(rng.normal(0, 0.3))
    slope = rng.normal(0, 1, 2).astype(np.float32)
    form = slope[0] * y + slope[1] * x - np.float32(rng.uniform(0, 1.5)) * (y * y + x * x)
    form = form + np.float32(0.5) * smooth_field(rng, size_hw, 0.5 * min(size_hw))
    out: F32 = np.exp(np.float32(strength) * (form - form.mean()))
    return out


def debris(
    rng: np.random.Generator, size_hw: tuple[int, int], max_number: int, diameter_px: tuple[float, float]
) -> F32:
    """Return specks and flakes, (H, W) from 0 to 1; each is far smaller than a cell."""
    canvas = Canvas(size_hw)
    number = int(max_number * rng.random() ** 2 * size_hw[0] * size_hw[1] / 512**2)
    out = canvas.thickness
    outlines = wobble(rng, 0.3, angles=24, count=max(number, 1))
    for outline in outlines[:number]:
        radius = log_uniform(rng, *diameter_px) / 2
        place = rng.uniform(0, size_hw)
        canvas.add(blob((place[0], place[1]), radius * outline, size_hw), height=float(rng.uniform(0.2, 1)), hidden=1)
    return out


def spots_in(mask: NDArray[np.bool_], rng: np.random.Generator, share: float, sigma_px: float, height: float) -> F32:
    """Return Gaussian spots at about ``share`` of a mask's pixels; heights vary by a factor of 2."""
    out = np.zeros(mask.shape, np.float32)
    at = np.flatnonzero(mask)
    number = min(int(share * len(at)), 6000)
    if number:
        y, x = np.unravel_index(at[rng.integers(len(at), size=number)], mask.shape)
        sigma = sigma_px * rng.uniform(0.7, 1.4, number)
        heights = height * np.exp(0.4 * rng.standard_normal(number))
        kernels.add_spots(out, np.stack((y, x, sigma, heights), axis=1).astype(np.float64))
    return out


def dust(rng: np.random.Generator, size_hw: tuple[int, int]) -> F32:
    """Return the transmission, (H, W) near 1, of out-of-focus dust: dim discs and rings, a scratch or a hair."""
    out = np.ones(size_hw, np.float32)
    y, x = np.mgrid[: size_hw[0], : size_hw[1]].astype(np.float32)
    for _ in range(int(rng.integers(0, 4))):
        cy, cx = rng.uniform(0, size_hw)
        radius, rim = rng.uniform(6, 40), rng.uniform(2, 6)
        distance = np.hypot(y - np.float32(cy), x - np.float32(cx))
        ring = np.exp(-(((distance - radius) / rim) ** 2))
        disc = np.clip((radius + rim - distance) / (2 * rim), 0, 1)
        out -= np.float32(rng.uniform(0.02, 0.12)) * (ring if rng.random() < 0.5 else disc)
    for _ in range(int(rng.integers(0, 3))):
        across = _off_line(y, x, rng)
        across = across + np.float32(rng.uniform(0, 12)) * smooth_field(rng, size_hw, 150)
        out += np.float32(rng.uniform(-0.15, 0.1)) * np.exp(-((across / np.float32(rng.uniform(0.8, 3))) ** 2))
    return out


def posts(rng: np.random.Generator, size_hw: tuple[int, int], free: NDArray[np.bool_]) -> F32:
    """Return microfluidic structure, (H, W) from 0 to 1: pillars or a straight wall, but not at cells."""
    y, x = np.mgrid[: size_hw[0], : size_hw[1]].astype(np.float32)
    if rng.random() < 0.5:
        across = _off_line(y, x, rng)
        shape = np.abs(across) < rng.uniform(4, 40)
    else:
        pitch = float(rng.uniform(80, 220))
        shift = rng.uniform(0, pitch, 2)
        dy = (y + np.float32(shift[0])) % pitch - pitch / 2
        dx = (x + np.float32(shift[1])) % pitch - pitch / 2
        shape = np.hypot(dy, dx) < rng.uniform(0.08, 0.28) * pitch
    parts, count = ndimage.label(shape)
    touched = np.unique(parts[shape & ~free])
    whole = np.ones(count + 1, np.float32)
    whole[touched] = whole[0] = 0
    out: F32 = whole[parts]
    return out


def _off_line(y: F32, x: F32, rng: np.random.Generator) -> F32:
    """Return the signed distance of every pixel to a random straight line."""
    angle, place = rng.uniform(0, np.pi), rng.uniform(0, y.shape).astype(np.float32)
    out: F32 = (y - place[0]) * np.float32(np.cos(angle)) - (x - place[1]) * np.float32(np.sin(angle))
    return out


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def annotated(image: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Burn a scale bar and text into a corner, as in exported figures."""
    height, width = image.shape[:2]
    layer = Image.new("L", (width, height))
    draw = ImageDraw.Draw(layer)
    length, thick = int(rng.uniform(0.08, 0.25) * width), int(rng.integers(2, 7))
    right, low = width - int(rng.integers(6, 24)), height - int(rng.integers(6, 24))
    draw.rectangle((right - length, low - thick, right, low), fill=255)
    text = f"{int(rng.choice([5, 10, 20, 25, 50, 100, 200]))} um"
    draw.text((right - length, low - thick - 18), text, fill=255, font=_font(int(rng.integers(11, 17))))
    if rng.random() < 0.5:
        words = rng.choice(["t = 03:20 h", "A", "B", "DAPI", "DIC", "ctrl", "00:12:40", "z 04", "D8 20x"])
        draw.text((int(rng.integers(3, 14)), int(rng.integers(3, 14))), str(words), fill=255, font=_font(16))
    share = np.asarray(layer, np.float32) / 255
    value = float(image.max()) if rng.random() < 0.8 else float(image.min())
    share = share[..., None] if image.ndim == 3 else share
    out: NDArray[Any] = np.round(image * (1 - share) + value * share).astype(image.dtype)
    return out
