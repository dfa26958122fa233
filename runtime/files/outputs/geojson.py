"""Cell outlines as GeoJSON for QuPath.

QuPath 0.4 and later reads a FeatureCollection. It uses these members of a feature:

- ``geometry``: Polygon or MultiPolygon (RFC 7946), in pixels of the full-size image, whose upper left corner is (0, 0).
  Its member ``plane`` contains the numbers c, z and t of the plane in a stack, where c is -1 for all channels. Without
  it, QuPath uses the first plane.
- ``properties``: ``objectType`` "cell" (others: annotation, detection, tile), ``name``, ``classification`` with a name
  and a colour (three numbers from 0 to 255), and ``measurements``, an object of numbers.
- Optional members: ``nucleusGeometry``, if the nucleus is known; ``id``, a UUID, which QuPath otherwise generates;
  ``isLocked``, false by default; ``isMissing``, only for cores of tissue microarrays.

Source: ``QuPathTypeAdapters`` and ``ROITypeAdapters`` in the package qupath.lib.io, and "Exporting annotations" in the
documentation of QuPath.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.files.formats.axes import Plane
from runtime.files.outputs.polygons import mask_polygons
from runtime.files.outputs.tables import TABLE_COLUMNS, table_columns, table_rows
from runtime.files.placing import write_whole
from runtime.ops.masks import MaskCrop, label_crops
from runtime.provenance import METADATA_KEY, Provenance, distinct, to_json
from runtime.results import Segmentation
from runtime.types import Arrays

CLASS_NAME = "Cell"
CLASS_COLOUR = (255, 200, 0)
MEASURED = ("label", "score", "iou_prediction", "label_area_px", "area_um2", "centroid_y", "centroid_x")
"""Columns of the plain table that become measurements of a cell, together with all further columns."""


def cell_features(
    result: Segmentation,
    pixel_size_um: float | None = None,
    plane: Plane | None = None,
    measured: Arrays | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield a GeoJSON feature for each cell of the label map, in the order of the labels.

    Args:
        result: the segmentation of an image.
        pixel_size_um: side of a pixel, micrometres; None if unknown.
        plane: the plane of the stack that was segmented.
        measured: further columns of the table; see ``table_rows``.

    Yields:
        A polygon, or several if the cell has separate parts, along the edges of the cell's pixels. Coordinates are
        image pixels, from the upper left corner of the first pixel.
    """
    columns, rows = table_columns(measured), table_rows(result, pixel_size_um, measured)
    for row, crop in zip(rows, label_crops(result.labels), strict=False):  # rows of hidden instances come last
        yield cell_feature(dict(zip(columns, row, strict=True)), crop, plane)


def cell_feature(row: Mapping[str, Any], crop: MaskCrop, plane: Plane | None = None) -> dict[str, Any]:
    """Build the feature of one cell.

    Args:
        row: the table row of the cell, by column.
        crop: the pixels of the cell.
        plane: the plane of the stack that was segmented.
    """
    polygons = mask_polygons(crop.mask, crop.offset_yx)
    several = len(polygons) > 1
    measured = [*MEASURED, *(name for name in row if name not in TABLE_COLUMNS)]
    geometry: dict[str, Any] = {
        "type": "MultiPolygon" if several else "Polygon",
        "coordinates": polygons if several else polygons[0],
    }
    if plane is not None and (plane.z or plane.time):
        geometry["plane"] = {"c": -1, "z": plane.z or 0, "t": plane.time or 0}
    return {
        "type": "Feature",
        "geometry": geometry,
        "properties": {
            "objectType": "cell",
            "name": str(row["label"]),
            "classification": {"name": CLASS_NAME, "color": list(CLASS_COLOUR)},
            # JSON has neither infinity nor NaN, which is the score of boxes given by the user.
            "measurements": {
                name: value for name in measured if (value := row.get(name)) is not None and math.isfinite(value)
            },
        },
    }


def write_geojson(
    path: Path,
    result: Segmentation,
    pixel_size_um: float | None = None,
    plane: Plane | None = None,
    measured: Arrays | None = None,
) -> None:
    """Write ``cell_features`` as a FeatureCollection, atomically."""
    features = cell_features(result, pixel_size_um, plane, measured)
    write_whole(path, lambda temporary: write_features(temporary, features, distinct([result.provenance])))


def write_features(path: Path, features: Iterable[Mapping[str, Any]], provenance: Sequence[Provenance] = ()) -> None:
    """Write features as a FeatureCollection, one at a time, each on a line.

    Args:
        path: the file.
        features: the features.
        provenance: what made them, a foreign member of the collection (RFC 7946, section 6.1), which readers ignore.
    """
    made_by = f'"{METADATA_KEY}": {to_json(provenance)}, ' if provenance else ""
    with path.open("w", encoding="utf-8") as file:
        file.write(f'{{"type": "FeatureCollection", {made_by}"features": [')
        for number, feature in enumerate(features):
            file.write((",\n" if number else "\n") + json.dumps(feature, allow_nan=False))
        file.write("\n]}\n")
