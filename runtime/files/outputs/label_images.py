"""Writers of label maps as OME-TIFF and OME-Zarr."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.files.formats.base import optional_package
from runtime.files.outputs.pyramid import label_dtype, label_levels, level_count, level_shape
from runtime.files.placing import write_whole
from runtime.files.plain import resolution_tags
from runtime.provenance import METADATA_KEY, Provenance, to_json, to_jsonable, to_pairs

TILE_PX = 512
"""Side of OME-TIFF tiles and OME-Zarr chunks, pixels."""

LABEL_NAME = "cells"

_MADE_BY = "What made these labels"

_BIG_BYTES = 2**32 - 2**25
"""Uncompressed size from which a TIFF is written as BigTIFF."""

BUFFER_BYTES = 1 << 24
"""Size of the buffer of tiles that tifffile compresses before it writes them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelImage:
    """Declarations of a label image besides its pixels."""

    size_hw: tuple[int, int]
    """Height and width, pixels."""
    dtype: np.dtype[np.unsignedinteger]
    """Data type of the labels."""
    pixel_size_um: float | None = None
    """Side of a pixel, micrometres; None if unknown."""
    provenance: tuple[Provenance, ...] = ()
    """Origin of the labels; empty if unknown."""

    @classmethod
    def of(
        cls, labels: NDArray[np.integer], pixel_size_um: float | None, provenance: Iterable[Provenance]
    ) -> LabelImage:
        """Describe a label map (H, W), with the smallest data type that holds its labels."""
        return cls(
            size_hw=(labels.shape[0], labels.shape[1]),
            dtype=label_dtype(labels),
            pixel_size_um=pixel_size_um,
            provenance=tuple(provenance),
        )


def write_ome_tiff(
    path: Path,
    labels: NDArray[np.integer],
    pixel_size_um: float | None = None,
    provenance: Sequence[Provenance] = (),
) -> None:
    """Write a label map as a tiled, compressed OME-TIFF, atomically; large maps become a pyramid.

    Args:
        path: the file.
        labels: (H, W), 0 background.
        pixel_size_um: side of a pixel, micrometres; None if unknown.
        provenance: what made the labels.
    """
    image = LabelImage.of(labels, pixel_size_um, provenance)
    levels = (level.astype(image.dtype) for level in label_levels(labels))
    content = hashlib.sha256(np.ascontiguousarray(labels).tobytes()).hexdigest()
    write_whole(path, lambda temporary: write_levels(temporary, levels, image, content))


def write_levels(path: Path, levels: Iterable[Any], image: LabelImage, content: str) -> None:
    """Write the OME-TIFF of ``write_ome_tiff`` from its levels.

    Args:
        path: the file.
        levels: the levels, as from ``label_levels``, each an array or an iterator of its tiles.
        image: what the file declares.
        content: a checksum of the labels, from which the file's UUID is derived, together with the provenance. The same
            labels of the same engines thus give the same file; tifffile by itself would choose a random UUID.
    """
    import tifffile

    pixel_size_um, size_hw = image.pixel_size_um, image.size_hw
    options: dict[str, Any] = {
        "dtype": image.dtype,
        "compression": "zlib",
        "photometric": "minisblack",
        "tile": (TILE_PX, TILE_PX),
        "maxworkers": 1,
        "buffersize": BUFFER_BYTES,
    }
    metadata = _ome_metadata(image, content)
    big = 4 / 3 * size_hw[0] * size_hw[1] * image.dtype.itemsize > _BIG_BYTES
    below = level_count(size_hw) - 1
    with tifffile.TiffWriter(path, ome=True, bigtiff=big) as tiff:
        for number, level in enumerate(levels):
            tags = resolution_tags(None if pixel_size_um is None else pixel_size_um * 2**number)
            kind = {"subifds": below, "metadata": metadata} if not number else {"subfiletype": 1, "metadata": None}
            tiff.write(level, shape=level_shape(size_hw, number), **kind, **tags, **options)


