"""Camera model: shot noise, read noise, offset, bit depth, compression."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtime.types import F32
from training.data.synthetic.fields import log_uniform

Stored = NDArray[np.uint8] | NDArray[np.uint16]


def expose(
    light: F32, rng: np.random.Generator, *, electrons: tuple[float, float], fill: tuple[float, float]
) -> Stored:
    """Record an image.

    Args:
        light: (H, W) or (H, W, 2), 0 means no light; channels are exposed separately.
        rng: source of all randomness.
        electrons: range of the charge at the brightest light; few electrons give a noisy image.
        fill: range of the brightest value as a share of the largest number.

    Returns:
        uint8, or uint16 of 12 or 16 bits in one of three images.
    """
    bits = int(rng.choice([8, 8, 8, 8, 12, 16]))
    stacked = light[..., None] if light.ndim == 2 else light
    planes = [_plane(stacked[..., n], rng, bits, electrons, fill) for n in range(stacked.shape[2])]
    stacked = planes[0] if light.ndim == 2 else np.stack(planes, axis=-1)
    if bits > 8:
        return stacked.astype(np.uint16)
    stored = stacked.astype(np.uint8)
    lossy = light.ndim == 2 and rng.random() < 0.3
    return compressed(stored, int(rng.integers(45, 96))) if lossy else stored


def _plane(
    light: F32, rng: np.random.Generator, bits: int, electrons: tuple[float, float], fill: tuple[float, float]
) -> F32:
    well = log_uniform(rng, *electrons)
    read = rng.uniform(0.5, 4.0)
    charge = np.clip(light, 0, None) * np.float32(well / (float(np.percentile(light[::4, ::4], 99.8)) + 1e-6))
    noise = rng.standard_normal(light.shape, np.float32)
    charge = charge + noise * np.sqrt(charge + np.float32(read**2))
    highest = 2**bits - 1
    offset = rng.uniform(0, 0.06) * highest
    values = charge * np.float32(rng.uniform(*fill) * highest / well) + np.float32(offset)
    out: F32 = np.clip(np.round(values), 0, highest)
    return out


def compressed(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Return an 8-bit image, (H, W) or (H, W, 3), after JPEG compression."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.array(Image.open(stream))
