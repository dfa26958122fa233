"""Outlines of cells as GeoJSON, as QuPath reads it.

QuPath (0.4 and later; ``QuPathTypeAdapters``, ``ROITypeAdapters`` in its package qupath.lib.io, and "Exporting
annotations" in its documentation) takes a FeatureCollection. Of a feature it reads

- ``geometry``: RFC 7946, in pixels of the full-size image whose upper left corner is (0, 0), Polygon or MultiPolygon;
  in it, ``plane`` with the numbers c, z and t of the plane of a stack, c -1 for all channels; without it, the first.
- ``properties``: ``objectType`` "cell" (others: annotation, detection, tile), ``name``, ``classification`` with a name
  and a colour (three numbers of 0 to 255), and ``measurements``, an object of numbers.
- ``nucleusGeometry`` beside ``geometry``, for cells whose nucleus is known, too; ``id``, a UUID, which it makes up
  where there is none; ``isLocked``, false if left out; ``isMissing``, of cores of tissue microarrays alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from runtime.files.formats.axes import Plane
from runtime.files.outputs.polygons import mask_polygons
from runtime.files.plain import TABLE_COLUMNS, table_rows, write_whole
from runtime.results import Segmentation

CLASS_NAME = "Cell"
CLASS_COLOUR = (255, 200, 0)
MEASURED = ("label", "score", "iou_prediction", "label_area_px", "area_um2", "centroid_y", "centroid_x")
"""Columns of the table that each cell carries as measurements."""


def cell_features(
    result: Segmentation, pixel_size_um: float | None = None, plane: Plane | None = None
) -> Iterator[dict[str, Any]]:
    """A GeoJSON feature for each cell of the label map, in the order of the labels.

    Args:
        result: of an image.
        pixel_size_um: side of a pixel; None where it is not known.
        plane: of the stack that was segmented.

    Yields:
        A polygon, or several where the cell lies in parts, in image pixels from the upper left corner of the first
        one, along the edges of the cell's pixels.
    """
    named = (dict(zip(TABLE_COLUMNS, row, strict=True)) for row in table_rows(result, pixel_size_um))
    measured = {row["label"]: row for row in named if row["label"]}
    for label, region in enumerate(ndimage.find_objects(result.labels), start=1):
        if region is not None:
            row = measured.get(label, {"label": label})
            yield cell_feature(row, result.labels[region] == label, (region[0].start, region[1].start), plane)


def cell_feature(
    row: Mapping[str, Any], mask: NDArray[np.bool_], offset_yx: tuple[int, int], plane: Plane | None = None
) -> dict[str, Any]:
    """The feature of one cell.

    Args:
        row: what the table says of it, by column.
        mask: (h, w).
        offset_yx: image pixel of ``mask[0, 0]``.
        plane: of the stack that was segmented.
    """
    polygons = mask_polygons(mask, offset_yx)
    several = len(polygons) > 1
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
            # JSON has no NaN, the score of boxes that the user gave.
            "measurements": {
                name: value for name in MEASURED if (value := row.get(name)) is not None and not math.isnan(value)
            },
        },
    }


def write_geojson(
    path: Path, result: Segmentation, pixel_size_um: float | None = None, plane: Plane | None = None
) -> None:
    """Write ``cell_features`` as a FeatureCollection; the file appears whole."""
    write_whole(path, lambda temporary: write_features(temporary, cell_features(result, pixel_size_um, plane)))


def write_features(path: Path, features: Iterable[Mapping[str, Any]]) -> None:
    """Write features as a FeatureCollection, a feature a line, one at a time."""
    with path.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        for number, feature in enumerate(features):
            file.write((",\n" if number else "\n") + json.dumps(feature, allow_nan=False))
        file.write("\n]}\n")
