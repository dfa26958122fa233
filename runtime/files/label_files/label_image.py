"""Reader of label images: a plane of whole numbers, one for each cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.files.plain import read_image
from runtime.types import I32

MAX_NUMBER = (1 << 31) - 1


def read_label_image(path: str | Path) -> I32:
    """Read a TIFF, OME-TIFF, PNG or npy file of labels.

    Returns:
        (H, W) int32, 0 background. Numbers beyond int32 are replaced by 1..n in their order.

    Raises:
        InputError: the file cannot be read, or does not contain labels.
    """
    path = Path(path)
    labels = check_label_image(read_image(path), path.name)
    if labels.max(initial=0) > MAX_NUMBER:
        return renumbered(labels)
    return labels.astype(np.int32)


def renumbered(labels: NDArray[Any]) -> I32:
    """Number the cells of a label map, (H, W), 1..n in the order of their numbers; 0 stays background."""
    values, places = np.unique(labels, return_inverse=True)
    numbers = np.arange(len(values), dtype=np.int32) + np.int32(values[0] != 0)
    numbered: I32 = numbers[places.reshape(labels.shape)]
    return numbered


def check_label_image(labels: NDArray[Any], name: str) -> NDArray[Any]:
    """Return labels (H, W) of integers.

    Args:
        labels: (H, W), or (H, W, C) with equal channels; floats must be whole numbers.
        name: name of the file, for errors.

    Raises:
        InputError: the array has colours, negative or fractional values, or is a mask of foreground and background.
    """
    if labels.ndim == 3 and bool((labels == labels[..., :1]).all()):
        labels = labels[..., 0]
    if labels.ndim != 2:
        raise InputError(
            f"{name} has shape {labels.shape}; expected a label map (H, W). Save one id per object.", kind="wrong_shape"
        )
    if labels.dtype.kind == "f" and np.isfinite(labels).all() and not (labels % 1).any():
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "bui" or labels.min(initial=0) < 0:
        raise InputError(
            f"{name} contains {labels.dtype} from {labels.min()} to {labels.max()}; expected whole numbers from 0. "
            "Save one id per object.",
            kind="wrong_type",
        )
    labels = labels.astype(np.uint8) if labels.dtype.kind == "b" else labels
    if labels.any() and labels.max() == labels[labels > 0].min():
        parts = connected_parts(labels > 0).max()
        if parts > 1:
            raise InputError(
                f"{name} contains one value, {labels.max()}, in {parts} separate parts; expected one id per object. "
                "Label the objects of the mask first."
            )
    return labels


def connected_parts(mask: NDArray[np.bool_]) -> I32:
    """Number the connected parts of (H, W) 1..n; parts that touch at a corner count as one."""
    from skimage.measure import label

    parts: I32 = label(mask, connectivity=2).astype(np.int32)  # type: ignore[no-untyped-call]
    return parts
