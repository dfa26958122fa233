"""Choice of the channels that the model sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.files.formats.base import FileReader
from runtime.files.readers import ImageReader

MODEL_CHANNELS = 3
"""Channels of the model input: (blank, nuclear, whole-cell), or red, green and blue."""

GRAY_ROUNDING = 3
"""Maximum difference, in levels of 256, between the planes of a gray image that was saved as JPEG."""


@dataclass(frozen=True, slots=True)
class ChosenChannels:
    """``ImageReader`` for some channels of another reader, in the order of the model input."""

    reader: ImageReader
    places: tuple[int, ...]

    @property
    def name(self) -> str:
        """Name of the image."""
        return self.reader.name

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.reader.size_hw

    @property
    def dtype(self) -> np.dtype[Any]:
        """Data type of the pixel values."""
        return self.reader.dtype

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the chosen channels."""
        return tuple(self.reader.channels[place] for place in self.places)

    @property
    def pixel_size_um(self) -> float | None:
        """Side of a pixel, micrometres; None if the file does not declare it."""
        return self.reader.pixel_size_um

    def read(self, top: int, left: int, height: int, width: int) -> NDArray[np.generic]:
        """Read a part as ``ImageReader.read`` does, (height, width, number of chosen channels)."""
        if isinstance(self.reader, FileReader):
            return self.reader.read(top, left, height, width, self.places)
        return self.reader.read(top, left, height, width)[..., list(self.places)]


def choose_channels(
    reader: ImageReader, *, nuclear: str | int | None = None, membrane: str | int | None = None, rgb: bool = False
) -> ChosenChannels:
    """Choose the channels that the model sees: its input is (blank, nuclear, whole-cell), filled from the right.

    Args:
        reader: an image.
        nuclear: name or number (from 0) of the channel of the nuclei.
        membrane: name or number of the channel of whole cells (membrane, cytoplasm). If only one of ``nuclear`` and
            ``membrane`` is given, the model segments what that channel shows.
        rgb: use all three planes as the colours of the image (histology); not needed if the file declares RGB.

    Returns:
        One to three channels. Without a choice, all channels of the image: one is whole-cell (or only nuclei), two are
        nuclear and whole-cell, three fill the input.

    Raises:
        InputError: the image has more than three channels and none was chosen, a chosen channel does not exist, or the
            choices contradict each other. The message lists the channels.
    """
    if nuclear is not None or membrane is not None:
        if rgb:
            raise InputError(
                f"{reader.name} was requested in colour (rgb) and by channel; expected one of the two. Leave one out.",
                kind="conflict",
                field="rgb",
            )
        wishes = (("nuclear", nuclear), ("membrane", membrane))
        chosen = [_place(reader, wanted, name) for name, wanted in wishes if wanted is not None]
        if len(set(chosen)) < len(chosen):
            raise InputError(
                f"{reader.name}: channel {_listed(reader.channels)[chosen[0]]} is chosen as nuclear and as membrane; "
                "expected two channels. Leave one out if the image has only one.",
                kind="conflict",
                field="membrane",
            )
        return ChosenChannels(reader, tuple(chosen))
    count = len(reader.channels)
    if rgb and count != MODEL_CHANNELS:
        raise InputError(
            f"{reader.name} has {_channels(reader)}; expected three, red, green and blue.", kind="conflict", field="rgb"
        )
    if count > MODEL_CHANNELS:
        raise InputError(
            f"{reader.name} has {_channels(reader)}; expected at most three. Choose with nuclear= and membrane=, by "
            "name or number.",
            kind="missing",
            field="nuclear",
        )
    return ChosenChannels(reader, tuple(range(count)))


def without_copies(image: NDArray[np.generic]) -> NDArray[np.generic]:
    """Reduce a colour image to one plane if it shows a gray image, as microscope software often saves it.

    Args:
        image: (H, W, 3), red, green and blue.

    Returns:
        (H, W, 1) if only one plane is not constant, or if all three are equal up to colour conversion rounding
        (``GRAY_ROUNDING``); else the image.
    """
    live = [place for place in range(MODEL_CHANNELS) if image[..., place].min() != image[..., place].max()]
    if len(live) == 1:
        return image[..., live]
    rounding = GRAY_ROUNDING if image.dtype == np.uint8 else 0
    red, green, blue = (image[..., place].astype(np.float64) for place in range(MODEL_CHANNELS))
    if max(np.abs(red - green).max(), np.abs(blue - green).max()) <= rounding:
        return image[..., 1:2]
    return image


def _listed(names: Sequence[str]) -> list[str]:
    """List the number and name of each channel; only the number if it has no name."""
    return [name if name == str(number) else f"{number} ({name})" for number, name in enumerate(names)]


def _channels(reader: ImageReader) -> str:
    listed = _listed(reader.channels)
    if len(listed) == 1:
        return "one channel" if listed == ["0"] else f"one channel, {listed[0]}"
    return f"{len(listed)} channels: {', '.join(listed)}"


def _place(reader: ImageReader, wanted: str | int, argument: str) -> int:
    """Find a channel by exact name, by name without case, or by number; ``argument`` is for messages."""
    names = list(reader.channels)
    if isinstance(wanted, str):
        for found in (
            [place for place, name in enumerate(names) if name == wanted],
            [place for place, name in enumerate(names) if name.strip().casefold() == wanted.strip().casefold()],
        ):
            if len(found) > 1:
                raise InputError(
                    f"{reader.name} has several channels {wanted!r} among its {_channels(reader)}; choose by number.",
                    kind="conflict",
                    field=argument,
                )
            if found:
                return found[0]
    if isinstance(wanted, int) or wanted.isdecimal():
        number = int(wanted)
        if 0 <= number < len(names):
            return number
    advice = f"; leave {argument}= out" if len(names) == 1 else ""
    raise InputError(
        f"{reader.name} has no channel {wanted!r}; it has {_channels(reader)}{advice}.",
        kind="not_found",
        field=argument,
    )
