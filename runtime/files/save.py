"""``runtime.save``: a result as one file, whose format its name tells. What writes it is imported on first use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from runtime.config import check_pixel_size
from runtime.errors import InputError
from runtime.files.placing import write_whole
from runtime.ops.measure import check_measured, intensities, shapes

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from runtime.results import Segmentation

FORMAT_OF_ENDING = {
    ".ome.tif": "ome-tiff",
    ".ome.tiff": "ome-tiff",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".npy": "npy",
    ".ome.zarr": "ome-zarr",
    ".zarr": "ome-zarr",
    ".geojson": "geojson",
    ".csv": "csv",
    ".parquet": "parquet",
    ".zip": "imagej",
}
"""Names of ``OUTPUT_FORMATS``, and ``npy``, by the end of a file's name; longer endings come first."""


def save(
    result: Segmentation,
    path: str | Path,
    *,
    image: ArrayLike | None = None,
    pixel_size_um: float | None = None,
    channels: Sequence[str] | None = None,
) -> None:
    """Write a result to a file in the format that its suffix names; an existing file is replaced.

    - ``.tif``, ``.tiff``: the label map, 16 bits if the labels fit, else 32; ``.ome.tif``, ``.ome.tiff``: as OME-TIFF.
    - ``.zarr``, ``.ome.zarr``: the label map as OME-Zarr; a directory. Needs zarr.
    - ``.npy``: the label map, int32.
    - ``.csv``, ``.parquet``: the columns of ``Segmentation.table``. A row for each cell, then one with label 0 for each
      hidden instance; without a pixel size ``area_um2`` is empty. Parquet needs pyarrow.
    - ``.geojson``: an outline for each cell, with its measurements, as QuPath reads it.
    - ``.zip``: ImageJ ROIs, one for each cell, named by its label. Needs roifile.

    Args:
        result: the cells of an image.
        path: the file, in an existing directory. It appears whole or not at all.
        image: (H, W) or (H, W, C); tables and GeoJSON then hold the intensities of each cell.
        pixel_size_um: side of a pixel in micrometres.
        channels: names of the image's channels for the columns of intensities; default, numbers from 0.

    Raises:
        InputError: another suffix, a directory that does not exist or would be replaced, an image of another size, or
            a package that is not installed.
        ConfigError: a pixel size that is not a positive number.
        OSError: the file cannot be written.
    """
    path = Path(path)
    name = _format_name(path)
    check_pixel_size(pixel_size_um)
    if image is not None:
        image = check_measured(image, result.labels.shape)
    _check_place(path, name)
    if name == "npy":
        _write_npy(path, result)
        return
    from runtime.files.outputs.formats import OUTPUT_FORMATS, ImageOutput, check_packages

    check_packages([name])
    measured = None
    if OUTPUT_FORMATS[name].has_table:
        of_image = {} if image is None else intensities(result.labels, image, channels)
        measured = {**shapes(result.labels), **of_image}
    OUTPUT_FORMATS[name].write(path, ImageOutput(result=result, pixel_size_um=pixel_size_um, measured=measured))


def _format_name(path: Path) -> str:
    lower = path.name.lower()
    for ending, name in FORMAT_OF_ENDING.items():
        if lower.endswith(ending) and lower != ending:
            return name
    raise InputError(
        f"{path} has type {path.suffix or 'none'!r}; expected one of {', '.join(FORMAT_OF_ENDING)}. Give the file a "
        "name with one of them."
    )


def _check_place(path: Path, name: str) -> None:
    """Raises:
    InputError: no directory for the file, or one in its place that holds anything but labels.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} is not a directory; expected an existing one. Make it, or check the path.")
    if not path.is_dir():
        return
    from runtime.files.outputs.label_images import is_label_group

    if name != "ome-zarr" or (any(path.iterdir()) and not is_label_group(path)):
        raise InputError(
            f"{path} is a directory that holds something else; expected a free name, or label images to replace. Give "
            "another name."
        )


def _write_npy(path: Path, result: Segmentation) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # by its name, numpy would add a suffix
            np.save(file, result.labels)

    write_whole(path, write)
