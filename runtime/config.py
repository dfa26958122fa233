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
"""Two ways to give one thing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentConfig:
    """Decision thresholds and mask assembly of one call.

    The thresholds default to those of the released CellSAM code; an engine's manifest may set others. That code
    decodes whole masks and lets the highest index win: ``mask_window="full"``, ``overlap="last"``.

    Raises:
        ConfigError: a value outside its range.
    """

    normalize: bool = True
    """Clip and equalise the contrast of the image first. False takes it as it is, for images that went through
    ``runtime.ops.preprocess.normalize_contrast`` before: values in [0, 1]."""

    invert: Invert = False
    """True: the cells are dark on a bright background, and every channel is inverted once it is clipped; needs
    ``normalize``. ``auto``: the image is inverted if the detector is clearly surer of the cells then, which is tried
    only if it is not sure of those of the image as it is. Without ``normalize``, and for boxes that the user gives,
    ``auto`` inverts nothing."""

    box_threshold: float = 0.4
    """Base cut on box scores. In [0, 1] when ``fixed``; in [0, 1.5] when ``adaptive``, where it is blended."""

    box_threshold_mode: BoxThresholdMode = "adaptive"
    """``fixed``: keep scores above ``box_threshold``. ``adaptive``: above ``0.66 box_threshold + 0.33 m``, m being
    the mean of the two k-means centres of this image's scores (released CellSAM code)."""

    nms_iou: float = 1.0
    """Boxes that overlap a better one by more than this IoU are dropped (non-maximum suppression), in [0, 1]; 1 keeps
    all. A well-trained CellFinder gives one box per cell and needs none (released CellSAM code)."""

    iou_threshold: float = 0.5
    """Masks whose own IoU estimate is below this are dropped. The estimate is not clamped to [0, 1]."""

    mask_threshold: float = 0.4
    """A pixel belongs to a mask when its probability is above this; in (0, 1)."""

    view_diameter_px: float | None = None
    """Median cell diameter, model pixels, at which an image is shown: in tiles, where one view cannot hold it. None
    shows every image whole, squeezed into one view (released code). A box that the user gives is shown at this size
    too, in a tile of its own scale."""

    whole_view_diameter_px: float = 0.0
    """One view of the whole image will do where its median cell is at least this large, model pixels."""

    diameter_px: float | None = None
    """Median cell diameter of the image, image pixels, for ``view_diameter_px``; None has it measured."""

    diameter_um: float | None = None
    """``diameter_px`` in micrometres, for images whose pixel size is known; see ``at_pixel_size``."""

    mask_window: MaskWindow = "box"
    """Where mask logits are computed: ``box``, the box and a margin around it; ``full``, the whole image."""

    overlap: Overlap = "argmax"
    """Who gets a pixel that several masks claim: ``argmax``, the most probable (paper); ``last``, the mask with the
    highest index (released code)."""

    min_area_px: int = 25
    """Cells with fewer pixels in the label map are removed from it; 0 keeps all."""

    fill_holes: bool = True
    """Fill holes inside cells. With ``overlap="last"`` a filled hole takes what lies in it, as the released code
    does; with ``argmax`` only background is filled."""

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
                "invert is True and normalize False; expected an image that is inverted already.",
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
                    f"{name} is {getattr(self, name)}, but images are shown whole without view_diameter_px; give the "
                    f"diameter at which the model should see cells, too, or leave {name} out.",
                    kind="conflict",
                    field=name,
                )
        if self.diameter_px is not None and self.diameter_um is not None:
            raise ConfigError(
                f"diameter_px is {self.diameter_px} and diameter_um {self.diameter_um}; expected one of them.",
                kind="conflict",
                field="diameter_um",
            )
        check_whole("min_area_px", self.min_area_px, least=0)

    @property
    def of_views(self) -> SegmentConfig:
        """The settings for views whose contrast is normalised already."""
        return replace(self, normalize=False, invert=False)

    def at_pixel_size(self, pixel_size_um: float | None, name: str) -> SegmentConfig:
        """The settings for an image whose pixels have this size: ``diameter_um`` becomes ``diameter_px``.

        Args:
            pixel_size_um: side of a pixel, micrometres; None where it is not known.
            name: of the image, for errors.

        Raises:
            InputError: a diameter in micrometres for an image of unknown pixel size.
        """
        if self.diameter_um is None:
            return self
        if pixel_size_um is None:
            raise InputError(
                f"{name} does not say how large its pixels are, and the diameter of the cells is given in micrometres "
                f"({self.diameter_um:g}). Give pixel_size_um, or the diameter in pixels, diameter_px.",
                kind="missing",
                field="pixel_size_um",
            )
        return replace(self, diameter_px=self.diameter_um / pixel_size_um, diameter_um=None)

    @property
    def mask_threshold_logit(self) -> float:
        """``mask_threshold`` before the sigmoid: masks are cut on logits."""
        return math.log(self.mask_threshold / (1.0 - self.mask_threshold))


