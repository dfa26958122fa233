"""Label image and table of a slide, written as streams; each appears whole."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterable, Iterator
from itertools import pairwise, product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import ConfigError
from runtime.files import TABLE_COLUMNS, resolution_tags, written_row
from runtime.joining import Extent
from runtime.outputs.label_images import make_ome_zarr
from runtime.slides.join import BLOCK_PX, SlideCell
from runtime.slides.settings import LabelsFormat

U32 = NDArray[np.uint32]
Blocks = Iterable[tuple[Extent, U32]]

LABELS_ENDINGS: dict[LabelsFormat, str] = {"tiff": "_labels.tif", "zarr": "_labels.zarr"}
"""What follows a slide's name in that of its label image."""

_BUFFER_BYTES = 1 << 24


def labels_path(out: Path, stem: str, labels_format: LabelsFormat) -> Path:
    """Where the label image of a slide goes."""
    return out / f"{stem}{LABELS_ENDINGS[labels_format]}"


def check_format(labels_format: LabelsFormat) -> None:
    """Raises:
    ConfigError: the package of a format is not installed.
    """
    if labels_format == "zarr":
        try:
            import zarr  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                "labels_format 'zarr' needs the package zarr: pip install 'cellsam-engine[formats]', or write tiff."
            ) from error


def write_blocks(
    path: Path,
    blocks: Blocks,
    size_hw: tuple[int, int],
    labels_format: LabelsFormat,
    scratch: Path,
    *,
    pixel_size_um: float | None = None,
) -> None:
    """Write a label image of uint32.

    Args:
        path: the file, or for zarr the directory; what is there is replaced.
        blocks: of ``BLOCK_PX``, from top to bottom and left to right.
        size_hw: the image.
        labels_format: tiff or zarr.
        scratch: a directory on the same disk, for what is not finished.
        pixel_size_um: side of a pixel; None where it is not known.
    """
    temporary = scratch / path.name
    if labels_format == "tiff":
        _write_tiff(temporary, blocks, size_hw, pixel_size_um)
    else:
        _write_zarr(temporary, blocks, size_hw, pixel_size_um)
        if path.is_dir():
            shutil.rmtree(path)
    temporary.replace(path)


def _write_tiff(path: Path, blocks: Blocks, size_hw: tuple[int, int], pixel_size_um: float | None) -> None:
    import tifffile

    def padded() -> Iterator[U32]:
        for _, block in blocks:
            yield np.pad(block, [(0, BLOCK_PX - length) for length in block.shape])

    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(
            padded(),
            shape=size_hw,
            dtype=np.uint32,
            tile=(BLOCK_PX, BLOCK_PX),
            compression="zlib",
            photometric="minisblack",
            metadata={"axes": "YX"},
            maxworkers=1,
            **resolution_tags(pixel_size_um),
            buffersize=_BUFFER_BYTES,
        )


def _write_zarr(path: Path, blocks: Blocks, size_hw: tuple[int, int], pixel_size_um: float | None) -> None:
    levels = make_ome_zarr(path, size_hw, np.dtype(np.uint32), pixel_size_um)
    for (top, left, bottom, right), block in blocks:
        if block.any():
            levels[0][top:bottom, left:right] = block
    for larger, smaller in pairwise(levels):
        for top, left in product(*(range(0, length, BLOCK_PX) for length in smaller.shape)):
            block = larger[2 * top : 2 * (top + BLOCK_PX) : 2, 2 * left : 2 * (left + BLOCK_PX) : 2]
            if block.any():
                smaller[top : top + BLOCK_PX, left : left + BLOCK_PX] = block


def write_cells(path: Path, cells: Iterable[SlideCell], scratch: Path, pixel_size_um: float | None = None) -> None:
    """Write one row per cell as CSV, with the columns that images have too."""
    temporary = scratch / path.name
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(TABLE_COLUMNS)
        for cell in cells:
            um2 = None if pixel_size_um is None else cell.area_px * pixel_size_um**2
            areas = cell.area_px, cell.area_px
            row = (cell.label, *cell.box, cell.score, cell.iou_prediction, *areas, *cell.centroid_yx, um2)
            writer.writerow(written_row(row))
    temporary.replace(path)
