"""Settings of one segmentation call."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeGuard, get_args

import numpy as np

from runtime.errors import ConfigError, InputError

BoxThresholdMode = Literal["adaptive", "fixed"]
MaskWindow = Literal["box", "full"]
Overlap = Literal["argmax", "last"]
Invert = bool | Literal["auto"]

_DIAMETERS = ("diameter_px", "diameter_um")
"""Two settings for the same quantity."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentConfig:
    """Decision thresholds and mask assembly of one call.

    The thresholds default to those of the released CellSAM code; an engine's manifest may set others. To assemble
    masks as that code does (whole masks, the highest index wins), use ``mask_window="full"`` and ``overlap="last"``.

    Raises:
        ConfigError: a value is outside its range.
    """

    normalize: bool = True
    """Clip and equalise the contrast of the image first. False uses the image unchanged: it must have gone through
    ``runtime.ops.preprocess.normalize_contrast`` already, with values in [0, 1]."""

    invert: Invert = False
    """True: cells are dark on a bright background, so every channel is inverted after clipping; requires
    ``normalize``. ``auto``: if the detector is not confident in the cells of the original image, it also tries the
    inverted image and keeps it if its scores are clearly higher. ``auto`` inverts nothing if ``normalize`` is False,
    or for boxes that the caller gives."""

    box_threshold: float = 0.4
    """Base cut on box scores: in [0, 1] for ``fixed``, in [0, 1.5] for ``adaptive``, which blends it."""

    box_threshold_mode: BoxThresholdMode = "adaptive"
    """``fixed`` keeps scores above ``box_threshold``. ``adaptive`` keeps scores above ``0.66 box_threshold + 0.33 m``,
    with m the mean of the two k-means centres of this image's scores (released CellSAM code)."""

    nms_iou: float = 1.0
    """Drop boxes that overlap a better box by more than this IoU (non-maximum suppression), in [0, 1]; 1 keeps all
    boxes. A well-trained CellFinder finds one box per cell, so it needs no suppression (released CellSAM code)."""

    iou_threshold: float = 0.5
    """Drop masks whose own IoU estimate is below this value. The estimate is not clamped to [0, 1]."""

    mask_threshold: float = 0.4
    """A pixel belongs to a mask if its probability is above this value, in (0, 1)."""

    view_diameter_px: float | None = None
    """Median cell diameter, in model pixels, at which the model sees an image. The image is split into tiles if one
    view cannot show all of it at this scale. None squeezes every image into one view (released code). Boxes that the
    caller gives are also shown at this size, each in a tile with its own scale."""

    whole_view_diameter_px: float = 0.0
    """Use one view of the whole image if its median cell is at least this large in it, in model pixels."""

    diameter_px: float | None = None
    """Median cell diameter of the image, in image pixels, for ``view_diameter_px``; None measures it."""

    diameter_um: float | None = None
    """``diameter_px`` in micrometres, for images whose pixel size is known; see ``at_pixel_size``."""

    mask_window: MaskWindow = "box"
    """Region in which to compute mask logits: ``box``, the box and a margin around it; ``full``, the whole image."""

    overlap: Overlap = "argmax"
    """Which mask gets a pixel that several masks claim: ``argmax``, the most probable one (paper); ``last``, the one
    with the highest index (released code)."""

    min_area_px: int = 25
    """Remove cells with fewer pixels from the label map; 0 keeps all cells."""

    fill_holes: bool = True
    """Fill holes inside cells. With ``overlap="last"`` a filled hole absorbs any cell in it, as in the released code;
    with ``argmax`` only background is filled."""

    def __post_init__(self) -> None:
        _check_choice("box_threshold_mode", self.box_threshold_mode, BoxThresholdMode)
        _check_choice("mask_window", self.mask_window, MaskWindow)
        _check_choice("overlap", self.overlap, Overlap)
        for name in ("box_threshold", "nms_iou", "iou_threshold", "mask_threshold"):
            _check_number(name, getattr(self, name))
        for name in ("normalize", "fill_holes", *(() if self.invert == "auto" else ("invert",))):
            if not isinstance(getattr(self, name), bool | np.bool_):
                raise ConfigError(
                    f"{name} is {shown(getattr(self, name))}; expected True or False{' or auto' * (name == 'invert')}.",
                    kind="wrong_type",
                    field=name,
                )
        if self.invert is True and not self.normalize:
            raise ConfigError(
                "invert is True but normalize is False; expected both. Set normalize=True, or invert the image first.",
                kind="conflict",
                field="invert",
            )
        highest = 1.5 if self.box_threshold_mode == "adaptive" else 1.0
        if not 0.0 <= self.box_threshold <= highest:
            raise ConfigError(
                f"box_threshold is {self.box_threshold}; expected a value in [0, {highest}] in "
                f"{self.box_threshold_mode!r} mode.",
                field="box_threshold",
            )
        if not 0.0 <= self.nms_iou <= 1.0:
            raise ConfigError(f"nms_iou is {self.nms_iou}; expected a value in [0, 1].", field="nms_iou")
        if not 0.0 < self.mask_threshold < 1.0:
            raise ConfigError(
                f"mask_threshold is {self.mask_threshold}; expected a value in (0, 1).", field="mask_threshold"
            )
        for name in ("view_diameter_px", *_DIAMETERS):
            if getattr(self, name) is not None:
                _check_positive(name, getattr(self, name))
        _check_number("whole_view_diameter_px", self.whole_view_diameter_px)
        for name in _DIAMETERS:
            if getattr(self, name) is not None and self.view_diameter_px is None:
                raise ConfigError(
                    f"{name} is {getattr(self, name)}, but images are shown whole without view_diameter_px; expected "
                    "both or neither. Set view_diameter_px to the diameter at which the model should see cells, or "
                    f"leave {name} out.",
                    kind="conflict",
                    field=name,
                )
        if self.diameter_px is not None and self.diameter_um is not None:
            raise ConfigError(
                f"diameter_px is {self.diameter_px} and diameter_um {self.diameter_um}; expected one. Leave one out.",
                kind="conflict",
                field="diameter_um",
            )
        check_whole("min_area_px", self.min_area_px, least=0)

    @property
    def of_views(self) -> SegmentConfig:
        """The same settings for views whose contrast is already normalised."""
        return replace(self, normalize=False, invert=False)

    def at_pixel_size(self, pixel_size_um: float | None, name: str) -> SegmentConfig:
        """Resolve ``diameter_um`` to ``diameter_px`` for an image with pixels of this size.

        Args:
            pixel_size_um: side of a pixel, in micrometres; None if unknown.
            name: name of the image, for errors.

        Raises:
            InputError: the diameter is in micrometres, but the pixel size of the image is unknown.
        """
        if self.diameter_um is None:
            return self
        if pixel_size_um is None:
            raise InputError(
                f"the pixel size of {name} is unknown, but the cell diameter is given in micrometres "
                f"({self.diameter_um:g}); expected both. Give pixel_size_um, or the diameter in pixels, diameter_px.",
                kind="missing",
                field="pixel_size_um",
            )
        return replace(self, diameter_px=self.diameter_um / pixel_size_um, diameter_um=None)

    @property
    def mask_threshold_logit(self) -> float:
        """``mask_threshold`` before the sigmoid, because masks are cut on logits."""
        return math.log(self.mask_threshold / (1.0 - self.mask_threshold))


