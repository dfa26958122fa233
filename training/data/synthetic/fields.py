"""Random numbers and random surfaces for all groups."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from runtime.types import F32

F64 = NDArray[np.float64]


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Draw a number whose logarithm is uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def near(rng: np.random.Generator, spread: float) -> float:
    """Draw a log-normal factor near 1, truncated at two standard deviations."""
    return math.exp(spread * min(max(rng.standard_normal(), -2.0), 2.0))


def smooth_field(rng: np.random.Generator, size_hw: tuple[int, int], scale_px: float) -> F32:
    """Return a random surface (H, W) with mean 0, standard deviation 1 and features about ``scale_px`` wide."""
    return _enlarged(rng.standard_normal(_knots(size_hw, scale_px), np.float32), size_hw, scale_px, rng)


def texture(rng: np.random.Generator, size_hw: tuple[int, int], scale_px: float, octaves: int = 3) -> F32:
    """Return a surface with features of ``scale_px`` and finer, each octave half as wide and 0.6 times as strong."""
    knots = rng.standard_normal(_knots(size_hw, scale_px), np.float32)
    weight = 1.0
    for octave in range(1, octaves):
        if scale_px / 2 < 1.5:
            break
        scale_px /= 2
        height, width = knots.shape
        finer = np.asarray(Image.fromarray(knots).resize((2 * width, 2 * height), Image.Resampling.BICUBIC))
        knots = finer + np.float32(0.6**octave) * rng.standard_normal(finer.shape, np.float32)
        weight = weight * _INTERPOLATED**2 + 0.36**octave
    return _enlarged(knots / np.float32(np.sqrt(weight)), size_hw, scale_px, rng)


def fibres(rng: np.random.Generator, size_hw: tuple[int, int], scale_px: float, ratio: float) -> F32:
    """Return a surface like ``texture`` whose features are ``ratio`` times as long as wide, at one angle."""
    angle = rng.uniform(0, np.pi)
    c, s = math.cos(angle) / (scale_px * ratio), math.sin(angle) / (scale_px * ratio)
    side = math.hypot(*size_hw)
    knots = rng.standard_normal((int(side / scale_px) + 6, int(side / scale_px / ratio) + 6), np.float32)
    middle_x, middle_y = knots.shape[1] / 2, knots.shape[0] / 2
    y, x = size_hw[0] / 2, size_hw[1] / 2
    turn = (c, s, middle_x - c * x - s * y, -s * ratio, c * ratio, middle_y + s * ratio * x - c * ratio * y)
    sampled = Image.fromarray(knots).transform(size_hw[::-1], Image.Transform.AFFINE, turn, Image.Resampling.BICUBIC)
    out: F32 = np.asarray(sampled, np.float32) / np.float32(_INTERPOLATED)
    return out


_INTERPOLATED = 0.82
"""Standard deviation over the plane of bicubic interpolation between independent knots of standard deviation 1."""


def _knots(size_hw: tuple[int, int], scale_px: float) -> tuple[int, int]:
    return int(size_hw[0] / scale_px) + 4, int(size_hw[1] / scale_px) + 4


def _enlarged(knots: F32, size_hw: tuple[int, int], scale_px: float, rng: np.random.Generator) -> F32:
    left, top = rng.uniform(1, 1.9, 2)
    box = (left, top, left + size_hw[1] / scale_px, top + size_hw[0] / scale_px)
    resized = Image.fromarray(knots / np.float32(_INTERPOLATED)).resize(
        size_hw[::-1], Image.Resampling.BICUBIC, box=box
    )
    out: F32 = np.asarray(resized)
    return out


def wobble(rng: np.random.Generator, strength: float, *, orders: int = 6, angles: int = 48, count: int = 1) -> F64:
    """Return (count, angles) factors near 1 around a closed outline, from decreasing Fourier terms 2..orders."""
    turns = 2 * np.pi * np.arange(angles) / angles
    order = np.arange(2, orders + 1)
    size = strength * rng.standard_normal((count, len(order))) / (order - 1)
    shift = rng.uniform(0, 2 * np.pi, (count, len(order)))
    waves: F64 = (size[:, :, None] * np.cos(order[:, None] * turns + shift[:, :, None])).sum(axis=1)
    out: F64 = np.exp(np.clip(waves, -0.7, 0.5))
    return out


def ellipse_radii(minor: F64, aspect: F64, angle: F64, *, angles: int = 48) -> F64:
    """Return (N, angles) radii of N ellipses of half axes ``minor`` and ``minor * aspect``, the latter at ``angle``."""
    turns = 2 * np.pi * np.arange(angles) / angles - angle[:, None]
    major = (minor * aspect)[:, None]
    out: F64 = minor[:, None] * major / np.sqrt((minor[:, None] * np.cos(turns)) ** 2 + (major * np.sin(turns)) ** 2)
    return out
