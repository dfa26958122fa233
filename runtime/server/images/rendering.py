"""Pixels of any depth and number of channels as a picture, with chosen channels, colours and contrast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.errors import ConfigError
from runtime.files.outputs.overlay import SHOWN_PERCENTILES
from runtime.types import F32, U8

MOST_CHANNELS = 3
"""Channels that are shown together."""

_SAMPLED_PX = 1_000_000
"""Pixels from which contrast is measured; of larger images, evenly spaced ones."""

_COLOURS = {
    1: ((1.0, 1.0, 1.0),),
    2: ((0.0, 1.0, 0.0), (1.0, 0.0, 1.0)),
    3: ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
}
"""Default colours by number of channels: gray; green and magenta; red, green and blue."""

Colour = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Contrast:
    """Range of one channel."""

    low: float
    """Value that is shown black."""
    high: float
    """Value that is shown at full brightness."""
    least: float
    most: float
    """Range of all values."""


@dataclass(frozen=True, slots=True)
class Look:
    """How to show an image."""

    channels: tuple[int, ...]
    colours: tuple[Colour, ...]
    contrast: tuple[tuple[float, float] | None, ...]
    """Range for each channel; None for the measured one."""


def measure_contrast(plane: NDArray[np.generic], *, whole_range: bool = False) -> Contrast:
    """Measure the contrast of a channel (H, W).

    Args:
        plane: the channel.
        whole_range: show all of 0 to 255, as in a colour picture.
    """
    step = max(1, int((plane.size / _SAMPLED_PX) ** 0.5))
    values = plane[::step, ::step].astype(np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        values = np.zeros(1)
    low, high = np.percentile(values, SHOWN_PERCENTILES)
    least, most = float(values.min()), float(values.max())
    if whole_range:
        low, high = 0.0, 255.0
    elif high <= low:
        low, high = least, max(most, least + 1)
    return Contrast(float(low), float(high), least, most)


def parse_look(channels: str | None, colours: str | None, contrast: str | None, count: int) -> Look:
    """Read how to show an image from the parameters of a query.

    Args:
        channels: numbers from 0, with commas; None for the first three.
        colours: as many RRGGBB, with commas; None for the usual ones.
        contrast: as many ``low:high`` or ``auto``, with commas; None for the measured ranges.
        count: channels of the image.

    Raises:
        ConfigError: one of them cannot be read, or the image lacks a channel.
    """
    chosen = tuple(range(min(count, MOST_CHANNELS))) if not channels else tuple(map(_channel, channels.split(",")))
    if not 1 <= len(chosen) <= MOST_CHANNELS or max(chosen) >= count:
        raise _rejected("channels", channels, f"1 to {MOST_CHANNELS} numbers from 0 to {count - 1}")
    given = _COLOURS[len(chosen)] if not colours else tuple(map(_colour, colours.split(",")))
    ranges = (None,) * len(chosen) if not contrast else tuple(map(_range, contrast.split(",")))
    for name, text, values in (("colours", colours, given), ("contrast", contrast, ranges)):
        if len(values) != len(chosen):
            raise _rejected(name, text, f"one entry for each of {len(chosen)} channels")
    return Look(chosen, given, ranges)


def render(planes: Sequence[NDArray[np.generic]], look: Look, measured: Sequence[Contrast]) -> U8:
    """Show part of an image.

    Args:
        planes: (h, w) for each of the look's channels.
        look: how to show them.
        measured: contrast of each of them in the whole image.

    Returns:
        (h, w, 3); overlapping colours add up.
    """
    picture: F32 = np.zeros((*planes[0].shape, 3), np.float32)
    for pixels, colour, given, usual in zip(planes, look.colours, look.contrast, measured, strict=True):
        low, high = given or (usual.low, usual.high)
        plane = (pixels.astype(np.float32) - np.float32(low)) / np.float32(max(high - low, 1e-12))
        plane = np.clip(np.nan_to_num(plane, posinf=1.0, neginf=0.0), 0, 1)
        for place, share in enumerate(colour):
            if share:
                picture[..., place] += np.float32(share) * plane
    shown: U8 = (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)
    return shown


def _channel(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 5):
        raise _rejected("channels", text, "numbers from 0, with commas")
    return int(text)


def _colour(text: str) -> Colour:
    try:
        red, green, blue = bytes.fromhex(text) if len(text) == 6 else b""
    except ValueError:
        raise _rejected("colours", text, "RRGGBB in hexadecimal digits, with commas") from None
    return red / 255, green / 255, blue / 255


def _range(text: str) -> tuple[float, float] | None:
    if text == "auto":
        return None
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        raise _rejected("contrast", text, "low:high or auto for each channel, with commas") from None
    if not (np.isfinite([low, high]).all() and low < high and abs(low) < 1e30 and abs(high) < 1e30):
        raise _rejected("contrast", text, "two finite numbers, the lower one first")
    return low, high


def _rejected(name: str, text: str | None, expected: str) -> ConfigError:
    return ConfigError(f"{name} is {(text or '')[:80]!r}; expected {expected}.", kind="invalid", field=name)
