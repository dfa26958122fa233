"""Streaming writers for the results of a slide: label images, tables, outlines and a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path

import numpy as np

from runtime.files.formats.axes import Plane
from runtime.files.image_results import OVERLAY_ENDING
from runtime.files.outputs.cellpose import write_outline_lines
from runtime.files.outputs.formats import OUTPUT_FORMATS, output_path
from runtime.files.outputs.geojson import cell_feature, write_features
from runtime.files.outputs.imagej import write_roi_entries
from runtime.files.outputs.label_images import BUFFER_BYTES, LabelImage, make_ome_zarr, write_levels
from runtime.files.outputs.parquet import write_parquet_rows
from runtime.files.outputs.pyramid import level_count
from runtime.files.outputs.tables import TABLE_COLUMNS, Row, write_rows
from runtime.files.placing import move_into_place
from runtime.files.plain import resolution_tags, tiff_description
from runtime.files.readers import ImageReader
from runtime.jobs.slides.blocks import BLOCK_PX
from runtime.jobs.slides.join import SlideCell, SlideJoin
from runtime.jobs.slides.measured import SlideMeasurements
from runtime.jobs.slides.overview import write_overview
from runtime.jobs.slides.settings import SlideSettings
from runtime.ops.boxes import clip_boxes
from runtime.ops.masks import MaskCrop
from runtime.provenance import Provenance

OVERLAY = "overlay"
"""Name of the picture among the formats."""


@dataclass(frozen=True, slots=True)
class SlideOutput:
    """Data from which the results of a slide are written."""

    join: SlideJoin
    """A join that has run."""
    reader: ImageReader
    plane: Plane
    """The plane of the stack that was segmented."""
    measured: SlideMeasurements | None = None
    """Measurements for further columns of tables."""
    provenance: tuple[Provenance, ...] = ()
    """Origin of the tiles: one record for each kind of engines, devices and versions among the processes of the job."""

    @property
    def label_image(self) -> LabelImage:
        """Declarations of the slide's label images."""
        return LabelImage(
            size_hw=self.reader.size_hw,
            dtype=np.dtype(np.uint32),
            pixel_size_um=self.reader.pixel_size_um,
            provenance=self.provenance,
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of ``rows``."""
        return (*TABLE_COLUMNS, *(() if self.measured is None else self.measured.columns))

    def rows(self) -> Iterator[Row]:
        """Yield a table row for each cell."""
        return (self.row(cell) for cell in self.join.cells())

    def row(self, cell: SlideCell) -> Row:
        """Return the table row of a cell, in the order of ``columns``."""
        um = self.reader.pixel_size_um
        um2 = None if um is None else cell.area_px * um**2
        areas = cell.area_px, cell.area_px
        box = clip_boxes(np.array(cell.box), self.reader.size_hw).tolist()
        measured = () if self.measured is None else self.measured.row(cell.label)
        return (cell.label, *box, cell.score, cell.iou_prediction, *areas, *cell.centroid_yx, um2, *measured)


def result_paths(stem: Path, settings: SlideSettings) -> dict[str, Path]:
    """Return the result paths of a slide by format, the picture last.

    Args:
        stem: the common beginning of the paths.
        settings: the settings that name the formats.
    """
    paths = {name: output_path(stem, name) for name in OUTPUT_FORMATS if name in settings.formats}
    return paths | ({OVERLAY: Path(f"{stem}{OVERLAY_ENDING}")} if settings.overlay else {})


def write_results(paths: Mapping[str, Path], output: SlideOutput, scratch: Path) -> None:
    """Write results, and replace existing files once all are written.

    Args:
        paths: from ``result_paths``.
        output: the data to write.
        scratch: an empty directory on the same disk.

    Raises:
        OSError: a result cannot be written, for example because the disk is full.
    """
    for name, path in paths.items():
        _WRITERS[name](scratch / path.name, output)
    for path in paths.values():
        move_into_place(scratch / path.name, path)


def _write_tiff(path: Path, output: SlideOutput) -> None:
    import tifffile

    with tifffile.TiffWriter(path, bigtiff=True) as tiff:
        tiff.write(
            output.join.blocks.tiles(0),
            shape=output.reader.size_hw,
            dtype=np.uint32,
            tile=(BLOCK_PX, BLOCK_PX),
            compression="zlib",
            photometric="minisblack",
            metadata=tiff_description(output.provenance),
            maxworkers=1,
            **resolution_tags(output.reader.pixel_size_um),
            buffersize=BUFFER_BYTES,
        )


def _write_ome_tiff(path: Path, output: SlideOutput) -> None:
    blocks = output.join.blocks
    levels = (blocks.tiles(level) for level in range(level_count(output.reader.size_hw)))
    write_levels(path, levels, output.label_image, blocks.checksum)


def _write_zarr(path: Path, output: SlideOutput) -> None:
    levels = make_ome_zarr(path, output.label_image)
    for (top, left, bottom, right), block in output.join.blocks:
        if block.any():
            levels[0][top:bottom, left:right] = block
    for larger, smaller in pairwise(levels):
        for top, left in product(*(range(0, length, BLOCK_PX) for length in smaller.shape)):
            block = larger[2 * top : 2 * (top + BLOCK_PX) : 2, 2 * left : 2 * (left + BLOCK_PX) : 2]
            if block.any():
                smaller[top : top + BLOCK_PX, left : left + BLOCK_PX] = block


def _write_geojson(path: Path, output: SlideOutput) -> None:
    features = (
        cell_feature(dict(zip(output.columns, output.row(cell), strict=True)), MaskCrop(mask, offset_yx), output.plane)
        for cell, mask, offset_yx in output.join.outlined()
    )
    write_features(path, features, output.provenance)


def _write_imagej(path: Path, output: SlideOutput) -> None:
    cells = ((cell.label, MaskCrop(mask, offset_yx)) for cell, mask, offset_yx in output.join.outlined())
    write_roi_entries(path, cells, output.plane, output.provenance)


def _write_outlines(path: Path, output: SlideOutput) -> None:
    write_outline_lines(path, (MaskCrop(mask, offset_yx) for _, mask, offset_yx in output.join.outlined()))


_WRITERS: dict[str, Callable[[Path, SlideOutput], None]] = {
    "tiff": _write_tiff,
    "csv": lambda path, output: write_rows(path, output.rows(), output.columns),
    "ome-tiff": _write_ome_tiff,
    "ome-zarr": _write_zarr,
    "geojson": _write_geojson,
    "parquet": lambda path, output: write_parquet_rows(path, output.rows(), output.columns, output.provenance),
    "imagej": _write_imagej,
    "cellpose-tif": _write_tiff,
    "cellpose-txt": _write_outlines,
    OVERLAY: lambda path, output: write_overview(path, output.reader, output.join.blocks, output.provenance),
}
"""Writers by the names of ``OUTPUT_FORMATS``, without formats that are not for slides."""
