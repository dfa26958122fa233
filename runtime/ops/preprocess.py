"""Checks of the caller's array and normalisation of its contrast, before it is cut into views. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from runtime.errors import InputError
from runtime.ops.arrays import as_array
from runtime.ops.clahe import equalize, gray_bins
from runtime.ops.compiled import compiled, looked_up
from runtime.types import F32

CLAHE_KERNEL_PX = 128  # paper, Appendix A
CLIP_PERCENTILE = 99.9  # per channel, to suppress single bright pixels


def check_image(image: ArrayLike, name: str = "image") -> NDArray[np.generic]:
    """Check an image and return it as (H, W, C), C in 1..3, real and finite.

    Args:
        image: (H, W) or (H, W, C) with C <= 3, any real dtype.
        name: name of the image, for errors.

    Raises:
        InputError: the shape does not fit, or the image is empty, not real, masked, or has NaN or infinite values.
    """
    array = as_array(image, name, "(H, W) or (H, W, C)")
    if array.dtype.kind not in "biuf":
        hint = "Convert it first."
        if array.dtype.kind in "US" or isinstance(image, Path):
            hint = "To read a file: runtime.files.plain.read_image(path)."
        raise InputError(
            f"{name} has dtype {array.dtype}; expected real numbers (bool, integer or float). {hint}", kind="wrong_type"
        )
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] > 3):
        hint = "Pick up to three channels, or one plane of a stack: image[z]"
        if isinstance(image, list | tuple) and array.ndim > 2:
            hint = "To segment several images: segmenter.batch(images)"
        elif array.ndim == 3 and array.shape[0] <= 3:
            hint = "Move the channel axis last: np.moveaxis(image, 0, -1)"
        elif array.ndim == 3 and array.shape[2] == 4:
            hint = "Drop the alpha channel: image[..., :3]"
        elif array.ndim > 3:
            hint = "Segment one plane at a time"
        raise InputError(
            f"{name} has shape {array.shape}; expected (H, W) or (H, W, C) with C <= 3. {hint}.", kind="wrong_shape"
        )
    if array.size == 0:
        raise InputError(
            f"{name} is empty with shape {array.shape}; expected at least one pixel. Check how it was read.",
            kind="wrong_shape",
        )
    array = array if array.ndim == 3 else array[..., None]
    if array.dtype.kind == "f" and not (finite := np.isfinite(array)).all():
        pixels = finite.shape[0] * finite.shape[1]
        bad = pixels - np.count_nonzero(finite.all(axis=2))
        raise InputError(
            f"{name} has {bad} of {pixels} pixels with NaN or infinite values; expected finite numbers. Replace "
            "them, for example with the background, and save the image again (Fiji: Process > Noise > Remove NaNs; "
            "Python: np.nan_to_num(image, posinf=0, neginf=0)).",
            kind="invalid",
        )
    return array


def _as_float64(values: NDArray[np.generic]) -> NDArray[np.float64]:
    """Convert values of a channel to float64.

    Raises:
        InputError: float64 cannot represent the values.
    """
    if values.dtype == np.float64:
        return values  # type: ignore[return-value]  # finite, see check_image
    with np.errstate(over="ignore"):
        converted = values.astype(np.float64)
    whole = values.dtype.kind in "iu"
    if not np.isfinite(converted).all() or (whole and values.dtype.itemsize == 8 and np.abs(converted).max() > 2**53):
        raise InputError(
            f"image has values up to {values.max()}; expected values that float64 represents exactly. Rescale it, for "
            "example subtract its minimum.",
            kind="out_of_range",
        )
    return converted


class EqualizePlane(Protocol):
    """A function with the arguments and the result of ``equalized_plane``."""

    def __call__(self, plane: NDArray[np.generic], *, invert: bool = False) -> F32 | None:
        """Equalise one channel."""


def equalized_plane(plane: NDArray[np.generic], *, invert: bool = False) -> F32 | None:
    """Clip and equalise one channel; see ``normalize_contrast``.

    Args:
        plane: (H, W), real.
        invert: swap dark and bright before CLAHE.

    Returns:
        (H, W) float32 in [0, 1]; None if the channel is constant.

    Raises:
        InputError: float64 cannot represent the values.
    """
    span = channel_range(plane)
    return None if span is None else equalize(bins_within(plane, span, invert=invert), CLAHE_KERNEL_PX)


def normalize_contrast(image: ArrayLike, *, invert: bool = False, equalized: EqualizePlane = equalized_plane) -> F32:
    """Clip bright outliers and equalise the contrast of each channel (paper, Appendix A).

    Each channel is clipped to the 99.9th percentile of its non-zero values, rescaled to [0, 1] and equalised by CLAHE
    with a 128-pixel kernel. A constant channel becomes 0.

    Args:
        image: (H, W) or (H, W, C <= 3), real.
        invert: swap dark and bright before CLAHE; a constant channel stays 0.
        equalized: what clips and equalises a channel.

    Returns:
        (H, W, 3) float32 in [0, 1].

    Raises:
        InputError: see ``check_image``.
    """
    checked = check_image(image)
    out = blank_channels(checked.shape[0], checked.shape[1])
    for index, target in enumerate(channel_targets(checked.shape[2])):
        # Processing one channel at a time bounds the memory.
        plane = equalized(checked[..., index], invert=invert)
        if plane is not None:
            out[..., target] = plane
    return out


TABLED = (np.dtype(np.uint8), np.dtype(np.uint16))
"""Types with few possible values, which are processed once per value instead of once per pixel."""

_TOGETHER_PX = 1 << 18
"""Number of pixels that are processed together in float64."""

Range = tuple[float, float]
"""Lowest value of a channel, and highest value after clipping."""


def channel_range(plane: NDArray[np.generic]) -> Range | None:
    """Find the range of a channel, (H, W) or (n,); return None if it is constant.

    Raises:
        InputError: float64 cannot represent the values.
    """
    if plane.dtype in TABLED:
        return counted_range(_value_counts(plane, _value_number(plane)))
    extremes = _as_float64(np.array([plane.min(), plane.max()]))
    nonzero = plane[plane != 0]
    if nonzero.size == 0:
        return None
    values = _as_float64(nonzero)
    with np.errstate(over="ignore", invalid="ignore"):
        clip = float(np.percentile(values, CLIP_PERCENTILE, overwrite_input=True))
        low, high = (min(float(value), clip) for value in extremes)
        spread = float(extremes[1]) - float(extremes[0])
    if not math.isfinite(spread):
        raise InputError(
            f"image has values from {extremes[0]:g} to {extremes[1]:g}, a range beyond that of float64; expected "
            "values with a finite difference. Rescale them, unless they are damaged.",
            kind="out_of_range",
        )
    return None if low == high else (low, high)


def counted_range(counts: NDArray[np.intp]) -> Range | None:
    """Find ``channel_range`` of the values 0, 1, ... that occur ``counts`` times each; at least one must occur."""
    present = np.flatnonzero(counts)
    clip = _percentile_of_counts(counts[1:], CLIP_PERCENTILE) if present[-1] else 0.0
    low, high = min(float(present[0]), clip), min(float(present[-1]), clip)
    return None if low == high else (low, high)


def bins_within(plane: NDArray[np.generic], span: Range, *, invert: bool = False) -> NDArray[np.uint8]:
    """Compute the histogram bins of a channel, (H, W), after rescaling its range to [0, 1] and clipping."""
    if plane.dtype in TABLED:
        return looked_up(plane, bin_table(_value_number(plane), span, invert=invert))
    bins = np.empty(plane.shape, np.uint8)
    for part in _parts(*plane.shape):
        bins[part] = _bins(_as_float64(plane[part]), span, invert)
    return bins


def bin_table(number: int, span: Range, *, invert: bool = False) -> NDArray[np.uint8]:
    """Compute the histogram bins of the values 0, 1, ..., ``number`` - 1; see ``bins_within``."""
    return _bins(np.arange(number, dtype=np.float64), span, invert)


def _parts(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Yield the parts of a channel to process in float64 one after the other, to save memory."""
    columns = min(width, _TOGETHER_PX)
    rows = max(1, _TOGETHER_PX // columns)
    for top, left in product(range(0, height, rows), range(0, width, columns)):
        yield slice(top, top + rows), slice(left, left + columns)


def _value_number(plane: NDArray[np.generic]) -> int:
    """Return the table size for the values of a plane of an integer type, at least 2."""
    return 256 if plane.dtype == np.uint8 else max(2, int(plane.max()) + 1)


@compiled
def _value_counts(plane: NDArray[Any], number: int) -> NDArray[np.intp]:
    counts = np.zeros(number, np.intp)
    for value in plane.flat:
        counts[value] += 1
    return counts


def _bins(values: NDArray[np.float64], span: Range, invert: bool) -> NDArray[np.uint8]:
    low, high = span
    unit = (np.clip(values, low, high) - low) / (high - low)
    return gray_bins(1 - unit if invert else unit)


def _percentile_of_counts(counts: NDArray[np.intp], percentile: float) -> float:
    """Compute ``numpy.percentile`` of the values 1, 2, ... that occur ``counts`` times each; one must occur."""
    upto = np.cumsum(counts)
    place = (upto[-1] - 1) * (percentile / 100)
    before, after = np.searchsorted(upto, [np.floor(place), np.ceil(place)], side="right") + 1.0
    share = place - np.floor(place)
    # Interpolates from the nearer end, as numpy does.
    return float(before + (after - before) * share if share < 0.5 else after - (after - before) * (1 - share))


def blank_channels(height: int, width: int) -> F32:
    """Create (H, W, 3) zeros, channel by channel in memory, because all later steps process one channel at a time."""
    return np.zeros((3, height, width), np.float32).transpose(1, 2, 0)


def channel_targets(count: int) -> range:
    """Return the target of each channel: right-aligned into (blank, nuclear, whole-cell), as in Appendix A."""
    return range(3 - count, 3)


def channels_used(image: NDArray[Any]) -> NDArray[np.bool_]:
    """Return (C,) whether each channel of an (H, W, C) image has a value other than 0."""
    return np.array([image[..., channel].any() for channel in range(image.shape[2])], np.bool_)


def take_normalized(image: ArrayLike) -> F32:
    """Arrange the channels of an image whose contrast is already normalised.

    Args:
        image: (H, W) or (H, W, C <= 3) in [0, 1].

    Returns:
        (H, W, 3) float32.

    Raises:
        InputError: values are outside [0, 1], or ``check_image`` rejects the image.
    """
    checked = check_image(image)
    low, high = checked.min(), checked.max()
    if low < 0 or high > 1:
        raise InputError(
            f"image has values from {low} to {high}; expected [0, 1], because normalize=False uses the image "
            "unchanged. Keep normalize=True for raw images.",
            kind="out_of_range",
            field="normalize",
        )
    out = blank_channels(checked.shape[0], checked.shape[1])
    out[..., list(channel_targets(checked.shape[2]))] = checked
    return out
