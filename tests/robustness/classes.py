"""All classes of inputs, imported on demand because PyTorch alone takes seconds."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module

from tests.robustness.base import InputClass

MODULES = {
    "arrays": ("arrays", "boxes", "settings", "settings files"),
    "images": ("PNG", "JPEG", "TIFF", "OME-TIFF", "npy", "OME-Zarr"),
    "engines": ("manifests and sums", "ONNX graphs"),
    "records": ("folder records", "slide jobs"),
    "segmentations": ("segmentations",),
    "weights": ("checkpoints",),
}
"""Names of classes by module."""

NAMES = tuple(name for names in MODULES.values() for name in names)


@lru_cache
def input_class(name: str) -> InputClass:
    """Import and return the class with a name."""
    (module,) = (module for module, names in MODULES.items() if name in names)
    found: dict[str, InputClass] = {one.name: one for one in import_module(f"tests.robustness.{module}").CLASSES}
    return found[name]
