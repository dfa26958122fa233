"""Generation of one image of a group, which depends only on the arguments."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.types import I32
from training.data.errors import DataError
from training.data.records import Group
from training.data.synthetic import kernels
from training.data.synthetic.fields import log_uniform
from training.data.synthetic.registry import PREFIX, SYNTHETIC_GROUPS, Channels, SyntheticGroup
from training.data.synthetic.render.clutter import annotated

MARGIN_PX = 24
"""Margin drawn around an image and cropped, because the optics is periodic and the field truncates cells, pixels."""

LEAST_SIDE_PX = 64

ANNOTATED = 0.04
"""Share of the images with a scale bar."""


@dataclass(frozen=True, slots=True)
class MadeImage:
    """One synthetic image with its labels."""

    image: NDArray[Any]
    """(H, W), (H, W, 2) nuclear and whole-cell, or (H, W, 3) RGB; uint8 or uint16."""
    labels: I32
    """(H, W), 0 background, 1..n; every label is one part, and corners connect."""
    group: str
    kind: Group
    channels: Channels
    median_diameter_px: float
    """Median diameter of discs with the cells' areas, pixels; 0 without cells."""


def group_of(name: str) -> SyntheticGroup:
    """Return a group by its name, with or without 'synthetic/' before it.

    Raises:
        DataError: the group does not exist.
    """
    short = name.removeprefix(PREFIX)
    if short not in SYNTHETIC_GROUPS:
        raise DataError(f"group is {name!r}; expected one of {', '.join(SYNTHETIC_GROUPS)}.")
    return SYNTHETIC_GROUPS[short]


def make_image(group: str, seed: int, size_hw: tuple[int, int] = (512, 512)) -> MadeImage:
    """Make an image with exact instance labels, which depends only on the arguments.

    Args:
        group: a name of ``SYNTHETIC_GROUPS``, with or without 'synthetic/' before it.
        seed: 0 or more.
        size_hw: image size (height, width), at least 64 pixels each.

    Raises:
        DataError: the group does not exist, or the size or seed is out of range.
    """
    chosen = group_of(group)
    if min(size_hw) < LEAST_SIDE_PX or seed < 0:
        raise DataError(
            f"size_hw is {size_hw} and seed is {seed}; expected {LEAST_SIDE_PX} pixels or more, and 0 or more."
        )
    rng = np.random.default_rng((seed, zlib.crc32(chosen.name.encode())))
    diameter = log_uniform(rng, *chosen.setting.diameter_px)
    drawn_hw = (size_hw[0] + 2 * MARGIN_PX, size_hw[1] + 2 * MARGIN_PX)
    scene = chosen.setting.arrange(rng, drawn_hw, diameter)
    inner = (slice(MARGIN_PX, -MARGIN_PX), slice(MARGIN_PX, -MARGIN_PX))
    image: NDArray[Any] = np.ascontiguousarray(chosen.render(scene, rng)[inner])
    if rng.random() < ANNOTATED:
        image = annotated(image, rng)
    labels = kernels.parts(scene.labels[inner])  # the edge of the image may split a cell
    areas = np.bincount(labels.ravel())[1:]
    median = float(2 * np.sqrt(np.median(areas) / np.pi)) if len(areas) else 0.0
    return MadeImage(image, labels, chosen.name, chosen.setting.kind, chosen.channels, median)
