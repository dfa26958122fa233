"""Contrast of 8- and 16-bit images on the GPU: the counterpart of ``runtime.ops.preprocess.equalized_plane``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.engines.kernels.launcher import DeviceWork, GpuKernels
from runtime.ops.clahe import BINS, CLIP_LIMIT, GRAY_LEVELS
from runtime.ops.preprocess import CLAHE_KERNEL_PX, TABLED, bin_table, counted_range, equalized_plane
from runtime.types import F32

_SIDE = {"side": CLAHE_KERNEL_PX}


def gpu_equalized_plane(plane: NDArray[np.generic], kernels: GpuKernels, *, invert: bool = False) -> F32 | None:
    """Clip and equalise a channel; see ``equalized_plane``, which processes channels of more than 16 bits.

    Args:
        plane: (H, W), real.
        kernels: the compiled kernels.
        invert: swap dark and bright before CLAHE.

    Returns:
        (H, W) float32 in [0, 1]; None if the channel is constant.
    """
    if plane.dtype not in TABLED:
        return equalized_plane(plane, invert=invert)
    work = DeviceWork(kernels)
    try:
        return _equalized(np.ascontiguousarray(plane), work, invert)
    finally:
        work.finish()


def _equalized(plane: NDArray[Any], work: DeviceWork, invert: bool) -> F32 | None:
    kind = f"u{8 * plane.dtype.itemsize}"
    number, (height, width) = 1 << (8 * plane.dtype.itemsize), plane.shape
    raw, counts = work.send(plane), work.filled(number, 0)
    name = f"count_values_{kind}"
    work.launch(name, _lines(work, name, plane.size), plane=raw, counts=counts, size=plane.size)
    span = counted_range(work.receive(counts, (number,), np.int32).astype(np.intp))
    if span is None:
        return None
    table, bins = work.send(bin_table(number, span, invert=invert)), work.empty(plane.size)
    name = f"look_up_bins_{kind}"
    work.launch(name, _lines(work, name, plane.size), plane=raw, table=table, bins=bins, size=plane.size)

    down, across = -(-height // CLAHE_KERNEL_PX), -(-width // CLAHE_KERNEL_PX)
    counts, maps = work.filled(down * across * BINS, 0), work.empty(2 * down * across * BINS)
    size = {"height": height, "width": width, "tiles_across": across, **_SIDE}
    grid = down * across, *_lines(work, "count_bins", CLAHE_KERNEL_PX**2)
    work.launch("count_bins", grid, bins=bins, counts=counts, **size)
    limit = max(int(CLIP_LIMIT * CLAHE_KERNEL_PX**2), 1)
    levels_of = {"limit": limit, "gray_levels": GRAY_LEVELS, **_SIDE}
    work.launch("equalisation_maps", (down * across,), counts=counts, maps=maps, **levels_of)

    levels, extremes = work.empty(2 * plane.size), work.send(np.array([GRAY_LEVELS, 0], np.int32))
    name = "interpolate_levels"
    grid = tuple(
        -(-length // work.kernels.constant(name, block)) for length, block in ((height, "ROWS"), (width, "COLUMNS"))
    )
    work.launch(name, grid, bins=bins, maps=maps, levels=levels, extremes=extremes, tiles_down=down, **size)
    out = work.empty(4 * plane.size)
    lines = _lines(work, "spread_levels", plane.size)
    work.launch("spread_levels", lines, levels=levels, extremes=extremes, out=out, size=plane.size)
    return work.receive(out, plane.shape, np.float32)


def _lines(work: DeviceWork, name: str, size: int) -> tuple[int]:
    return (-(-size // work.kernels.constant(name, "BLOCK")),)
