"""A warning for images with channels that the weights were not trained on."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from runtime.ops.preprocess import channel_targets, channels_used
from runtime.types import F32

_log = logging.getLogger(__name__)

_PLANES = ("the first plane", "nuclear", "whole-cell")
"""Names of the three planes of the model input."""

_GRAY = (0, 0, 0)
"""Planes of a gray image, which is the same plane three times."""


class ChannelCheck:
    """Warns once about each unusual set of channels."""

    def __init__(self, trained_channels: Sequence[int]) -> None:
        """Args: trained_channels: numbers of channels of the training images; empty if unknown."""
        self._known = [tuple(channel_targets(count)) for count in trained_channels]
        self._warned: set[tuple[int, ...]] = set()

    def __call__(self, normalized: F32) -> None:
        """Check one image, (H, W, 3), with normalised contrast."""
        if not self._known:
            return
        used = tuple(np.flatnonzero(channels_used(normalized)).tolist())
        few = normalized[::8, ::8]
        if len(used) == 3 and (few == few[..., :1]).all():
            used = _GRAY
        if not used or used in self._known or used in self._warned:
            return
        self._warned.add(used)
        _log.warning(
            "image uses channels %s, but these weights were trained on %s; cells may be missed or wrong. Give one "
            "channel alone (nuclear=NAME), or use weights trained on such images.",
            "that are the same three times" if used == _GRAY else " and ".join(_PLANES[place] for place in used),
            " or ".join(f"{len(places)} channel{'s' * (len(places) > 1)}" for places in self._known),
        )
