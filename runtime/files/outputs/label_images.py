"""Writers of label maps as OME-TIFF and OME-Zarr."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.files.formats.base import optional_package
from runtime.files.outputs.pyramid import label_dtype, label_levels, level_count, level_shape
from runtime.files.placing import write_whole
from runtime.files.plain import resolution_tags

TILE_PX = 512
"""Side of OME-TIFF tiles and OME-Zarr chunks, pixels."""

LABEL_NAME = "cells"

_BIG_BYTES = 2**32 - 2**25
"""Uncompressed size from which a TIFF is written as BigTIFF."""

BUFFER_BYTES = 1 << 24
"""Size of the buffer of tiles that tifffile compresses before it writes them."""


def write_ome_tiff(path: Path, labels: NDArray[np.integer], pixel_size_um: float | None = None) -> None:
    """Write a label map as a tiled, compressed OME-TIFF, atomically; large maps become a pyramid.

    Args:
        path: the file.
        labels: (H, W), 0 background.
        pixel_size_um: side of a pixel, micrometres; None if unknown.
    """
    dtype, size_hw = label_dtype(labels), (labels.shape[0], labels.shape[1])
    levels = (level.astype(dtype) for level in label_levels(labels))
    content = hashlib.sha256(np.ascontiguousarray(labels).tobytes()).hexdigest()
    write_whole(path, lambda temporary: write_levels(temporary, levels, size_hw, dtype, pixel_size_um, content))


def write_levels(
    path: Path,
    levels: Iterable[Any],
    size_hw: tuple[int, int],
    dtype: np.dtype[np.unsignedinteger],
    pixel_size_um: float | None,
    content: str,
) -> None:
    """Write the OME-TIFF of ``write_ome_tiff`` from its levels.

    Args:
        path: the file.
        levels: the levels, as from ``label_levels``, each an array or an iterator of its tiles.
        size_hw: height and width of the label map, pixels.
        dtype: data type of the labels.
        pixel_size_um: side of a pixel, micrometres; None if unknown.
        content: a checksum of the labels, from which the file's UUID is derived. The same labels thus give the same
            file; tifffile by itself would choose a random UUID.
    """
    import tifffile

    identity = uuid.uuid5(uuid.NAMESPACE_OID, content)
    metadata: dict[str, Any] = {"axes": "YX", "Channel": {"Name": [LABEL_NAME]}, "UUID": str(identity)}
    options: dict[str, Any] = {
        "dtype": dtype,
        "compression": "zlib",
        "photometric": "minisblack",
        "tile": (TILE_PX, TILE_PX),
        "maxworkers": 1,
        "buffersize": BUFFER_BYTES,
    }
    if pixel_size_um is not None:
        for axis in "XY":
            metadata |= {f"PhysicalSize{axis}": pixel_size_um, f"PhysicalSize{axis}Unit": "\u00b5m"}
    big = 4 / 3 * size_hw[0] * size_hw[1] * dtype.itemsize > _BIG_BYTES
    below = level_count(size_hw) - 1
    with tifffile.TiffWriter(path, ome=True, bigtiff=big) as tiff:
        for number, level in enumerate(levels):
            tags = resolution_tags(None if pixel_size_um is None else pixel_size_um * 2**number)
            kind = {"subifds": below, "metadata": metadata} if not number else {"subfiletype": 1, "metadata": None}
            tiff.write(level, shape=level_shape(size_hw, number), **kind, **tags, **options)


def write_ome_zarr(path: Path, labels: NDArray[np.integer], pixel_size_um: float | None = None) -> None:
    """Write a label map as the label image 'cells' of an OME-Zarr labels group, atomically.

    Viewers can open the group by itself. Moved to ``IMAGE.zarr/labels``, it belongs to that image.

    Args:
        path: the directory.
        labels: (H, W), 0 background.
        pixel_size_um: side of a pixel, micrometres; None if unknown.

    Raises:
        InputError: zarr is not installed.
    """
    dtype = label_dtype(labels)

    def write(temporary: Path) -> None:
        levels = make_ome_zarr(temporary, (labels.shape[0], labels.shape[1]), dtype, pixel_size_um)
        for array, level in zip(levels, label_levels(labels), strict=True):
            array[:] = level.astype(dtype)

    write_whole(path, write)


def make_ome_zarr(
    path: Path, size_hw: tuple[int, int], dtype: np.dtype[np.unsignedinteger], pixel_size_um: float | None
) -> list[Any]:
    """Create the OME-Zarr labels group of ``write_ome_zarr``, without pixels.

    Args:
        path: the directory.
        size_hw: height and width of the label map, pixels.
        dtype: data type of the labels.
        pixel_size_um: side of a pixel, micrometres; None if unknown.

    Returns:
        The zarr arrays of the levels of ``label_levels``, the largest first, all 0.

    Raises:
        InputError: zarr is not installed.

    Source: NGFF 0.4, which all current viewers read (ngff.openmicroscopy.org/0.4).
    """
    zarr = optional_package("zarr", "zarr", "OME-Zarr")
    unit = {"unit": "micrometer"} if pixel_size_um is not None else {}
    axes = [{"name": name, "type": "space", **unit} for name in "yx"]
    group: Any = zarr.open_group(str(path), mode="w", zarr_format=2, attributes={"labels": [LABEL_NAME]})
    image = group.create_group(LABEL_NAME)
    arrays, datasets = [], []
    for number in range(level_count(size_hw)):
        shape = level_shape(size_hw, number)
        arrays.append(
            image.create_array(
                str(number),
                shape=shape,
                chunks=tuple(min(TILE_PX, length) for length in shape),
                dtype=dtype,
                chunk_key_encoding={"name": "v2", "separator": "/"},
                fill_value=0,
            )
        )
        scale = [float(2**number * (pixel_size_um or 1.0))] * 2
        datasets.append({"path": str(number), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    multiscale = {"version": "0.4", "name": LABEL_NAME, "axes": axes, "datasets": datasets, "type": "nearest"}
    image.attrs.update({"multiscales": [multiscale], "image-label": {"version": "0.4"}})
    return arrays


def is_label_group(path: Path) -> bool:
    """Return whether a directory is a group of label images, as from ``make_ome_zarr``, and not itself an image."""
    try:
        attributes = json.loads((path / ".zattrs").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(attributes, dict) and "labels" in attributes and "multiscales" not in attributes
