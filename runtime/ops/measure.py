"""Measurements of the cells of a label map. Pure functions on arrays.

Each function returns a dict of columns, (n,) arrays in the order of the labels 1..n.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from runtime.errors import InputError
from runtime.types import Arrays, Bool

SHAPES = ("perimeter_px", "eccentricity")
"""Columns of ``shapes``."""

INTENSITIES = ("intensity_mean", "intensity_median", "intensity_min", "intensity_max")
"""Columns of ``intensities``, per channel."""


def areas(labels: NDArray[np.integer]) -> Arrays:
    """Count the pixels of each cell and find their mean position.

    Args:
        labels: (H, W); 0 is background, 1..n are the cells.

    Returns:
        ``label_area_px``, int64; ``centroid_y`` and ``centroid_x``, float64 pixels, 0 at the centre of the first pixel.
        A label without pixels has area 0 and NaN as its centroid.
    """
    count = int(labels.max(initial=0))
    pixels = np.bincount(labels.ravel(), minlength=count + 1)[1:].astype(np.int64)
    centroids = np.full((2, count), np.nan)
    for n, region in enumerate(ndimage.find_objects(labels)):
        if region is not None:
            inside = labels[region] == n + 1
            for axis in (0, 1):
                along = inside.sum(axis=1 - axis)
                centroids[axis, n] = along @ (np.arange(len(along)) + region[axis].start) / pixels[n]
    return {"label_area_px": pixels, "centroid_y": centroids[0], "centroid_x": centroids[1]}


def shapes(labels: NDArray[np.integer]) -> Arrays:
    """Measure the outline and elongation of each cell.

    Args:
        labels: (H, W); 0 is background, 1..n are the cells, each with at least one pixel.

    Returns:
        ``perimeter_px``, float64 pixels: length of the line through the centres of the cell's border pixels, including
        those around holes. ``eccentricity``, float64: eccentricity of the ellipse with the cell's second moments, from
        0 (a circle) to 1 (a line).

    Source: scikit-image, ``skimage.measure.regionprops_table``.
    """
    from skimage.measure import regionprops_table

    found = regionprops_table(labels, properties=("perimeter", "eccentricity"))  # type: ignore[no-untyped-call]
    return {"perimeter_px": found["perimeter"], "eccentricity": found["eccentricity"]}


def intensities(labels: NDArray[np.integer], image: ArrayLike, channels: Sequence[str] | None = None) -> Arrays:
    """Measure the pixel values of each cell in every channel of an image.

    Args:
        labels: (H, W); 0 is background, 1..n are the cells, each with at least one pixel.
        image: (H, W) or (H, W, C), any real dtype, any number of channels.
        channels: names of the channels.

    Returns:
        The columns that ``intensity_columns`` names, float64, in the units of the image.

    Raises:
        InputError: the image has another size or an unsupported dtype, or the number of names does not fit.

    Source: scikit-image, ``skimage.measure.regionprops_table``.
    """
    from skimage.measure import regionprops_table

    checked = check_measured(image, labels.shape)
    planes = [checked] if checked.ndim == 2 else [checked[..., channel] for channel in range(checked.shape[2])]
    if channels is None and checked.ndim == 3:
        channels = tuple(map(str, range(len(planes))))
    if channels is not None and (len(channels) != len(planes) or len(set(channels)) < len(channels)):
        raise InputError(
            f"{len(channels)} channel names were given ({', '.join(channels)}); expected {len(planes)} different ones, "
            "one per channel of the image. Give all of them, or none."
        )
    columns: list[NDArray[np.float64]] = []
    for plane in planes:
        found = regionprops_table(  # type: ignore[no-untyped-call]
            labels, plane, properties=("intensity_mean", "intensity_min", "intensity_max"), extra_properties=(median,)
        )
        columns += [found[name].astype(np.float64) for name in ("intensity_mean", "median", *INTENSITIES[2:])]
    return dict(zip(intensity_columns(channels), columns, strict=True))


def intensity_columns(channels: Sequence[str] | None) -> tuple[str, ...]:
    """Name the columns of ``intensities``.

    Args:
        channels: names of the channels; None for an (H, W) image without a name.

    Returns:
        ``intensity_mean_NAME``, ``intensity_median_NAME``, ``intensity_min_NAME`` and ``intensity_max_NAME`` for each
        channel; without ``_NAME`` for None.
    """
    endings = ("",) if channels is None else tuple(f"_{channel}" for channel in channels)
    return tuple(f"{name}{ending}" for ending in endings for name in INTENSITIES)


def median(mask: Bool, image: NDArray[Any]) -> float:
    """Compute the median of an image within a mask; ``regionprops`` lacks it before scikit-image 0.26."""
    return float(np.median(image[mask]))


def check_measured(image: ArrayLike, size_hw: tuple[int, ...]) -> NDArray[np.generic]:
    """Check that an image can be measured and return it as an array.

    Args:
        image: (H, W) or (H, W, C).
        size_hw: size of the label map.

    Raises:
        InputError: the size or dtype does not fit.
    """
    array = np.asarray(image)
    if array.ndim not in (2, 3) or array.shape[:2] != tuple(size_hw):
        height, width = size_hw
        hint = "Give the image that was segmented"
        if array.ndim == 3 and array.shape[1:] == tuple(size_hw):
            hint = "Move the channel axis last: np.moveaxis(image, 0, -1)"
        raise InputError(
            f"image has shape {array.shape}; expected ({height}, {width}) or ({height}, {width}, C), the size of the "
            f"label map. {hint}."
        )
    if array.dtype.kind not in "biuf":
        raise InputError(
            f"image has dtype {array.dtype}; expected real numbers (bool, integer or float). Convert it first."
        )
    return array
