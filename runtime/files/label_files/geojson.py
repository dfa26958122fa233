"""Reader of cell outlines in GeoJSON, as QuPath and ``runtime.files.outputs.geojson`` write them.

Source: RFC 7946; ``ROITypeAdapters`` in the package qupath.lib.io.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runtime.errors import InputError
from runtime.files.formats.base import damage_named
from runtime.files.label_files.painting import FoundCell, paint_cells
from runtime.ops.drawing import fill_rings
from runtime.ops.masks import MaskCrop, join_masks
from runtime.types import I32

_log = logging.getLogger(__name__)


def read_geojson(path: str | Path, size_hw: tuple[int, int]) -> I32:
    """Read the polygons of a GeoJSON file as labels.

    A cell has the number in its ``name``, if all have different ones; otherwise, cells are numbered in their order.

    Args:
        path: a FeatureCollection, a feature, or a list of features. Coordinates are image pixels.
        size_hw: size of the image.

    Returns:
        (H, W) int32, 0 background.

    Raises:
        InputError: the file cannot be read, or is not GeoJSON.
    """
    path = Path(path)
    with damage_named(path):
        content = json.loads(path.read_text(encoding="utf-8"))
        cells = list(_cells(content, size_hw, path))
    return paint_cells(cells, size_hw, str(path))


def geojson_size(path: str | Path) -> tuple[int, int]:
    """Return the smallest size, (height, width) in pixels, of an image that contains all polygons of a GeoJSON file.

    Raises:
        InputError: the file cannot be read, or is not GeoJSON.
    """
    path = Path(path)
    with damage_named(path):
        features = _features(json.loads(path.read_text(encoding="utf-8")), path)
        rings = [ring for feature in features for polygon in _polygons(feature) for ring in polygon]
        corners = [(math.ceil(y), math.ceil(x)) for ring in rings for x, y, *_ in ring]
    return max((y for y, _ in corners), default=1), max((x for _, x in corners), default=1)


def _cells(content: Any, size_hw: tuple[int, int], path: Path) -> Iterator[FoundCell]:
    others = 0
    for feature in _features(content, path):
        polygons = _polygons(feature)
        if not polygons:
            others += 1
            continue
        yield FoundCell(_crop(polygons, size_hw), _number((feature.get("properties") or {}).get("name")))
    if others:
        _log.warning("%s: %d features without an area, such as points and lines, are left out", path, others)


def _polygons(feature: dict[str, Any]) -> list[Any]:
    """Return the polygons of a feature, each an outer ring and its holes; none for points and lines."""
    geometry = feature.get("geometry") or {}
    if geometry.get("type") not in ("Polygon", "MultiPolygon"):
        return []
    coordinates = geometry["coordinates"]
    return list(coordinates) if geometry["type"] == "MultiPolygon" else [coordinates]


def _features(content: Any, path: Path) -> list[dict[str, Any]]:
    if isinstance(content, dict) and content.get("type") == "FeatureCollection":
        content = content.get("features")
    elif isinstance(content, dict) and content.get("type") == "Feature":
        content = [content]
    if not isinstance(content, list) or not all(isinstance(one, dict) for one in content):
        raise InputError(
            f"{path} is not a list of GeoJSON features; expected a FeatureCollection. Export the cells again as "
            "GeoJSON.",
            kind="wrong_type",
        )
    return content


def _crop(polygons: list[Any], size_hw: tuple[int, int]) -> MaskCrop:
    """Fill polygons, each an outer ring and its holes."""
    rings = [[[point[:2] for point in ring] for ring in polygon] for polygon in polygons]
    return join_masks([fill_rings(polygon, size_hw) for polygon in rings])


def _number(name: object) -> int | None:
    """Return the number that a name consists of; None for other names."""
    return int(name) if isinstance(name, str) and name.isascii() and name.isdecimal() and len(name) < 10 else None
