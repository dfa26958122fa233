"""Label maps as coloured tiles, or as tiles from which a page reads the labels."""

from __future__ import annotations

from typing import Literal

import numpy as np

from runtime.types import I32, U8

LabelColours = Literal["ids", "random"]

OPACITY = 110
"""Opacity of coloured cells, of 255."""

_MIX = np.uint32(2_654_435_761)
"""Multiplier that gives consecutive labels unlike colours (Knuth, The Art of Computer Programming 3, section 6.4)."""


def label_pixels(labels: I32, colours: LabelColours) -> U8:
    """Show part of a label map.

    Args:
        labels: (h, w), 0 background.
        colours: ``ids``: label = R + 256 G + 65536 B with full opacity. ``random``: a bright colour for each label.

    Returns:
        (h, w, 4) RGBA; background is transparent.
    """
    numbers = labels.astype(np.uint32)
    shown = np.zeros((*labels.shape, 4), np.uint8)
    if colours == "ids":
        for place in range(3):
            shown[..., place] = (numbers >> np.uint32(8 * place)) & np.uint32(255)
        shown[..., 3] = np.where(numbers > 0, 255, 0)
        return shown
    hue = ((numbers * _MIX) >> np.uint32(16)).astype(np.float32) / np.float32(1 << 16)
    for place, shift in enumerate((0.0, 1 / 3, 2 / 3)):
        shown[..., place] = (155 + 100 * np.cos(2 * np.pi * (hue - shift))).astype(np.uint8)
    shown[..., 3] = np.where(numbers > 0, OPACITY, 0)
    shown[numbers == 0] = 0
    return shown
