"""Preparation of images for the model, before they are cut into views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from runtime.config import SegmentConfig
from runtime.ops.preprocess import (
    EqualizePlane,
    channels_used,
    check_image,
    equalized_plane,
    normalize_contrast,
    take_normalized,
)
from runtime.results import Appearance
from runtime.types import F32

NUCLEAR, WHOLE_CELL = 1, 2
"""Planes of the model input; plane 0 is blank unless the image has three channels."""


@dataclass(frozen=True, slots=True, eq=False)
class PreparedImage:
    """An image with normalised contrast."""

    values: F32
    """(H, W, 3) float32 in [0, 1]."""
    inverted: bool = False
    """Dark and bright were swapped."""
    nuclear_alone: bool = False
    """The whole-cell channel was left out; see ``without_whole_cell``."""
    other: Callable[[], F32] | None = None
    """Returns the image in the other polarity, if that may be chosen."""

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width, in pixels."""
        return self.values.shape[0], self.values.shape[1]

    @property
    def appearance(self) -> Appearance:
        """Appearance that is known before the detector has seen the image."""
        return Appearance(inverted=self.inverted, nuclear_alone=self.nuclear_alone)


def prepare(
    image: ArrayLike,
    config: SegmentConfig,
    trained_channels: Sequence[int],
    equalized: EqualizePlane = equalized_plane,
) -> PreparedImage:
    """Normalise the contrast of an image and leave out a channel that the weights cannot use.

    Args:
        image: (H, W) or (H, W, C <= 3), any real dtype.
        config: ``normalize`` and ``invert``.
        trained_channels: see ``Manifest``.
        equalized: what clips and equalises a channel, see ``normalize_contrast``.

    Raises:
        InputError: the image cannot be used.
    """
    if not config.normalize:
        values = take_normalized(image)
        alone = shows_too_many(values, trained_channels)
        return PreparedImage(without_whole_cell(values) if alone else values, nuclear_alone=alone)
    checked = check_image(image)
    inverted = config.invert is True
    normalized = partial(normalize_contrast, checked, equalized=equalized)
    values = normalized(invert=inverted)
    alone = shows_too_many(values, trained_channels)
    other = partial(_other, normalized, invert=not inverted, alone=alone) if config.invert == "auto" else None
    return PreparedImage(without_whole_cell(values) if alone else values, inverted, alone, other)


def _other(normalized: Callable[..., F32], *, invert: bool, alone: bool) -> F32:
    values = normalized(invert=invert)
    return without_whole_cell(values) if alone else values


def shows_too_many(values: F32, trained_channels: Sequence[int]) -> bool:
    """Return whether an image (H, W, 3) has a nuclear and a whole-cell channel, but the weights can use only one."""
    return lacks_pairs(trained_channels) and np.flatnonzero(channels_used(values)).tolist() == [NUCLEAR, WHOLE_CELL]


def lacks_pairs(trained_channels: Sequence[int]) -> bool:
    """Return whether weights were trained on images of one channel, but on none of two.

    Args:
        trained_channels: numbers of channels of the training images; empty if unknown.
    """
    return 1 in trained_channels and 2 not in trained_channels


def without_whole_cell(values: F32) -> F32:
    """Move the nuclear channel of an image (H, W, 3) to the last plane, where an image's only channel belongs."""
    alone = np.zeros_like(values)
    alone[..., WHOLE_CELL] = values[..., NUCLEAR]
    return alone
