"""Layers as napari's readers and writers exchange them: data, attributes and type."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LayerData = tuple[Any, dict[str, Any], str]
"""Data, attributes and type of a layer."""

METADATA = "cellsam_engine"
"""Key of this plugin in the metadata of layers: ``path``, the image file, or ``image``, the layer that cells are of."""

CELLS = "{} cells"
"""Name of the Labels layer with the cells of an image layer."""


def image_layer(pixels: NDArray[Any], name: str, path: Path, **attributes: Any) -> LayerData:
    """Describe an image layer.

    Args:
        pixels: (H, W), or (H, W, C <= 3); two channels become green and blue, as ``Segmenter`` expects them.
        name: name of the layer.
        path: the image file.
        attributes: further attributes of the layer.
    """
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim == 3 and pixels.shape[2] < 3:
        blank = np.zeros((*pixels.shape[:2], 3 - pixels.shape[2]), pixels.dtype)
        pixels = np.concatenate([blank, pixels], axis=2)
    metadata = {METADATA: {"path": str(path.resolve())}}
    return pixels, {"name": name, "rgb": pixels.ndim == 3, "metadata": metadata, **attributes}, "image"


def cells_layer(labels: NDArray[Any], name: str, image: str | None = None, **attributes: Any) -> LayerData:
    """Describe a Labels layer.

    Args:
        labels: (H, W), 0 background.
        name: name of the layer.
        image: name of the image layer that the cells are of; None if unknown.
        attributes: further attributes of the layer.
    """
    metadata = {METADATA: {} if image is None else {"image": image}}
    return labels, {"name": name, "metadata": metadata, **attributes}, "labels"


def noted(metadata: Mapping[str, Any], key: str) -> str | None:
    """Return what this plugin noted in the metadata of a layer; None if nothing."""
    found = metadata.get(METADATA)
    value = found.get(key) if isinstance(found, Mapping) else None
    return value if isinstance(value, str) else None
