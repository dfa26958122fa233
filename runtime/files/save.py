"""``runtime.save``: write a result to a file, in the format of its suffix. Writers are imported on first use."""

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
    "_seg.npy": "cellpose",
    "_cp_masks.tif": "cellpose-tif",
    "_cp_masks.png": "cellpose-png",
    "_cp_outlines.txt": "cellpose-txt",
    "_res": "ctc",
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
"""Names of ``OUTPUT_FORMATS``, or ``npy``, by the ending of the file name; longer endings come first."""


def save(
    result: Segmentation,
    path: str | Path,
    *,
    image: ArrayLike | None = None,
    pixel_size_um: float | None = None,
    channels: Sequence[str] | None = None,
) -> None:
    """Write a result to a file in the format of its suffix, and replace an existing file.

    - ``.tif``, ``.tiff``: the label map, 16 bits if the labels fit, else 32.
    - ``.ome.tif``, ``.ome.tiff``: the label map as OME-TIFF.
    - ``.zarr``, ``.ome.zarr``: the label map as OME-Zarr, a directory. Needs zarr.
    - ``.npy``: the label map, int32; ``_seg.npy``: the dictionary that Cellpose's GUI and scripts read.
    - ``_cp_masks.png``: the label map, 16 bits; at most 65535 cells.
    - ``_RES``: a directory of the Cell Tracking Challenge with one frame.
    - ``_cp_outlines.txt``: the outermost pixels of each cell, a line ``x,y,x,y,...`` for each, as in Cellpose.
    - ``.csv``, ``.parquet``: the columns of ``Segmentation.table``, with a row for each cell, then a row with label 0
      for each hidden instance. Without a pixel size, ``area_um2`` is empty. Parquet needs pyarrow.
    - ``.geojson``: an outline for each cell, with its measurements, for QuPath.
    - ``.zip``: an ImageJ ROI for each cell, named by its label. Needs roifile.

    Args:
        result: the cells of an image.
        path: the file, in an existing directory. It is written atomically.
        image: (H, W) or (H, W, C); adds the intensities of each cell to tables and GeoJSON.
        pixel_size_um: side of a pixel in micrometres.
        channels: names of the image channels for the intensity columns; default: numbers from 0.

    Raises:
        InputError: the suffix is unknown, the directory does not exist, the path is a directory with other content, the
            image has another size, or a package is not installed.
        ConfigError: the pixel size is not a positive number.
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
        f"{path} has type {path.suffix or 'none'!r}; expected one of {', '.join(FORMAT_OF_ENDING)}. Use one of these "
        "suffixes."
    )


def _check_place(path: Path, name: str) -> None:
    """Check that the file can be written to its place.

    Raises:
        InputError: the directory does not exist, or the path is a directory that contains anything but labels.
    """
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} is not a directory; expected an existing one. Create it, or check the path.")
    if not path.is_dir():
        return
    from runtime.files.outputs.label_images import is_label_group

    if name != "ome-zarr" or (any(path.iterdir()) and not is_label_group(path)):
        raise InputError(
            f"{path} is a directory with other content; expected a new path, or label images to replace. Choose "
            "another path."
        )


def _write_npy(path: Path, result: Segmentation) -> None:
    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # given a name, numpy would add a suffix
            np.save(file, result.labels)

    write_whole(path, write)