def read_settings(path: str | Path) -> SegmentConfig:
    """Settings from a JSON file of names and values; what it does not name has its default.

    Raises:
        ConfigError: no such file, damaged JSON, a name that is no setting or a value outside its range.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}); expected a JSON file of settings.", kind="unreadable"
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"{path} is not JSON ({error}); expected names and values of settings.", kind="damaged"
        ) from error
    known = [f.name for f in fields(SegmentConfig)]
    unknown = sorted(set(content) - set(known)) if isinstance(content, dict) else ["no object"]
    if unknown:
        raise ConfigError(
            f"{path} has {', '.join(unknown)}; expected an object with some of {', '.join(known)}.", kind="invalid"
        )
    return SegmentConfig(**content)


MOST = 2**53
"""Whole numbers beyond this are mistakes, and are not told apart by float64."""

_LONGEST_SHOWN = 80


def check_type(name: str, value: object, kind: type | tuple[type, ...], expected: str) -> None:
    """Check that an argument is of a type.

    Raises:
        ConfigError: it is of another; the message says of which, and what was expected.
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
    """Whether it is a real number, not infinite and not beyond float64; True and False are none."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:  # an integer of any length
        return False


def shown(value: object) -> str:
    """A wrong value in a message: its ``repr``, cut off where it is long."""
    try:
        text = repr(value)
    except Exception as error:  # of its own code; Python refuses to write very long integers
        return f"a {type(value).__name__} that cannot be shown ({error})"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}... ({len(text)} characters)"


def _check_positive(name: str, value: object) -> None:
    _check_number(name, value)
    if not value > 0:  # type: ignore[operator]
        raise ConfigError(f"{name} is {shown(value)}; expected a number above 0, or None.", field=name)


def check_pixel_size(value: object) -> None:
    """Check the side of a pixel in micrometres; None, an unknown size, is valid.

    Raises:
        ConfigError: it is not a positive number.
    """
    if value is None:
        return
    if not is_finite_number(value) or not value > 0:
        raise ConfigError(
            f"pixel_size_um is {shown(value)}; expected a positive number of micrometres, or None if it is unknown."
        )


def check_whole(name: str, value: object, *, least: int) -> None:
    """Check a setting that counts something.

    Raises:
        ConfigError: it is no whole number, or below ``least``.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ConfigError(f"{name} is {shown(value)}; expected a whole number, {least} or more.", field=name)
    if value > MOST:
        raise ConfigError(f"{name} is {shown(value)}; expected a whole number, {MOST} at most.", field=name)


def with_overrides(settings: SegmentConfig, given: Mapping[str, Any]) -> SegmentConfig:
    """Settings with those of a command line, where None stands for not given, and a view diameter of 0 for none.

    A diameter that is given takes the place of the settings' own, be that in pixels or in micrometres; images that are
    to be shown whole need none.

    Raises:
        ConfigError: a setting outside its range.
    """
    changes = {name: value for name, value in given.items() if value is not None}
    shown_whole = changes.get("view_diameter_px") == 0
    if shown_whole:
        changes["view_diameter_px"] = None
    if shown_whole or not changes.keys().isdisjoint(_DIAMETERS):
        changes = dict.fromkeys(_DIAMETERS) | changes
    return replace(settings, **changes)
