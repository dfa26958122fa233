"""The files that a segmentation becomes, chosen by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import ConfigError
from runtime.files.formats.axes import Plane
from runtime.files.formats.base import optional_package
from runtime.files.outputs.geojson import write_geojson
from runtime.files.outputs.label_images import write_ome_tiff, write_ome_zarr
from runtime.files.outputs.parquet import write_parquet
from runtime.files.plain import write_labels, write_table
from runtime.results import Segmentation


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """One kind of file."""

    ending: str
    """What follows the image's name."""
    write: Callable[[Path, Segmentation, float | None, Plane], None]
    """Takes the path, the result, the side of a pixel in micrometres where it is known, and the plane of a stack."""
    package: tuple[str, str] | None = None
    """Module and package that the base install lacks."""


OUTPUT_FORMATS = {
    "tiff": OutputFormat("_labels.tif", lambda path, result, um, _: write_labels(path, result.labels, um)),
    "csv": OutputFormat("_cells.csv", lambda path, result, um, _: write_table(path, result, um)),
    "ome-tiff": OutputFormat("_labels.ome.tif", lambda path, result, um, _: write_ome_tiff(path, result.labels, um)),
    "ome-zarr": OutputFormat(
        ".zarr", lambda path, result, um, _: write_ome_zarr(path, result.labels, um), ("zarr", "zarr")
    ),
    "geojson": OutputFormat("_cells.geojson", write_geojson),
    "parquet": OutputFormat(
        "_cells.parquet", lambda path, result, um, _: write_parquet(path, result, um), ("pyarrow", "pyarrow")
    ),
}

DEFAULT_FORMATS = ("tiff", "csv")


def parse_formats(given: Iterable[str]) -> tuple[str, ...]:
    """Names of formats from options, each a name or several with commas; the default where none is given.

    Raises:
        ConfigError: a name that is not known.
    """
    names = [name.strip().lower() for option in given for name in option.split(",") if name.strip()]
    for name in names:
        if name not in OUTPUT_FORMATS:
            raise ConfigError(f"format {name!r} is not known; expected some of {', '.join(OUTPUT_FORMATS)}.")
    return tuple(dict.fromkeys(names)) or DEFAULT_FORMATS


def check_packages(formats: Iterable[str]) -> None:
    """Raise an ``InputError`` if a format needs a package that is not installed, before any image is segmented."""
    for name in formats:
        if (needed := OUTPUT_FORMATS[name].package) is not None:
            optional_package(*needed, f"format {name}")


def output_path(stem: Path, name: str) -> Path:
    """The file or directory of a format for results that begin with ``stem``."""
    return Path(f"{stem}{OUTPUT_FORMATS[name].ending}")
