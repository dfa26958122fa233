"""Segment microscope images with exported engines: numpy in, numpy out, no PyTorch.

>>> from runtime import Segmenter
>>> result = Segmenter()(image)  # the built-in model; Segmenter("engines/") for your own engines
>>> result.labels  # (H, W) int32, 0 = background, 1..n cells
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    __version__: str

    from runtime.config import SegmentConfig
    from runtime.engines.backends.base import BackendOptions
    from runtime.errors import BackendError, ConfigError, EngineError, InputError, SegmenterError
    from runtime.files.save import save
    from runtime.ops.masks import MaskCrop
    from runtime.pipeline.encoded import EncodedViews
    from runtime.provenance import Provenance
    from runtime.results import Detections, Instances, Segmentation
    from runtime.segmenter import Segmenter

__all__ = [
    "BackendError",
    "BackendOptions",
    "ConfigError",
    "Detections",
    "EncodedViews",
    "EngineError",
    "InputError",
    "Instances",
    "MaskCrop",
    "Provenance",
    "SegmentConfig",
    "Segmentation",
    "Segmenter",
    "SegmenterError",
    "save",
]

_MODULES = {
    "runtime.config": ("SegmentConfig",),
    "runtime.engines.backends.base": ("BackendOptions",),
    "runtime.errors": ("BackendError", "ConfigError", "EngineError", "InputError", "SegmenterError"),
    "runtime.files.save": ("save",),
    "runtime.ops.masks": ("MaskCrop",),
    "runtime.pipeline.encoded": ("EncodedViews",),
    "runtime.provenance": ("Provenance",),
    "runtime.results": ("Detections", "Instances", "Segmentation"),
    "runtime.segmenter": ("Segmenter",),
}
"""Each module is imported when one of its names is first used, so the command can handle signals before that."""


def __getattr__(name: str) -> object:
    if name == "__version__":
        return import_module("importlib.metadata").version("cellsam-engine")
    for module, names in _MODULES.items():
        if name in names:
            globals()[name] = value = getattr(import_module(module), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