def read_settings(path: str | Path) -> SegmentConfig:
    """Read settings from a JSON object of names and values; settings that it leaves out keep their defaults.

    Raises:
        ConfigError: the file is missing, is not JSON, or has an unknown setting or a value outside its range.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}); expected a JSON file of settings. Check the path.",
            kind="unreadable",
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"{path} is not JSON ({error}); expected an object of settings and values.", kind="damaged"
        ) from error
    known = [f.name for f in fields(SegmentConfig)]
    unknown = sorted(set(content) - set(known)) if isinstance(content, dict) else ["no object"]
    if unknown:
        raise ConfigError(
            f"{path} has {', '.join(unknown)}; expected an object with some of {', '.join(known)}.", kind="invalid"
        )
    return SegmentConfig(**content)


MOST = 2**53
"""Upper limit of whole numbers: larger ones are mistakes, and float64 cannot represent them exactly."""

_LONGEST_SHOWN = 80


def check_type(name: str, value: object, kind: type | tuple[type, ...], expected: str) -> None:
    """Check the type of an argument.

    Raises:
        ConfigError: the argument has another type; the message names it and the expected one.
    """
    if not isinstance(value, kind):
        raise ConfigError(
            f"{name} is {shown(value)}, of type {type(value).__name__}; expected {expected}.",
            kind="wrong_type",
            field=name,
        )


def _check_choice(name: str, value: str, choices: object) -> None:
    allowed = get_args(choices)
    if not isinstance(value, str) or value not in allowed:
        raise ConfigError(f"{name} is {shown(value)}; expected one of {', '.join(map(repr, allowed))}.", field=name)


def _check_number(name: str, value: object) -> None:
    if not is_finite_number(value):
        raise ConfigError(f"{name} is {shown(value)}; expected a finite number.", field=name)


def is_finite_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a real, finite number within float64; True and False are not numbers here."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:  # an integer can have any length
        return False


def shown(value: object) -> str:
    """Format a wrong value for a message: its ``repr``, truncated if long."""
    try:
        text = repr(value)
    except Exception as error:  # from its own __repr__, or for very long integers, which Python does not convert
        return f"a {type(value).__name__} that cannot be shown ({error})"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}... ({len(text)} characters)"


def _check_positive(name: str, value: object) -> None:
    _check_number(name, value)
    if not value > 0:  # type: ignore[operator]
        raise ConfigError(f"{name} is {shown(value)}; expected a number above 0, or None.", field=name)


def check_pixel_size(value: object) -> None:
    """Check the side of a pixel in micrometres; None, for an unknown size, is valid.

    Raises:
        ConfigError: the value is not a positive number.
    """
    if value is None:
        return
    if not is_finite_number(value) or not value > 0:
        raise ConfigError(
            f"pixel_size_um is {shown(value)}; expected a positive number of micrometres, or None if it is unknown."
        )


def check_whole(name: str, value: object, *, least: int) -> None:
    """Check a setting that must be a whole number.

    Raises:
        ConfigError: the value is not a whole number, or is out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ConfigError(f"{name} is {shown(value)}; expected a whole number, {least} or more.", field=name)
    if value > MOST:
        raise ConfigError(f"{name} is {shown(value)}; expected a whole number, at most {MOST}.", field=name)


def with_overrides(settings: SegmentConfig, given: Mapping[str, Any]) -> SegmentConfig:
    """Replace settings with those of a command line; None means not given, and 0 removes the view diameter.

    A given diameter replaces both diameters of the settings, in pixels and in micrometres. Images that are shown whole
    need neither.

    Raises:
        ConfigError: a setting is outside its range.
    """
    changes = {name: value for name, value in given.items() if value is not None}
    shown_whole = changes.get("view_diameter_px") == 0
    if shown_whole:
        changes["view_diameter_px"] = None
    if shown_whole or not changes.keys().isdisjoint(_DIAMETERS):
        changes = dict.fromkeys(_DIAMETERS) | changes
    return replace(settings, **changes)
