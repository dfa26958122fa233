"""Reading of source files as channels and label maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    if labels.ndim == 3 and is_gray(labels):
        labels = labels[..., 0]
    if labels.ndim != 2:
        raise DataError(
            f"{name} has shape {labels.shape}; expected a label map (H, W). Save one id per object.", kind="wrong_shape"
        )
    if labels.dtype.kind == "f" and np.isfinite(labels).all() and not (labels % 1).any():
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "bui" or labels.min(initial=0) < 0:
        raise DataError(
            f"{name} contains {labels.dtype} from {labels.min()} to {labels.max()}; expected whole numbers from 0. "
            "Save one id per object.",
            kind="wrong_type",
        )
    labels = labels.astype(np.uint8) if labels.dtype.kind == "b" else labels
    if labels.any() and labels.max() == labels[labels > 0].min():
        parts = connected_parts(labels > 0).max()
        if parts > 1:
            raise DataError(
                f"{name} contains one value, {labels.max()}, in {parts} separate parts; expected one id per object. "
                "Label the objects of the mask first."
            )
    return labels


def connected_parts(mask: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Number the connected parts of (H, W) 1..n; parts that touch at a corner count as one."""
    from skimage.measure import label

    parts: NDArray[np.int32] = label(mask, connectivity=2).astype(np.int32)  # type: ignore[no-untyped-call]
    return parts
