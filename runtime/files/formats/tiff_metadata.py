"""Metadata of a TIFF file: channel names and pixel size."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

UM_PER_UNIT = {
    "m": 1e6,
    "cm": 1e4,
    "mm": 1e3,
    "um": 1.0,
    "nm": 1e-3,
    "pm": 1e-6,
    "inch": 25400.0,
    "in": 25400.0,
    "micron": 1.0,
    "microns": 1.0,
    "meter": 1e6,
    "centimeter": 1e4,
    "millimeter": 1e3,
    "micrometer": 1.0,
    "nanometer": 1e-3,
    "picometer": 1e-6,
}
"""Micrometres by unit of length, for OME-XML, ImageJ and OME-Zarr; ``um_per_unit`` unifies their spellings."""

LARGEST_PIXEL_UM = 20.0
"""Resolution tags with larger pixels describe a printer or a screen: 72 to 600 dpi are 353 to 42 um."""

_INCH, _CENTIMETRE = 2, 3
"""Values of ResolutionUnit (TIFF 6.0)."""


@dataclass(frozen=True, slots=True)
class TiffMetadata:
    """Metadata of one image; None and () for values that the file does not declare."""

    channels: tuple[str, ...] = ()
    pixel_size_um: float | None = None


def um_per_unit(unit: str) -> float | None:
    """Return the micrometres in a unit of length; None for other units, such as pixel."""
    folded = unit.strip().replace("\\u00B5", "u").replace("\u00b5", "u").replace("\u03bc", "u")
    return UM_PER_UNIT.get(folded.lower().replace("metre", "meter"))


def side_um(y: float, x: float) -> float | None:
    """Return the side of the square with the area of a pixel; None for invalid sizes."""
    return math.sqrt(y * x) if math.isfinite(y * x) and y > 0 and x > 0 else None


def tiff_metadata(tiff: Any, series: int) -> TiffMetadata:
    """Read the metadata of one series.

    Args:
        tiff: an open ``tifffile.TiffFile``.
        series: number of the series.

    Source: the OME-XML of an OME-TIFF, else ImageJ's metadata, else the resolution tags (TIFF 6.0).
    """
    if tiff.is_ome and tiff.ome_metadata:
        return _ome(tiff.ome_metadata, series, len(tiff.series))
    if tiff.is_imagej and tiff.imagej_metadata:
        return _imagej(tiff.imagej_metadata, tiff.series[series])
    return TiffMetadata(pixel_size_um=_from_tags(tiff.series[series].keyframe))


def _ome(xml: str, series: int, count: int) -> TiffMetadata:
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return TiffMetadata()  # tifffile can read the image without it
    images = [element for element in root if _local(element) == "Image"]
    if len(images) != count or series >= count:
        return TiffMetadata()
    pixels = next((element for element in images[series] if _local(element) == "Pixels"), None)
    if pixels is None:
        return TiffMetadata()
    channels = [element for element in pixels if _local(element) == "Channel"]
    names = tuple(channel.get("Name") or str(number) for number, channel in enumerate(channels))
    sides = [_ome_length(pixels, axis) for axis in "YX"]
    return TiffMetadata(names, None if None in sides else side_um(*(side or 0.0 for side in sides)))


def _local(element: ElementTree.Element) -> str:
    """Return the name without its namespace, which differs between versions of the schema."""
    return element.tag.rsplit("}", 1)[-1]


def _ome_length(pixels: ElementTree.Element, axis: str) -> float | None:
    factor = um_per_unit(pixels.get(f"PhysicalSize{axis}Unit", "um"))  # micrometres by default
    try:
        return None if factor is None else float(pixels.get(f"PhysicalSize{axis}", "")) * factor
    except ValueError:
        return None


def _imagej(metadata: dict[str, Any], series: Any) -> TiffMetadata:
    factor = um_per_unit(str(metadata.get("unit", "")))
    density = _density(series.keyframe)
    size = None if factor is None or density is None else side_um(factor / density[0], factor / density[1])
    labels, axes = metadata.get("Labels"), dict(zip(series.axes, series.shape, strict=True))
    count = axes.get("C", 1)
    # Labels belong to planes, with channels varying fastest; if they are channel names, they repeat.
    first = [str(label) for label in labels[:count]] if isinstance(labels, list) else []
    named = len(first) == count > 1 and all(first) and len(set(first)) == count
    return TiffMetadata(tuple(first) if named else (), size)


def _from_tags(page: Any) -> float | None:
    density, unit = _density(page), page.tags.valueof("ResolutionUnit")
    factor = {_INCH: UM_PER_UNIT["inch"], _CENTIMETRE: UM_PER_UNIT["cm"]}.get(int(unit or 0))
    size = None if factor is None or density is None else side_um(factor / density[0], factor / density[1])
    return size if size is not None and size <= LARGEST_PIXEL_UM else _aperio(page)


def _aperio(page: Any) -> float | None:
    """Return the pixel size of an Aperio slide (.svs), from 'MPP = 0.2525' in its description."""
    found = re.search(r"\|MPP = ([\d.]+)", page.description) if page.description.startswith("Aperio") else None
    return float(found[1]) if found else None


def _density(page: Any) -> tuple[float, float] | None:
    """Return the pixels per unit along y and x."""
    values = []
    for name in ("YResolution", "XResolution"):
        value = page.tags.valueof(name)
        if value is None:
            return None
        above, below = value if isinstance(value, tuple) else (value, 1)
        if not above or not below:
            return None
        values.append(float(above) / float(below))
    return values[0], values[1]
