"""Outlines of cells as GeoJSON, as QuPath reads it.

Source: QuPath 0.4 and later, its GeoJSON of objects (qupath.lib.io); RFC 7946 for the geometry.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scipy import ndimage

from runtime.files import TABLE_COLUMNS, table_rows, write_whole
from runtime.outputs.polygons import mask_polygons
from runtime.results import Segmentation

CLASS_NAME = "Cell"
CLASS_COLOUR = (255, 200, 0)
MEASURED = ("label", "score", "iou_prediction", "label_area_px", "area_um2", "centroid_y", "centroid_x")
"""Columns of the table that each cell carries as measurements."""


def cell_features(result: Segmentation, pixel_size_um: float | None = None) -> Iterator[dict[str, Any]]:
    """A GeoJSON feature for each cell of the label map, in the order of the labels.

    Args:
        result: of an image.
        pixel_size_um: side of a pixel; None where it is not known.

    Yields:
        A polygon, or several where the cell lies in parts, in image pixels from the upper left corner of the first
        one, along the edges of the cell's pixels.
    """
    named = (dict(zip(TABLE_COLUMNS, row, strict=True)) for row in table_rows(result, pixel_size_um))
    measured = {row["label"]: row for row in named if row["label"]}
    for label, region in enumerate(ndimage.find_objects(result.labels), start=1):
        if region is None:
            continue
        polygons = mask_polygons(result.labels[region] == label, (region[0].start, region[1].start))
        several = len(polygons) > 1
        row = measured.get(label, {"label": label})
        yield {
            "type": "Feature",
            "geometry": {
                "type": "MultiPolygon" if several else "Polygon",
                "coordinates": polygons if several else polygons[0],
            },
            "properties": {
                "objectType": "cell",
                "name": str(label),
                "classification": {"name": CLASS_NAME, "color": list(CLASS_COLOUR)},
                # JSON has no NaN, the score of boxes that the user gave.
                "measurements": {
                    name: value for name in MEASURED if (value := row.get(name)) is not None and not math.isnan(value)
                },
            },
        }


def write_geojson(path: Path, result: Segmentation, pixel_size_um: float | None = None) -> None:
    """Write ``cell_features`` as a FeatureCollection, a feature a line, one at a time; the file appears whole."""

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as file:
            file.write('{"type": "FeatureCollection", "features": [')
            for number, feature in enumerate(cell_features(result, pixel_size_um)):
                file.write((",\n" if number else "\n") + json.dumps(feature, allow_nan=False))
            file.write("\n]}\n")

    write_whole(path, write)
