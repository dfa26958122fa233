"""Which corrected images are trained on, and which are kept out. Pure functions."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

ENOUGH = 10
"""With at least this many corrected images, a fifth is kept out; below, single images are left out in turn."""

SHARE = 0.2


@dataclass(frozen=True, slots=True)
class Fold:
    """One training with the images that it is scored on."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]


def few(names: Sequence[str]) -> bool:
    """Return whether the images are too few for a promotion."""
    return len(names) < ENOUGH


def make_folds(names: Sequence[str], *, seen: Collection[str] = (), most: int = 5) -> tuple[Fold, ...]:
    """Divide corrected images.

    The order is that of a hash of the names, with images first that the present engine was not trained on, so that the
    comparison with it is fair as far as possible.

    Args:
        names: the images.
        seen: images that the present engine was trained on.
        most: largest number of trainings for leave-one-out.

    Returns:
        One fold if there are ``ENOUGH`` images. Otherwise one for each image that is left out, at most ``most``; none
        for a single image.
    """
    order = sorted(names, key=lambda name: (name in seen, hashlib.sha256(name.encode()).digest()))
    if not few(names):
        kept = frozenset(order[: math.ceil(SHARE * len(order))])
        return (_fold(names, kept),)
    if len(names) < 2:
        return ()
    return tuple(_fold(names, frozenset((name,))) for name in order[:most])


def _fold(names: Sequence[str], kept: frozenset[str]) -> Fold:
    return Fold(
        train=tuple(name for name in names if name not in kept), held_out=tuple(name for name in names if name in kept)
    )
