"""Sine position embeddings of Anchor DETR."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TEMPERATURE = 10000.0


def sine_embedding_1d(positions: Tensor, dim: int) -> Tensor:
    """Embed scalar positions with interleaved sines and cosines.

    Args:
        positions: (...) float, a fraction of the image side in [0, 1].
        dim: channels of the result; an even number.

    Returns:
        (..., dim) float: sin, cos, sin, cos, ... of ``2 pi p / 10000^(2i/dim)``.

    Source: Wang et al. 2022 (Anchor DETR, arXiv:2109.07107), section 3.2.
    """
    exponent = torch.arange(0, dim, 2, dtype=positions.dtype, device=positions.device) / dim
    angles = positions[..., None] * (2 * math.pi) / TEMPERATURE**exponent
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)


def sine_embedding_2d(points: Tensor, dim: int) -> Tensor:
    """Embed (..., 2) xy points as (..., dim): first the half for y, then the half for x."""
    x, y = points.unbind(-1)
    return torch.cat((sine_embedding_1d(y, dim // 2), sine_embedding_1d(x, dim // 2)), dim=-1)


def grid_centres(size: int, *, device: torch.device | None = None) -> Tensor:
    """Return the centres of ``size`` equal intervals over [0, 1], (size,) float32."""
    return (torch.arange(size, dtype=torch.float32, device=device) + 0.5) / size


def inverse_sigmoid(probability: Tensor, eps: float = 1e-5) -> Tensor:
    """Return the logit of a probability, clamped to stay finite; needs float32, because the ratio reaches 1e5."""
    clamped = probability.clamp(0.0, 1.0)
    return torch.log(clamped.clamp(min=eps) / (1.0 - clamped).clamp(min=eps))
