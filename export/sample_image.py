"""The default image for checks of engines, and the boxes that each check decodes."""

from __future__ import annotations

from importlib.resources import as_file, files

import numpy as np
from numpy.typing import NDArray

from runtime.files.plain import read_image

FIXED_BOXES = np.array(
    [
        [0.30, 0.40, 0.36, 0.45],
        [0.10, 0.60, 0.25, 0.72],
        [0.50, 0.05, 0.80, 0.50],
        [0.00, 0.00, 1.00, 1.00],
        [0.92, 0.90, 1.05, 1.02],
        [-0.03, 0.20, 0.08, 0.31],
    ],
    np.float32,
)
"""xyxy as fractions of the image's sides: from a twentieth of the image to all of it, some beyond its edge."""

FIXED_IMAGES = np.array([0, 1, 1, 0, 0, 1])
"""Index of each box's image, among two."""


def verification_image() -> NDArray[np.generic]:
    """Read the image of fluorescent nuclei, (519, 253) uint8, CC0."""
    with as_file(files("export") / "data" / "verification.png") as path:
        return read_image(path)
