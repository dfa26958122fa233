"""Classical segmenter for comparison: smoothing, threshold, distance transform, watershed. Pure functions."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from runtime.errors import ConfigError, InputError
from runtime.ops.masks import relabel
from runtime.ops.preprocess import check_image
from runtime.types import F32, I32, Bool

Channel = Literal["intensity", "hematoxylin", "texture"]
Threshold = Literal["otsu", "local"]


@dataclass(frozen=True, kw_only=True, slots=True)
class BaselineConfig:
    """Parameters of the classical segmenter; the defaults suit bright nuclei and are not tuned.

    Raises:
        ConfigError: a value is out of range.
    """

    channel: Channel = "intensity"
    """``intensity``: mean of the channels. ``hematoxylin``: stain separation of an RGB image (Ruifrok and Johnston
    2001). ``texture``: local standard deviation, for unstained cells that are as bright as their surroundings."""
    dark: bool = False
    """Invert the image, for cells that are darker than the background."""
    smoothing_px: float = 1.0
    """Standard deviation of the Gaussian before the threshold (for ``texture``, also its window), pixels."""
    threshold: Threshold = "otsu"
    """``otsu``: one threshold per image. ``local``: cells must also be brighter than their surroundings, for uneven
    light."""
    threshold_scale: float = 1.0
    """Factor on Otsu's threshold, measured from the darkest pixel."""
    local_window_px: float = 25.0
    """Standard deviation of the Gaussian that defines the surroundings, pixels; ``local`` only."""
    seed_smoothing_px: float = 1.0
    """Standard deviation of the Gaussian on the distance map, pixels; merges seeds of one cell."""
    seed_distance_px: int = 5
    """Smallest distance of two seeds, pixels."""
    min_area_px: int = 25
    """Smallest area of a cell, pixels; smaller cells are dropped."""

    def __post_init__(self) -> None:
        for name, value, allowed in (("channel", self.channel, Channel), ("threshold", self.threshold, Threshold)):
            if value not in get_args(allowed):
                raise ConfigError(
                    f"{name} is {value!r}; expected one of {', '.join(map(repr, get_args(allowed)))}.", field=name
                )
        for name in ("smoothing_px", "seed_smoothing_px", "min_area_px"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 or more.", field=name)
        for name in ("threshold_scale", "local_window_px", "seed_distance_px"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected more than 0.", field=name)


def segment_classical(image: NDArray[Any], config: BaselineConfig) -> I32:
    """Segment one image with the classical recipe.

    Args:
        image: (H, W) or (H, W, C <= 3), any real dtype.
        config: the parameters.

    Returns:
        (H, W) int32, 0 = background, 1..n cells.

    Raises:
        InputError: the image cannot be used, or ``hematoxylin`` is chosen for an image that is not RGB.

    Source: Otsu 1979 for the threshold; watershed on the distance map as in CellProfiler and scikit-image's
    documentation.
    """
    return next(segment_each(image, [config]))


def segment_each(image: NDArray[Any], configs: Iterable[BaselineConfig]) -> Iterator[I32]:
    """Run ``segment_classical`` with each parameter set; consecutive sets share the work of equal first steps."""
    checked = check_image(image)
    for first, same_foreground in itertools.groupby(configs, _foreground_part):
        inside = ndimage.binary_fill_holes(_foreground(_plane(checked, first), first))
        # The border counts as background, so that truncated cells have their seed inside the image.
        depth = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1].astype(np.float32)
        for second, same_split in itertools.groupby(same_foreground, lambda c: replace(c, min_area_px=0)):
            labels = _split(inside, depth, second)
            for config in same_split:
                yield _drop_small(labels, config.min_area_px)


def _foreground_part(config: BaselineConfig) -> BaselineConfig:
    """Reset all parameters that do not affect the foreground."""
    return replace(config, seed_smoothing_px=0.0, seed_distance_px=1, min_area_px=0)


def _plane(image: NDArray[np.generic], config: BaselineConfig) -> F32:
    """Reduce (H, W, C) to one smoothed (H, W) plane in which cells are bright."""
    plane = _hematoxylin(image) if config.channel == "hematoxylin" else image.astype(np.float32).mean(axis=2)
    if config.channel == "texture":
        window = 2.0 * config.smoothing_px
        mean = ndimage.gaussian_filter(plane, window)
        plane = np.sqrt(np.maximum(ndimage.gaussian_filter(plane**2, window) - mean**2, 0.0))
    elif config.dark:
        plane = plane.max() - plane
    smooth: F32 = ndimage.gaussian_filter(plane, config.smoothing_px)
    return smooth


def _hematoxylin(image: NDArray[np.generic]) -> F32:
    from skimage.color import rgb2hed

    if image.shape[2] != 3:
        raise InputError(
            f"image has {image.shape[2]} channels; channel 'hematoxylin' needs an RGB image.", kind="wrong_shape"
        )
    stain: F32 = rgb2hed(image)[..., 0].astype(np.float32)
    return stain


def _foreground(plane: F32, config: BaselineConfig) -> Bool:
    from skimage.filters import threshold_otsu

    low = float(plane.min())
    if low == float(plane.max()):
        return np.zeros(plane.shape, np.bool_)
    otsu = float(threshold_otsu(plane))  # type: ignore[no-untyped-call]
    inside: Bool = plane > low + config.threshold_scale * (otsu - low)
    if config.threshold == "local":
        inside &= plane > ndimage.gaussian_filter(plane, config.local_window_px)
    return inside


def _split(inside: Bool, depth: F32, config: BaselineConfig) -> I32:
    """Split touching cells; ``depth`` is the distance to the background, pixels."""
    from skimage.feature import peak_local_max
    from skimage.segmentation import watershed

    depth = ndimage.gaussian_filter(depth, config.seed_smoothing_px)
    parts, _ = ndimage.label(inside)
    peaks = peak_local_max(  # type: ignore[no-untyped-call]
        depth, min_distance=config.seed_distance_px, labels=parts, exclude_border=False
    )
    seeds = np.zeros(inside.shape, np.int32)
    seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    labels: I32 = watershed(-depth, seeds, mask=inside).astype(np.int32)  # type: ignore[no-untyped-call]
    return labels


def _drop_small(labels: I32, min_area_px: int) -> I32:
    areas = np.bincount(labels.ravel())
    return relabel(np.where(areas[labels] < min_area_px, 0, labels), len(areas) - 1)[0]
