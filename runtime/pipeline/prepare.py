"""Images as the model takes them, before they are cut into views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from runtime.config import SegmentConfig
from runtime.ops.compiled import channels_used
from runtime.ops.preprocess import check_image, normalize_contrast, take_normalized
from runtime.results import Appearance
from runtime.types import F32

NUCLEAR, WHOLE_CELL = 1, 2
"""Planes of the model input; the first one is blank unless the image has three channels."""


@dataclass(frozen=True, slots=True, eq=False)
class PreparedImage:
    """An image whose contrast is normalised."""

    values: F32
    """(H, W, 3) float32 in [0, 1]."""
    inverted: bool = False
    """Dark was turned into bright."""
    nuclear_alone: bool = False
    """The whole-cell channel was left out; see ``without_whole_cell``."""
    other: Callable[[], F32] | None = None
    """Gives the image in the other polarity, if that may be chosen."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width, pixels."""
        return self.values.shape[0], self.values.shape[1]

    @property
    def appearance(self) -> Appearance:
        """What is known before the image is looked at."""
        return Appearance(inverted=self.inverted, nuclear_alone=self.nuclear_alone)


def prepare(image: ArrayLike, config: SegmentConfig, trained_channels: Sequence[int]) -> PreparedImage:
    """Normalise the contrast of an image and leave out a channel that the weights cannot use.

    Args:
        image: (H, W) or (H, W, C <= 3), any real dtype.
        config: ``normalize`` and ``invert``.
        trained_channels: see ``Manifest``.

    Raises:
        InputError: an image that cannot be used.
    """
    if not config.normalize:
        values = take_normalized(image)
        alone = shows_too_many(values, trained_channels)
        return PreparedImage(without_whole_cell(values) if alone else values, nuclear_alone=alone)
    checked = check_image(image)
    inverted = config.invert is True
    values = normalize_contrast(checked, invert=inverted)
    alone = shows_too_many(values, trained_channels)
    other = partial(_normalized, checked, invert=not inverted, alone=alone) if config.invert == "auto" else None
    return PreparedImage(without_whole_cell(values) if alone else values, inverted, alone, other)


def _normalized(image: ArrayLike, *, invert: bool, alone: bool) -> F32:
    values = normalize_contrast(image, invert=invert)
    return without_whole_cell(values) if alone else values


def shows_too_many(values: F32, trained_channels: Sequence[int]) -> bool:
    """Whether an image, (H, W, 3), has a nuclear and a whole-cell channel, of which the weights can use one alone."""
    return lacks_pairs(trained_channels) and np.flatnonzero(channels_used(values)).tolist() == [NUCLEAR, WHOLE_CELL]


def lacks_pairs(trained_channels: Sequence[int]) -> bool:
    """Whether weights know images of one channel, but none of two.

    Args:
        trained_channels: numbers of channels of the training images; none if unknown.
    """
    return 1 in trained_channels and 2 not in trained_channels


def without_whole_cell(values: F32) -> F32:
    """The nuclear channel of an image (H, W, 3) in the place of an image's only channel, which is the last plane."""
    alone = np.zeros_like(values)
    alone[..., WHOLE_CELL] = values[..., NUCLEAR]
    return alone
