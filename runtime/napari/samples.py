"""Sample images of the package as sample data of napari."""

from __future__ import annotations

import numpy as np

from runtime.engines.builtin import sample_images
from runtime.files.plain import read_image
from runtime.napari.layer_data import LayerData, image_layer


def fluorescence() -> list[LayerData]:
    """Return the layer of the fluorescence image."""
    return _sample("fluorescence")


def histology() -> list[LayerData]:
    """Return the layer of the histology image."""
    return _sample("histology")


def phase_contrast() -> list[LayerData]:
    """Return the layer of the phase contrast image."""
    return _sample("phase_contrast")


def u2os() -> list[LayerData]:
    """Return the layer of the U2OS image."""
    return _sample("u2os")


def _sample(name: str) -> list[LayerData]:
    (path,) = (path for path in sample_images() if path.name == f"{name}_img.png")
    return [image_layer(np.asarray(read_image(path)), name, path)]
