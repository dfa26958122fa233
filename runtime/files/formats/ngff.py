"""Reader of OME-Zarr (NGFF): multiscale images, versions 0.1 to 0.5.

Source: the specification, ngff.openmicroscopy.org (0.4, 0.5).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.files.formats.axes import Plane, find_plane, part_of_array
from runtime.files.formats.base import RGB, FileReader, ImageInfo, channel_names, damage_named, optional_package
from runtime.files.formats.choices import check_level, choose_series
from runtime.files.formats.tiff_metadata import side_um, um_per_unit

Array = NDArray[np.generic]
Json = Mapping[str, Any]

MARKS = ("zarr.json", ".zgroup", ".zarray", ".zattrs")
"""Files that identify a Zarr directory, versions 3 and 2."""

_CHUNKS_LOOKED_FOR = 100_000
"""Maximum number of chunk files to check."""

_OLD_AXES = "tczyx"
"""Axes of versions before 0.3, which do not name them."""


def is_zarr(path: Path) -> bool:
    """Return whether a path is a Zarr directory."""
    return path.is_dir() and any((path / mark).is_file() for mark in MARKS)


class NgffReader(FileReader):
    """Reader of one plane of one multiscale image."""

    def __init__(self, path: Path, *, series: int | str | None, plane: Plane, level: int) -> None:
        """Open the directory; see ``runtime.files.formats.open_image``."""
        zarr = optional_package("zarr", "zarr", f"{path} (OME-Zarr)")
        with damage_named(path):
            group: Any = zarr.open(str(path), mode="r")
            group = _image_group(path, group, series)
            metadata = _metadata(group)
            multiscale = metadata["multiscales"][0]
            datasets: Sequence[Json] = multiscale["datasets"]
            check_level(path, level, len(datasets))
            arrays = [group[str(dataset["path"])] for dataset in datasets]
            self._array = arrays[level]
            axes = _axis_names(multiscale, self._array.ndim)
            self._axes = find_plane(axes, self._array.shape, plane, str(path))
            count = 1 if self._axes.channel is None else int(self._array.shape[self._axes.channel])
            info = ImageInfo(
                size_hw=_size_hw(arrays[level], self._axes.y, self._axes.x),
                dtype=np.dtype(self._array.dtype),
                channels=_channel_names(metadata, count),
                pixel_size_um=_pixel_size_um(multiscale, datasets[level], self._axes.y, self._axes.x),
                levels=tuple(_size_hw(array, self._axes.y, self._axes.x) for array in arrays),
            )
        super().__init__(path, info)

    @property
    def stack(self) -> Mapping[str, int]:
        """Length of the axes T (time) and Z of the image that are longer than 1."""
        return self._axes.stack

    def absent_chunks(self) -> tuple[int, int]:
        """Count the chunks of the plane without a file, and all checked chunks: all, or an evenly spread sample."""
        array, fixed = self._array, self._axes.fixed
        with damage_named(self.path):
            sizes = array.shards or array.chunks
            folder = self.path / array.store_path.path
            first = [fixed.get(axis, 0) // size for axis, size in enumerate(sizes)]
            counts = [1 if axis in fixed else -(-array.shape[axis] // size) for axis, size in enumerate(sizes)]
            looked = range(0, math.prod(counts), -(-math.prod(counts) // _CHUNKS_LOOKED_FOR))
            keys = (array.metadata.encode_chunk_key(_place(number, first, counts)) for number in looked)
            return sum(not (folder / key).is_file() for key in keys), len(looked)

    def _read(self, part: tuple[int, int, int, int], channels: tuple[int, ...]) -> Array:
        return part_of_array(self._array, self._axes, part, channels)


def _place(number: int, first: Sequence[int], counts: Sequence[int]) -> tuple[int, ...]:
    """Return the grid position of a chunk from its number within a plane."""
    place: list[int] = []
    for start, count in zip(reversed(first), reversed(counts), strict=True):
        number, rest = divmod(number, count)
        place.insert(0, start + rest)
    return tuple(place)


def _metadata(group: Any) -> Json:
    """Return the OME metadata of a group, which have a separate key since version 0.5."""
    attributes: Json = group.attrs.asdict()
    ome = attributes.get("ome")
    return ome if isinstance(ome, Mapping) else attributes


def _image_group(path: Path, group: Any, series: int | str | None) -> Any:
    """Return the group of the chosen image.

    A series is the path of a group, or its number if the file lists several (bioformats2raw's layout).
    """
    if not hasattr(group, "group_keys"):
        raise InputError(
            f"{path} is a Zarr array without OME-Zarr metadata; expected the directory of an image. Give its parent "
            "directory, or save the array with its axes.",
            kind="unsupported",
        )
    metadata = _metadata(group)
    if "multiscales" in metadata and series in (None, 0, "0"):
        return group
    if isinstance(series, str) and not series.isdigit():
        if series not in group or "multiscales" not in _metadata(group[series]):
            raise InputError(
                f"{path} has no image {series!r}; expected the path of an image inside it.",
                kind="not_found",
                field="series",
            )
        return group[series]
    if "plate" in metadata:
        wells = [well["path"] for well in metadata["plate"].get("wells", [])]
        raise InputError(
            f"{path} is a plate with the wells {', '.join(wells[:5])}{', ...' if len(wells) > 5 else ''}; expected one "
            f"image. Choose a field, such as series='{wells[0] if wells else 'A/1'}/0'.",
            kind="missing",
            field="series",
        )
    listed = sorted((key for key in group.group_keys() if key.isdigit()), key=int)
    images = [key for key in listed if "multiscales" in _metadata(group[key])]
    if not images:
        raise InputError(
            f"{path} contains no OME-Zarr image (no 'multiscales' metadata); expected the directory of an image. "
            f"It contains: {', '.join(sorted(group.keys())) or 'nothing'}.",
            kind="not_found",
        )
    found = [(key, f"shape {group[key][str(_first_dataset(group[key]))].shape}") for key in images]
    return group[images[choose_series(path, found, series)]]


def _first_dataset(group: Any) -> object:
    return _metadata(group)["multiscales"][0]["datasets"][0]["path"]


def _axis_names(multiscale: Json, ndim: int) -> str:
    """Return a letter for each axis."""
    axes = multiscale.get("axes") or _OLD_AXES[-ndim:]
    names = [axis["name"] if isinstance(axis, Mapping) else str(axis) for axis in axes]
    types = [axis.get("type") if isinstance(axis, Mapping) else None for axis in axes]
    letters = {"time": "T", "channel": "C"}
    return "".join(letters.get(str(kind), name[:1].upper()) for name, kind in zip(names, types, strict=True))


def _size_hw(array: Any, y: int, x: int) -> tuple[int, int]:
    return int(array.shape[y]), int(array.shape[x])


def _channel_names(metadata: Json, count: int) -> tuple[str, ...]:
    channels = metadata.get("omero", {}).get("channels", [])
    names = [str(channel.get("label") or number) for number, channel in enumerate(channels)]
    if tuple(name.lower() for name in names) in (RGB, ("r", "g", "b")):
        return RGB if count == len(RGB) else channel_names(count, ())
    return channel_names(count, names)


def _pixel_size_um(multiscale: Json, dataset: Json, y: int, x: int) -> float | None:
    """Compute the pixel size from the units and the scales of the axes; None if the axes have no units."""
    axes = multiscale.get("axes") or []
    units = [axis.get("unit") if isinstance(axis, Mapping) else None for axis in axes]
    if not units or not units[y] or not units[x]:
        return None
    factors = [um_per_unit(str(units[axis])) for axis in (y, x)]
    steps = [
        step
        for owner in (dataset, multiscale)
        for step in owner.get("coordinateTransformations", [])
        if step.get("type") == "scale" and "scale" in step
    ]
    if None in factors or not steps:
        return None
    sides = [
        (factor or 0.0) * math.prod(float(step["scale"][axis]) for step in steps)
        for factor, axis in zip(factors, (y, x), strict=True)
    ]
    return side_um(*sides)
