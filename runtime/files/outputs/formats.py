"""Formats of result files, chosen by name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from runtime.errors import ConfigError, InputError
from runtime.files.formats.axes import Plane
from runtime.files.formats.base import optional_package
from runtime.files.outputs.cellpose import write_masks_png, write_outlines, write_seg
from runtime.files.outputs.geojson import write_geojson
from runtime.files.outputs.imagej import write_rois
from runtime.files.outputs.label_images import write_ome_tiff, write_ome_zarr
from runtime.files.outputs.parquet import write_parquet
from runtime.files.outputs.stacks import write_tracks
from runtime.files.outputs.tables import write_table
from runtime.files.plain import write_labels
from runtime.provenance import Provenance, distinct
from runtime.results import Segmentation
from runtime.types import Arrays


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageOutput:
    """Data from which the result files of one image are written."""

    result: Segmentation
    pixel_size_um: float | None = None
    """Side of a pixel; None if it is unknown."""
    plane: Plane = field(default_factory=Plane)
    """The plane of the stack that was segmented."""
    measured: Arrays | None = None
    """Further table columns, (n,) each, in the order of the labels; see ``table_rows``."""
    image: Path | None = None
    """The image file; None if the image did not come from one."""

    @property
    def provenance(self) -> tuple[Provenance, ...]:
        """Origin of the result; empty if unknown."""
        return distinct([self.result.provenance])


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """A format of result files."""

    ending: str
    """Ending of the file name, after the name of the image."""
    write: Callable[[Path, ImageOutput], None]
    package: tuple[str, str] | None = None
    """Module and package that the format needs beyond the base install."""
    has_table: bool = False
    """True if files contain the columns of the table, including measurements."""
    for_slides: bool = True
    """False if a file is written from the whole label map in memory, which a slide does not have."""


OUTPUT_FORMATS = {
    "tiff": OutputFormat(
        "_labels.tif", lambda path, out: write_labels(path, out.result.labels, out.pixel_size_um, out.provenance)
    ),
    "csv": OutputFormat(
        "_cells.csv",
        lambda path, out: write_table(path, out.result, out.pixel_size_um, out.measured),
        has_table=True,
    ),
    "ome-tiff": OutputFormat(
        "_labels.ome.tif",
        lambda path, out: write_ome_tiff(path, out.result.labels, out.pixel_size_um, out.provenance),
    ),
    "ome-zarr": OutputFormat(
        ".zarr",
        lambda path, out: write_ome_zarr(path, out.result.labels, out.pixel_size_um, out.provenance),
        ("zarr", "zarr"),
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
        "_rois.zip",
        lambda path, out: write_rois(path, out.result.labels, out.plane, out.provenance),
        ("roifile", "roifile"),
    ),
    "cellpose": OutputFormat(
        "_seg.npy",
        lambda path, out: write_seg(
            path, out.result.labels, _image_name(path, out), out.result.appearance.diameter_px, out.provenance
        ),
        for_slides=False,
    ),
    "cellpose-tif": OutputFormat(
        "_cp_masks.tif", lambda path, out: write_labels(path, out.result.labels, out.pixel_size_um, out.provenance)
    ),
    "cellpose-png": OutputFormat(
        "_cp_masks.png",
        lambda path, out: write_masks_png(path, out.result.labels, out.provenance),
        for_slides=False,
    ),
    "ctc": OutputFormat("_RES", lambda path, out: write_tracks(path, [out.result.labels]), for_slides=False),
    "cellpose-txt": OutputFormat("_cp_outlines.txt", lambda path, out: write_outlines(path, out.result.labels)),
}

DEFAULT_FORMATS = ("tiff", "csv")


def parse_formats(given: Iterable[str]) -> tuple[str, ...]:
    """Parse options with one format name or several separated by commas; return the default formats if none is given.

    Raises:
        ConfigError: a name is unknown.
    """
    names = [name.strip().lower() for option in given for name in option.split(",") if name.strip()]
    for name in names:
        if name not in OUTPUT_FORMATS:
            raise ConfigError(
                f"format {name!r} is unknown; expected one or more of {', '.join(OUTPUT_FORMATS)}.", field="formats"
            )
    return tuple(dict.fromkeys(names)) or DEFAULT_FORMATS


def check_packages(formats: Iterable[str]) -> None:
    """Raise an ``InputError`` if a format needs a package that is not installed, before any image is segmented."""
    for name in formats:
        if (needed := OUTPUT_FORMATS[name].package) is not None:
            optional_package(*needed, f"format {name}")


def check_measure(measure: bool, formats: Iterable[str]) -> None:
    """Check that there is a format for measurements.

    Args:
        measure: whether to measure cells.
        formats: names of ``OUTPUT_FORMATS``.

    Raises:
        ConfigError: ``measure`` is set, but no format has a table.
    """
    formats = tuple(formats)
    if measure and not any(OUTPUT_FORMATS[name].has_table for name in formats):
        tables = ", ".join(name for name, kind in OUTPUT_FORMATS.items() if kind.has_table)
        raise ConfigError(
            f"measure=True was given with the formats {', '.join(formats)}; expected one with a table ({tables}). Add "
            "csv to the formats, or leave measure=True out.",
            kind="conflict",
            field="measure",
        )


def slide_formats() -> tuple[str, ...]:
    """Return the names of the formats in which slides can be written."""
    return tuple(name for name, kind in OUTPUT_FORMATS.items() if kind.for_slides)


def check_slide_formats(formats: Iterable[str]) -> None:
    """Raise an ``InputError`` if slides cannot be written in a format."""
    possible = slide_formats()
    wrong = [name for name in formats if name not in possible]
    if wrong:
        raise InputError(
            f"a slide cannot be written as {', '.join(wrong)}; expected formats among {', '.join(possible)}. Leave the "
            "others out.",
            kind="unsupported",
            field="formats",
        )


def _image_name(path: Path, output: ImageOutput) -> str:
    """Return the path of the image for a result at ``path``, without which Cellpose would not find it."""
    stem = str(path).removesuffix(OUTPUT_FORMATS["cellpose"].ending)
    return stem if output.image is None else os.path.abspath(output.image)


def output_path(stem: Path, name: str) -> Path:
    """Return the path of a format's file or directory, which begins with ``stem``."""
    return Path(f"{stem}{OUTPUT_FORMATS[name].ending}")
