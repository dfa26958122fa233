"""The files that a segmentation becomes, chosen by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from runtime.errors import ConfigError
from runtime.files.formats.axes import Plane
from runtime.files.formats.base import optional_package
from runtime.files.outputs.geojson import write_geojson
from runtime.files.outputs.imagej import write_rois
from runtime.files.outputs.label_images import write_ome_tiff, write_ome_zarr
from runtime.files.outputs.parquet import write_parquet
from runtime.files.outputs.tables import write_table
from runtime.files.plain import write_labels
from runtime.results import Segmentation
from runtime.types import Arrays


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageOutput:
    """What the files of one image are made from."""

    result: Segmentation
    pixel_size_um: float | None = None
    """Side of a pixel; None if it is unknown."""
    plane: Plane = field(default_factory=Plane)
    """Of the stack that was segmented."""
    measured: Arrays | None = None
    """Further columns of tables, (n,) each, in the order of the labels; see ``table_rows``."""


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """One kind of file."""

    ending: str
    """What follows the image's name."""
    write: Callable[[Path, ImageOutput], None]
    package: tuple[str, str] | None = None
    """Module and package that the base install lacks."""
    has_table: bool = False
    """It holds the columns of the table, measured ones included."""


OUTPUT_FORMATS = {
    "tiff": OutputFormat("_labels.tif", lambda path, out: write_labels(path, out.result.labels, out.pixel_size_um)),
    "csv": OutputFormat(
        "_cells.csv",
        lambda path, out: write_table(path, out.result, out.pixel_size_um, out.measured),
        has_table=True,
    ),
    "ome-tiff": OutputFormat(
        "_labels.ome.tif", lambda path, out: write_ome_tiff(path, out.result.labels, out.pixel_size_um)
    ),
    "ome-zarr": OutputFormat(
        ".zarr", lambda path, out: write_ome_zarr(path, out.result.labels, out.pixel_size_um), ("zarr", "zarr")
    ),
    "geojson": OutputFormat(
        "_cells.geojson",
        lambda path, out: write_geojson(path, out.result, out.pixel_size_um, out.plane, out.measured),
        has_table=True,
    ),
    "parquet": OutputFormat(
        "_cells.parquet",
        lambda path, out: write_parquet(path, out.result, out.pixel_size_um, out.measured),
        ("pyarrow", "pyarrow"),
        has_table=True,
    ),
    "imagej": OutputFormat(
        "_rois.zip", lambda path, out: write_rois(path, out.result.labels, out.plane), ("roifile", "roifile")
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
            raise ConfigError(
                f"format {name!r} is not known; expected some of {', '.join(OUTPUT_FORMATS)}.", field="formats"
            )
    return tuple(dict.fromkeys(names)) or DEFAULT_FORMATS


def check_packages(formats: Iterable[str]) -> None:
    """Raise an ``InputError`` if a format needs a package that is not installed, before any image is segmented."""
    for name in formats:
        if (needed := OUTPUT_FORMATS[name].package) is not None:
            optional_package(*needed, f"format {name}")


def check_measure(measure: bool, formats: Iterable[str]) -> None:
    """Check that there is a file for measurements.

    Args:
        measure: whether cells are to be measured.
        formats: names of ``OUTPUT_FORMATS``.

    Raises:
        ConfigError: they are, and no format has a table.
    """
    formats = tuple(formats)
    if measure and not any(OUTPUT_FORMATS[name].has_table for name in formats):
        tables = ", ".join(name for name, kind in OUTPUT_FORMATS.items() if kind.has_table)
        raise ConfigError(
            f"measure=True came with the formats {', '.join(formats)}; expected one that has a table ({tables}). Add "
            "csv to the formats, or leave measure=True out.",
            kind="conflict",
            field="measure",
        )


def output_path(stem: Path, name: str) -> Path:
    """The file or directory of a format for results that begin with ``stem``."""
    return Path(f"{stem}{OUTPUT_FORMATS[name].ending}")
