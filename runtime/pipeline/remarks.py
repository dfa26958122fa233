"""Log messages about how the model saw an image."""

from __future__ import annotations

import logging
from typing import Any

from runtime.results import Appearance

_log = logging.getLogger(__name__)

IMAGE_OF_CALL = "image_of_call"
"""Attribute of a log record: index of the image among those of the call."""


def log_appearance(appearance: Appearance, place: int) -> None:
    """Log the diameter and the polarity of an image; doubts about them become warnings.

    Args:
        appearance: how the model saw the image.
        place: index of the image among those of the call.
    """
    extra: dict[str, Any] = {IMAGE_OF_CALL: place}
    for text in remarks(appearance):
        _log.warning("%s", text, extra=extra)
    if appearance.diameter_px is not None:
        sure = appearance.diameter_confidence
        how = "given" if sure is None else f"measured with a confidence of {sure:.2f}"
        _log.info("the cells are %.1f pixels across (%s)", appearance.diameter_px, how, extra=extra)
    if appearance.invert_margin is not None:
        _log.info(
            "the image is %s; the mean score of its cells exceeds that of the other polarity by %.2f",
            "inverted" if appearance.inverted else "not inverted",
            appearance.invert_margin,
            extra=extra,
        )


def remarks(appearance: Appearance) -> list[str]:
    """Return warnings for the user about how the model saw an image."""
    found = []
    if appearance.doubtful:
        found.append(
            f"cells seem to be {appearance.diameter_px:.0f} pixels across, but the measurement is uncertain "
            f"(confidence {appearance.diameter_confidence:.2f}); if that is not their size, give diameter_px."
        )
    if appearance.nuclear_alone:
        found.append(
            "image has a nuclear and a whole-cell channel, but these weights were trained on images of one channel; "
            "only the nuclear channel is used, and outlines are those of nuclei. Use weights trained on both channels "
            "to outline whole cells."
        )
    return found
