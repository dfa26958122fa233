"""Choice of the image plane in a stack. Pure functions on axis names and shapes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError

Array = NDArray[np.generic]

_log = logging.getLogger(__name__)

UNNAMED = "QI"
"""Axes of pages that a TIFF does not describe (tifffile's letters)."""

NAMED_FEW = 3
"""Up to this many undescribed pages count as channels by default, since the model input has three."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plane:
    """Choice of a plane in a stack, counted from 0."""

    time: int | None = None
    """Time point; required if there are several."""
    z: int | None = None
    """Z plane; required if there are several."""
    pages_are_channels: bool = False
    """Treat undescribed pages as channels, in any number."""


@dataclass(frozen=True, slots=True)
class PlaneAxes:
    """Position of a plane in an array with several axes."""

    y: int
    x: int
    channel: int | None
    """The axis of the channels, which are pages or samples of a pixel; None if there is one channel."""
    fixed: dict[int, int]
    """The index along each of the other axes."""
    stack: dict[str, int] = field(default_factory=dict)
    """Length of the axes T and Z that are longer than 1."""

    def index(self, rows: slice, columns: slice, channel: int) -> tuple[slice | int, ...]:
        """Return the array index of a part of one channel."""
        places: dict[int, slice | int] = {**self.fixed, self.y: rows, self.x: columns}
        if self.channel is not None:
            places[self.channel] = channel
        return tuple(places[axis] for axis in range(len(places)))


def find_plane(axes: str, shape: Sequence[int], plane: Plane, name: str) -> PlaneAxes:
    """Find the chosen plane among the axes of an array.

    Args:
        axes: a letter for each axis: Y, X, C (channels), S (samples of a pixel), T, Z, Q or I (undescribed pages).
            Other axes must have length 1.
        shape: shape of the array.
        plane: the choice.
        name: name of the file, for messages.

    Raises:
        InputError: a choice is missing, is out of range, or names an axis that does not exist; or the axes are not
            those of an image. The message names the axes.
    """
    came = f"{name} has axes {axes} with shape {tuple(shape)}"
    if axes.count("Y") != 1 or axes.count("X") != 1:
        raise InputError(
            f"{came}; expected one Y and one X axis. Save the plane to segment as an image.", kind="wrong_shape"
        )
    meaning = _named(axes, shape, plane, came)
    wanted = {"T": plane.time, "Z": plane.z}
    fixed: dict[int, int] = {}
    channel: int | None = None
    missing: dict[str, int] = {}
    for axis, (letter, size) in enumerate(zip(meaning, shape, strict=True)):
        if letter in "YX":
            continue
        if letter in "CS" and size > 1:
            if channel is not None:
                raise InputError(
                    f"{came}; expected one channel axis. Save the channels to segment as an image.",
                    kind="wrong_shape",
                )
            channel = axis
        elif letter in wanted and (chosen := wanted.pop(letter)) is not None:
            if not 0 <= chosen < size:
                raise InputError(
                    f"{came}; {_FIELDS[letter]}={chosen} was given, expected 0 to {size - 1}.",
                    kind="out_of_range",
                    field=_FIELDS[letter],
                )
            fixed[axis] = chosen
        elif size == 1:
            fixed[axis] = 0
        elif letter in _FIELDS:
            missing[_FIELDS[letter]] = size
        else:
            raise InputError(
                f"{came}; expected one plane of channels. A plane cannot be chosen along axis {letter}; save the plane "
                "to segment as an image.",
                kind="wrong_shape",
            )
    if missing:
        ranges = [f"{name}=0..{size - 1}" for name, size in missing.items()]
        raise InputError(
            f"{came}; expected one plane. Choose it: {' and '.join(ranges)}.", kind="missing", field=next(iter(missing))
        )
    for letter, chosen in wanted.items():
        if chosen:
            raise InputError(
                f"{came}; {_FIELDS[letter]}={chosen} was given, but there is no axis {letter}. Leave it out.",
                kind="not_found",
                field=_FIELDS[letter],
            )
    stack = {letter: size for letter, size in zip(meaning, shape, strict=True) if letter in _FIELDS and size > 1}
    return PlaneAxes(axes.index("Y"), axes.index("X"), channel, fixed, stack)


_FIELDS = {"T": "time", "Z": "z"}
"""Fields of ``Plane`` by axis."""


def _named(axes: str, shape: Sequence[int], plane: Plane, came: str) -> str:
    """Give undescribed pages an axis: that of the chosen plane, or channels."""
    unnamed = [axis for axis, letter in enumerate(axes) if letter in UNNAMED and shape[axis] > 1]
    if not unnamed:
        return axes
    pages = shape[unnamed[0]]
    has_channels = any(letter in "CS" and size > 1 for letter, size in zip(axes, shape, strict=True))
    if plane.z is not None and "Z" not in axes:
        letter = "Z"
    elif plane.time is not None and "T" not in axes:
        letter = "T"
    else:
        letter = "C" if not has_channels and (plane.pages_are_channels or pages <= NAMED_FEW) else ""
    if not letter or len(unnamed) > 1:
        raise InputError(
            f"{came} and does not describe its {pages} pages; expected one plane of up to three channels. Choose a "
            f"plane with z=0..{pages - 1} or time=0..{pages - 1}, or channels with nuclear= and membrane=.",
            kind="missing",
            field="nuclear",
        )
    if letter == "C" and not plane.pages_are_channels:
        _warn_pages_are_channels(came, pages)
    return axes[: unnamed[0]] + letter + axes[unnamed[0] + 1 :]


@lru_cache(maxsize=4096)
def _warn_pages_are_channels(came: str, pages: int) -> None:
    """Warn once per file, although a file may be opened several times: to check it, and to segment its tiles."""
    _log.warning(
        "%s and does not describe its %d pages; they are taken as channels. If they are time points or planes, choose "
        "one with time= or z=.",
        came,
        pages,
    )


def part_of_array(
    array: Any, axes: PlaneAxes, part: tuple[int, int, int, int], channels: Sequence[int]
) -> NDArray[np.generic]:
    """Return the part (top, left, height, width) of a plane, (h, w, C) in native byte order.

    ``array`` is a numpy or zarr array; only the requested part is read.
    """
    top, left, height, width = part
    planes = []
    for channel in channels:
        found: Array = np.asarray(array[axes.index(slice(top, top + height), slice(left, left + width), channel)])
        planes.append(found if axes.y < axes.x else found.T)
    stacked: Array = np.stack(planes, axis=2)
    return stacked.astype(stacked.dtype.newbyteorder("="), copy=False)