def _ome_metadata(image: LabelImage, content: str) -> dict[str, Any]:
    """Return what tifffile writes as OME-XML; see ``write_levels``."""
    made_by = to_json(image.provenance) if image.provenance else ""
    identity = uuid.uuid5(uuid.NAMESPACE_OID, content + made_by)
    metadata: dict[str, Any] = {"axes": "YX", "Channel": {"Name": [LABEL_NAME]}, "UUID": str(identity)}
    if image.pixel_size_um is not None:
        for axis in "XY":
            metadata |= {f"PhysicalSize{axis}": image.pixel_size_um, f"PhysicalSize{axis}Unit": "\u00b5m"}
    if image.provenance:
        metadata["MapAnnotation"] = [
            {"Namespace": METADATA_KEY, "Description": _MADE_BY, "Value": to_pairs(one)} for one in image.provenance
        ]
    return metadata


def write_ome_zarr(
    path: Path,
    labels: NDArray[np.integer],
    pixel_size_um: float | None = None,
    provenance: Sequence[Provenance] = (),
) -> None:
    """Write a label map as the label image 'cells' of an OME-Zarr labels group, atomically.

    Viewers can open the group by itself. Moved to ``IMAGE.zarr/labels``, it belongs to that image.

    Args:
        path: the directory.
        labels: (H, W), 0 background.
        pixel_size_um: side of a pixel, micrometres; None if unknown.
        provenance: what made the labels.

    Raises:
        InputError: zarr is not installed.
    """
    image = LabelImage.of(labels, pixel_size_um, provenance)

    def write(temporary: Path) -> None:
        for array, level in zip(make_ome_zarr(temporary, image), label_levels(labels), strict=True):
            array[:] = level.astype(image.dtype)

    write_whole(path, write)


def make_ome_zarr(path: Path, image: LabelImage) -> list[Any]:
    """Create the OME-Zarr labels group of ``write_ome_zarr``, without pixels.

    Args:
        path: the directory.
        image: what the group declares.

    Returns:
        The zarr arrays of the levels of ``label_levels``, the largest first, all 0.

    Raises:
        InputError: zarr is not installed.

    Source: NGFF 0.4, which all current viewers read (ngff.openmicroscopy.org/0.4).
    """
    zarr = optional_package("zarr", "zarr", "OME-Zarr")
    unit = {"unit": "micrometer"} if image.pixel_size_um is not None else {}
    axes = [{"name": name, "type": "space", **unit} for name in "yx"]
    group: Any = zarr.open_group(str(path), mode="w", zarr_format=2, attributes={"labels": [LABEL_NAME]})
    labels = group.create_group(LABEL_NAME)
    arrays, datasets = [], []
    for number in range(level_count(image.size_hw)):
        shape = level_shape(image.size_hw, number)
        arrays.append(
            labels.create_array(
                str(number),
                shape=shape,
                chunks=tuple(min(TILE_PX, length) for length in shape),
                dtype=image.dtype,
                chunk_key_encoding={"name": "v2", "separator": "/"},
                fill_value=0,
            )
        )
        scale = [float(2**number * (image.pixel_size_um or 1.0))] * 2
        datasets.append({"path": str(number), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    multiscale = {"version": "0.4", "name": LABEL_NAME, "axes": axes, "datasets": datasets, "type": "nearest"}
    made_by = {METADATA_KEY: to_jsonable(image.provenance)} if image.provenance else {}
    labels.attrs.update({"multiscales": [multiscale], "image-label": {"version": "0.4"}, **made_by})
    return arrays


def is_label_group(path: Path) -> bool:
    """Return whether a directory is a group of label images, as from ``make_ome_zarr``, and not itself an image."""
    try:
        attributes = json.loads((path / ".zattrs").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(attributes, dict) and "labels" in attributes and "multiscales" not in attributes
