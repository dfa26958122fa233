"""Mask assembly on the GPU: the counterpart of ``runtime.ops.masks.LabelCanvas``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from runtime.config import SegmentConfig
from runtime.engines.backends.cuda import DeviceMemory
from runtime.engines.kernels.launcher import DeviceWork, GpuKernels
from runtime.ops.masks import Axes, MaskCrop
from runtime.types import F32, I32, I64

_NO_BOUNDS = (2**31 - 1, 0, 2**31 - 1, 0)
"""Bounds of a mask without pixels: top, bottom, left, right."""


class GpuCanvas:
    """A ``Canvas`` in GPU memory: low-resolution logits go up, cropped masks and the label map come down."""

    def __init__(self, size_hw: tuple[int, int], config: SegmentConfig, kernels: GpuKernels) -> None:
        """Allocate an empty canvas.

        Args:
            size_hw: size of the image.
            config: the mask threshold and the rule for overlaps.
            kernels: the compiled kernels.
        """
        self._work, self._size_hw = DeviceWork(kernels), size_hw
        self._threshold = float(np.float32(config.mask_threshold_logit))
        self._rule = config.overlap
        pixels = size_hw[0] * size_hw[1]
        bits = int(np.float32(self._threshold).view(np.uint32))
        self._owner = self._work.filled(pixels, 0)
        self._best = self._work.filled(pixels, bits) if config.overlap == "argmax" else self._owner
        self._work.finish()

    @property
    def owner(self) -> I32:
        """See ``LabelCanvas``; copied from the GPU."""
        self._work.use()
        return self._work.receive(self._owner, self._size_hw, np.int32)

    def add_windows(self, indices: I64, windows: F32, origins: I64, axes: Axes) -> list[MaskCrop]:
        """See ``LabelCanvas``; float16 windows are sent as they are.

        Raises:
            ValueError: a window extends beyond the map of logits.
        """
        return self._add(indices, windows, origins, axes, (0, 0))

    def add_windows_of_view(
        self, indices: I64, windows: F32, origins: I64, axes: Axes, offset_yx: tuple[int, int]
    ) -> Iterator[MaskCrop]:
        """See ``LabelCanvas``.

        Raises:
            ValueError: as in ``add_windows``, or the view extends beyond the image.
        """
        yield from self._add(indices, windows, origins, axes, offset_yx)

    def _add(self, indices: I64, windows: F32, origins: I64, axes: Axes, offset_yx: tuple[int, int]) -> list[MaskCrop]:
        if not len(indices):
            return []
        size_hw = len(axes[0].first), len(axes[1].first)
        if min(offset_yx) < 0 or any(o + s > i for o, s, i in zip(offset_yx, size_hw, self._size_hw, strict=True)):
            raise ValueError("a mask extends beyond the image.")
        self._work.use()
        windows = windows if windows.dtype == np.float16 else windows.astype(np.float32, copy=False)
        painting = _Painting(self._work, windows, origins, axes, self._threshold)
        try:
            bounds = painting.bounds()
            sent = self._work.send(bounds)
            painting.paint(
                f"paint_windows_{self._rule}",
                size_hw,
                rects=sent,
                values=self._work.send((indices + 1).astype(np.int32)),
                owner=self._owner,
                best=self._best,
                count=len(indices),
                offset_y=offset_yx[0],
                offset_x=offset_yx[1],
                image_w=self._size_hw[1],
            )
            return painting.crops(bounds, sent, offset_yx)
        finally:
            self._work.finish()


class _Painting:
    """The masks of one call on the GPU."""

    def __init__(self, work: DeviceWork, windows: F32, origins: I64, axes: Axes, threshold: float) -> None:
        self._work, self._kind = work, "fp16" if windows.dtype == np.float16 else "fp32"
        self._rects = np.stack(
            [
                *_ranges(axes[0].starts, axes[0].stops, origins[:, 0], windows.shape[1]),
                *_ranges(axes[1].starts, axes[1].stops, origins[:, 1], windows.shape[2]),
            ],
            axis=1,
        ).astype(np.int32)
        self._common = {
            "windows": work.send(windows),
            "origins": work.send(origins.astype(np.int32)),
            "taps_y": work.send(axes[0].taps),
            "firsts_y": work.send(axes[0].first),
            "taps_x": work.send(axes[1].taps),
            "firsts_x": work.send(axes[1].first),
            "window_h": windows.shape[1],
            "window_w": windows.shape[2],
            "taps_y_count": axes[0].taps.shape[1],
            "taps_x_count": axes[1].taps.shape[1],
            "threshold": threshold,
        }

    def bounds(self) -> I32:
        """Return the bounds of each thresholded mask, (K, 4) top, bottom, left, right; all 0 if it has no pixels."""
        name, count = f"mask_bounds_{self._kind}", len(self._rects)
        found = self._work.send(np.tile(np.array(_NO_BOUNDS, np.int32), (count, 1)))
        rects = self._work.send(self._rects)
        grid = self._grid(name, self._rects)
        self._work.launch(name, grid, rects=rects, bounds=found, **self._common)
        bounds: I32 = self._work.receive(found, (count, 4), np.int32)
        bounds[bounds[:, 1] == 0] = 0
        return bounds

    def paint(self, name: str, size_hw: tuple[int, int], **canvas: DeviceMemory | int) -> None:
        """Launch the painting of all masks on the pixels of a view of the given size."""
        name = f"{name}_{self._kind}"
        grid = tuple(_blocks(size, block) for size, block in zip(size_hw, self._block(name), strict=True))
        self._work.launch(name, grid, size_h=size_hw[0], size_w=size_hw[1], **canvas, **self._common)

    def crops(self, bounds: I32, rects: DeviceMemory, offset_yx: tuple[int, int]) -> list[MaskCrop]:
        """Return the masks, cropped to their bounds. Args: rects: the bounds on the GPU."""
        name = f"cut_masks_{self._kind}"
        heights, widths = bounds[:, 1] - bounds[:, 0], bounds[:, 3] - bounds[:, 2]
        ends = np.cumsum(heights.astype(np.int64) * widths)
        starts = ends - heights.astype(np.int64) * widths
        flags = self._work.empty(int(ends[-1]))
        sent = self._work.send(starts)
        self._work.launch(name, self._grid(name, bounds), rects=rects, starts=sent, flags=flags, **self._common)
        pixels = self._work.receive(flags, (int(ends[-1]),), np.bool_)
        return [
            MaskCrop(pixels[start:end].reshape(height, width).copy(), (offset_yx[0] + top, offset_yx[1] + left))
            for start, end, height, width, (top, _, left, _) in zip(
                starts, ends, heights.tolist(), widths.tolist(), bounds.tolist(), strict=True
            )
        ]

    def _block(self, name: str) -> tuple[int, int]:
        return self._work.kernels.constant(name, "ROWS"), self._work.kernels.constant(name, "COLUMNS")

    def _grid(self, name: str, rects: I32) -> tuple[int, int, int]:
        """Return the blocks that cover the largest of all rectangles, for each of them."""
        rows, columns = self._block(name)
        height, width = int((rects[:, 1] - rects[:, 0]).max()), int((rects[:, 3] - rects[:, 2]).max())
        return len(rects), _blocks(height, rows), _blocks(width, columns)


def _ranges(starts: I64, stops: I64, origins: I64, size: int) -> tuple[I64, I64]:
    """Return the image pixels along an axis that depend on each window alone: the first one and the end."""
    if len(origins) and (origins.min() < 0 or origins.max() + size >= len(starts)):
        raise ValueError("a window of logits extends beyond the whole map.")
    first = starts[origins]
    return first, np.maximum(first, stops[origins + size])


def _blocks(size: int, block: int) -> int:
    return -(-size // block)
