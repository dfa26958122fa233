"""Picture of a whole slide with outlined cells, small enough to view."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.files.outputs.overlay import write_overlay
from runtime.files.outputs.shrink import shrink_factor, shrunk
from runtime.files.readers import ImageReader
from runtime.jobs.slides.blocks import LabelBlocks
from runtime.jobs.slides.contrast import read_extent
from runtime.provenance import Provenance
from runtime.types import Extent

_log = logging.getLogger(__name__)


def write_overview(path: Path, reader: ImageReader, labels: LabelBlocks, provenance: Sequence[Provenance] = ()) -> None:
    """Draw a slide with ``overlay.write_overlay`` into a PNG; large slides are shrunk by an integer factor.

    Args:
        path: the file.
        reader: the slide. Parts that cannot be read stay black.
        labels: the label map of the slide.
        provenance: what made the label map.
    """
    height, width = reader.size_hw
    shape, factor = (height, width, len(reader.channels)), shrink_factor(reader.size_hw)

    def read(extent: Extent) -> NDArray[np.generic]:
        try:
            return read_extent(reader, extent)
        except InputError as error:
            _log.warning("a part of %s is left black in its picture (%s)", reader.name, error)
            return np.zeros((extent[2] - extent[0], extent[3] - extent[1], shape[2]), reader.dtype)

    picture = shrunk(read, shape, reader.dtype, factor)
    write_overlay(path, picture, labels.part((0, 0, height, width), factor), provenance)
