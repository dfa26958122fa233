"""Segment microscope images with exported engines: numpy in, numpy out, no PyTorch.

>>> from runtime import Segmenter
>>> result = Segmenter()(image)  # the built-in model; Segmenter("engines/") for your own engines
>>> result.labels  # (H, W) int32, 0 = background, 1..n cells
"""

from runtime.config import SegmentConfig
from runtime.engines.backends.base import BackendOptions
from runtime.errors import BackendError, ConfigError, EngineError, InputError, SegmenterError
from runtime.files.save import save
from runtime.ops.masks import MaskCrop
from runtime.pipeline.encoded import EncodedViews
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
    "SegmentConfig",
    "Segmentation",
    "Segmenter",
    "SegmenterError",
    "save",
]
