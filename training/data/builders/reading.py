"""Reading of source files as channels and label maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.files.label_files.label_image import check_label_image
from runtime.files.plain import read_image
from training.data.errors import DataError


def read_gray(path: Path) -> NDArray[Any]:
    """Read an image as one channel (H, W).

    Raises:
        InputError: the file is missing or damaged (``runtime.files.plain.read_image``).
        DataError: the image has two channels, or more than three.
    """
    return to_gray(read_image(path), path.name)


def to_gray(image: NDArray[Any], name: str) -> NDArray[Any]:
    """Convert an image (H, W), (H, W, 1) or (H, W, 3) to one channel (H, W).

    Equal channels keep their values; colours become their luminance in [0, 1], as in the released code for stained
    sections (cellSAM, ``examples/plot_HandE.py``).
    """
    if image.ndim == 2:
        return image
    if image.ndim == 3 and image.shape[2] == 1:
        return image[..., 0]
    if image.ndim == 3 and image.shape[2] == 3:
        if is_gray(image):
            return image[..., 0]
        from skimage.color import rgb2gray

        gray: NDArray[Any] = rgb2gray(image)
        return gray
    raise DataError(
        f"{name} has shape {image.shape}; expected a gray or RGB image. Check that it is the image file.",
        kind="wrong_shape",
    )


def is_gray(image: NDArray[Any]) -> bool:
    """Return whether the channels of (H, W, C) are equal."""
    return bool((image == image[..., :1]).all())


def read_label_file(path: Path) -> NDArray[Any]:
    """Read a label map (H, W) with one id per object; errors as in ``check_labels`` and ``read_image``."""
    return check_labels(read_image(path), path.name)


def check_labels(labels: NDArray[Any], name: str) -> NDArray[Any]:
    """Return (H, W) integer labels.

    Raises:
        DataError: the array has colours, negative or fractional values, or is a mask of foreground and background only.
    """
    try:
        return check_label_image(labels, name)
    except InputError as error:
        raise DataError(str(error), kind=error.kind) from error
