"""The kernels to compile: argument types and constants of each variant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from export.kernels import contrast, masks

CAPABILITIES = (80, 86, 89, 90, 100, 120)
"""Compute capabilities that kernels are compiled for, times ten."""

BLOCK = {"ROWS": 16, "COLUMNS": 32}
LINE = {"BLOCK": 1024}


@dataclass(frozen=True, kw_only=True, slots=True)
class Kernel:
    """A kernel with its argument types and constants."""

    name: str
    """Unique name of the variant."""
    function: Any
    types: Mapping[str, str]
    """Triton's type of each argument, in order: ``*fp16``, ``i32``, ``fp32``, ..."""
    constants: Mapping[str, Any] = field(default_factory=dict)


_AXES = {"taps_y": "*fp32", "firsts_y": "*i32", "taps_x": "*fp32", "firsts_x": "*i32"}
_SIZES = dict.fromkeys(("window_h", "window_w", "taps_y_count", "taps_x_count"), "i32")
_PLACES = dict.fromkeys(("size_h", "size_w", "offset_y", "offset_x", "image_w"), "i32")


def mask_kernels(logits: str) -> tuple[Kernel, ...]:
    """Return the kernels of the mask assembly. Args: logits: type of the logits, ``fp16`` or ``fp32``."""
    windows = {"windows": f"*{logits}"}
    places = {"origins": "*i32", "rects": "*i32"}
    bounds = {**windows, **places, **_AXES, "bounds": "*i32", **_SIZES, "threshold": "fp32"}
    cut = {**windows, **places, "starts": "*i64", **_AXES, "flags": "*u8", **_SIZES, "threshold": "fp32"}
    canvas = {"owner": "*i32", "best": "*fp32", "count": "i32"}
    paint = {**windows, "values": "*i32", **places, **_AXES, **canvas, **_SIZES, **_PLACES, "threshold": "fp32"}
    painters = (
        Kernel(
            name=f"paint_windows_{rule}_{logits}",
            function=masks.paint_windows,
            types=paint,
            constants={"ARGMAX": rule == "argmax", **BLOCK},
        )
        for rule in ("argmax", "last")
    )
    return (
        Kernel(name=f"mask_bounds_{logits}", function=masks.mask_bounds, types=bounds, constants=BLOCK),
        Kernel(name=f"cut_masks_{logits}", function=masks.cut_masks, types=cut, constants=BLOCK),
        *painters,
    )


def value_kernels(values: str) -> tuple[Kernel, ...]:
    """Return the kernels that read the image. Args: values: type of its values, ``u8`` or ``u16``."""
    plane, size = {"plane": f"*{values}"}, {"size": "i32"}
    count, look_up = {**plane, "counts": "*i32", **size}, {**plane, "table": "*u8", "bins": "*u8", **size}
    return (
        Kernel(name=f"count_values_{values}", function=contrast.count_values, types=count, constants=LINE),
        Kernel(name=f"look_up_bins_{values}", function=contrast.look_up_bins, types=look_up, constants=LINE),
    )


_TILES = {"bins": "*u8", "counts": "*i32", **dict.fromkeys(("height", "width", "tiles_across", "side"), "i32")}
_MAPS = {"counts": "*i32", "maps": "*u16", **dict.fromkeys(("side", "limit", "gray_levels"), "i32")}
_LEVELS = {
    "bins": "*u8",
    "maps": "*u16",
    "levels": "*u16",
    "extremes": "*i32",
    **dict.fromkeys(("height", "width", "tiles_down", "tiles_across", "side"), "i32"),
}
_SPREAD = {"levels": "*u16", "extremes": "*i32", "out": "*fp32", "size": "i32"}

KERNELS: tuple[Kernel, ...] = (
    *mask_kernels("fp16"),
    *mask_kernels("fp32"),
    *value_kernels("u8"),
    *value_kernels("u16"),
    Kernel(name="count_bins", function=contrast.count_bins, types=_TILES, constants=LINE),
    Kernel(name="equalisation_maps", function=contrast.equalisation_maps, types=_MAPS),
    Kernel(name="interpolate_levels", function=contrast.interpolate_levels, types=_LEVELS, constants=BLOCK),
    Kernel(name="spread_levels", function=contrast.spread_levels, types=_SPREAD, constants=LINE),
)
