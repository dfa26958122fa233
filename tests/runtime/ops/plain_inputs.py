"""The inputs of both branches, step by step in NumPy and Pillow, as the released code computes them."""

from __future__ import annotations

import numpy as np
from PIL import Image

from runtime.types import F32

IMAGENET = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
SAM = np.float32([123.675, 116.28, 103.53]), np.float32([58.395, 57.12, 57.375])


def paper(image: F32, size: int, frame_hw: tuple[int, int] | None = None) -> F32:
    """Compute the input of the ``paper`` profile, (3, size, size)."""
    return _channels_first((resized(image, size, frame_hw) * np.float32(255) - SAM[0]) / SAM[1])


def mask_branch(
    image: F32, size: int, frame_hw: tuple[int, int] | None = None, *, renormalize: bool = True
) -> F32:  # fmt: skip
    """Compute the input of the mask branch of ``cellsam-1.2``."""
    values = resized(image, size, frame_hw)
    if values.any():
        low, high = np.percentile(values[values != 0], [0.0, 99.5]).astype(np.float32)
        values = values.clip(low, high)
        if high > low:
            values = (values - low) / (high - low)
    if renormalize:
        values = _min_max((values - IMAGENET[0]) / IMAGENET[1])
    return _channels_first((values - SAM[0] / 255) / (SAM[1] / 255))


def box_branch(
    image: F32, size: int, frame_hw: tuple[int, int] | None = None, *, renormalize: bool = True
) -> F32:  # fmt: skip
    """Compute the input of the box branch of ``cellsam-1.2``."""
    values = (np.floor(resized(image, size, frame_hw) * np.float32(255)) - SAM[0]) / SAM[1]
    if renormalize:
        values = _min_max((values - IMAGENET[0]) / IMAGENET[1])
        if values[..., 1].max() == 0:
            values[..., 1] = values[..., 2]
        elif values[..., 2].max() == 0:
            values[..., 2] = values[..., 1]
    return _channels_first(values)


def resized(image: F32, size: int, frame_hw: tuple[int, int] | None = None) -> F32:
    """Pad an image (H, W, 3) to its frame and resize it with Pillow, (size, size, 3)."""
    height, width = frame_hw or image.shape[:2]
    padded = np.zeros((height, width, 3), np.float32)
    padded[: image.shape[0], : image.shape[1]] = image
    planes = [Image.fromarray(padded[..., c]).resize((size, size), Image.Resampling.BILINEAR) for c in range(3)]
    return np.stack([np.asarray(plane) for plane in planes], -1)


def _min_max(values: F32) -> F32:
    low, high = values.min(axis=(0, 1)), values.max(axis=(0, 1))
    out: F32 = (values - low) / (high - low + np.float32(1e-6))
    return out


def _channels_first(values: F32) -> F32:
    return values.transpose(2, 0, 1)
