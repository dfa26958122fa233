"""The options that set the settings of the library, and messages in their words."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping

FLAGS = {
    "backend": "--backend",
    "box_threshold": "--box-threshold",
    "box_threshold_mode": "--box-threshold-mode",
    "cluster": "--cluster",
    "cpu_precision": "--cpu-precision",
    "cuda_graphs": "--cuda-graphs",
    "diameter_px": "--diameter",
    "diameter_um": "--diameter-um",
    "engine_dir": "--engine",
    "fill_holes": "--fill-holes",
    "formats": "--format",
    "invert": "--invert",
    "iou_threshold": "--iou-threshold",
    "largest_px": "--slide-over",
    "mask_threshold": "--mask-threshold",
    "mask_window": "--mask-window",
    "membrane": "--membrane",
    "min_area_px": "--min-area",
    "min_contrast": "--min-contrast",
    "nms_iou": "--nms-iou",
    "nuclear": "--nuclear",
    "out": "--out",
    "overlap": "--overlap",
    "overlap_px": "--overlap",
    "overwrite": "--overwrite",
    "partial": "--partial",
    "pixel_size_um": "--pixel-size",
    "recursive": "--recursive",
    "restart": "--restart",
    "resume": "--resume",
    "rgb": "--rgb",
    "series": "--series",
    "threads": "--threads",
    "tile_px": "--tile",
    "time": "--time",
    "view_diameter_px": "--view-diameter",
    "workers": "--workers",
    "z": "--z",
}
"""By the names of the settings that they set: fields and arguments of the library."""

_SETTING = re.compile(r"\b([a-z]+(?:_[a-z]+)*)(=(?:'([^']*)'|(-?\w(?:[\w.-]*\w)?))?)?")
"""A name, with ``=`` and a value where one follows."""


def in_flags(message: str, flags: Mapping[str, str] = FLAGS) -> str:
    """A message of the library with flags in place of settings: ``overwrite=True`` becomes ``--overwrite``.

    Args:
        message: names of one word are settings only with ``=`` behind them, others (``box_threshold``) always.
        flags: by the names of settings; other names stay.
    """

    def flag(found: re.Match[str]) -> str:
        name, assigned, quoted, plain = found.groups()
        if name not in flags or ("_" not in name and assigned is None):
            return found[0]
        value = quoted or plain
        return flags[name] if value in (None, "True") else f"{flags[name]} {value}"

    return _SETTING.sub(flag, message)


class FlagFormatter(logging.Formatter):
    """Writes what the library logs with flags in place of settings."""

    def format(self, record: logging.LogRecord) -> str:
        return in_flags(super().format(record))
