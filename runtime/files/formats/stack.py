"""The planes of a stack or movie, of which readers open one at a time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from runtime.errors import ConfigError, InputError
from runtime.files.formats import open_image
from runtime.files.formats.axes import UNNAMED, Plane

ALL = "all"

_RANGE = re.compile(r"(\d+)(?:-(\d+))?")


@dataclass(frozen=True, slots=True)
class StackAxis:
    """The axis along which an image has planes."""

    letter: Literal["T", "Z"]
    length: int
    plane: Plane
    """The choice along the other axis."""

    @property
    def column(self) -> str:
        """Name of the table column with the number of the plane."""
        return "frame" if self.letter == "T" else "plane"

    def at(self, number: int) -> Plane:
        """Return the choice of one plane."""
        return replace(self.plane, time=number) if self.letter == "T" else replace(self.plane, z=number)


def find_stack(path: Path, series: str | None, plane: Plane) -> StackAxis:
    """Find the axis over which the planes of an image lie.

    Args:
        path: the image file.
        series: the image, if the file has several.
        plane: the choice along one of two axes. Pages that the file does not describe are time points, unless
            ``plane.time`` is given.

    Returns:
        The axis; an image of one plane is a movie of one frame.

    Raises:
        InputError: the file cannot be read, or has time points and z planes and neither is chosen.
    """
    first = Plane(time=plane.time or 0, z=plane.z or 0, pages_are_channels=plane.pages_are_channels)
    with open_image(path, series=series, plane=first) as reader:
        lengths = dict(reader.stack)
        unnamed = bool(set(UNNAMED) & set(getattr(reader, "axes", "")))
    if unnamed and plane.time is None and plane.z is None and "Z" in lengths and "T" not in lengths:
        lengths = {"T": lengths["Z"]}
    open_axes = {letter: size for letter, size in lengths.items() if getattr(plane, _FIELDS[letter]) is None}
    if len(open_axes) > 1:
        raise InputError(
            f"{path} has {lengths['T']} time points and {lengths['Z']} z planes; expected one of the two to run over. "
            "Choose the other: z= or time=.",
            kind="missing",
            field="z",
        )
    if not open_axes:
        return StackAxis("T", 1, plane)
    (letter,) = open_axes
    return StackAxis("T" if letter == "T" else "Z", open_axes[letter], plane)


_FIELDS = {"T": "time", "Z": "z"}


def parse_planes(text: str, length: int | None = None) -> Sequence[int]:
    """Parse a choice of planes: ``all``, a number, or a range such as ``0-9``, whose last number belongs to it.

    Args:
        text: the choice.
        length: number of planes of the image; None only checks the form.

    Raises:
        ConfigError: the text has another form.
        InputError: the image has fewer planes.
    """
    found = _RANGE.fullmatch(text)
    if text != ALL and (found is None or int(found[2] or found[1]) < int(found[1])):
        raise ConfigError(
            f"planes is {text!r}; expected all, a number from 0, or a range such as 0-9.",
            kind="invalid",
            field="planes",
        )
    if found is None:
        return range(length or 0)
    last = int(found[2] or found[1])
    if length is not None and last >= length:
        raise InputError(
            f"planes is {text}, but the image has {length}; expected numbers from 0 to {length - 1}.",
            kind="out_of_range",
            field="planes",
        )
    return range(int(found[1]), last + 1)
