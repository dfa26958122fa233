"""Tests of outlines along the edges of pixels, and of their GeoJSON."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from shapely.geometry import MultiPolygon, Polygon, box, shape
from shapely.ops import unary_union

from runtime.files.formats import Plane
from runtime.files.outputs.geojson import write_geojson
from runtime.files.outputs.polygons import mask_polygons
from runtime.files.outputs.tables import TABLE_COLUMNS, table_rows
from runtime.ops.masks import relabel
from tests.runtime.files.outputs.made import made_result

masks = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=9))
label_maps = arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 4)).map(
    lambda labels: relabel(labels, 4)[0]
)


def as_shapes(mask: Any, offset_yx: tuple[int, int] = (0, 0)) -> list[Polygon]:
    return [Polygon(rings[0], rings[1:]) for rings in mask_polygons(mask, offset_yx)]


@given(masks, st.tuples(st.integers(0, 50), st.integers(0, 50)))
def test_polygons_are_valid_and_cover_the_pixels_exactly(mask: Any, offset_yx: tuple[int, int]) -> None:
    polygons = as_shapes(mask, offset_yx)
    assert all(polygon.is_valid for polygon in polygons)
    assert all(polygon.exterior.is_ccw for polygon in polygons)
    assert all(not hole.is_ccw for polygon in polygons for hole in polygon.interiors)
    assert MultiPolygon(polygons).is_valid
    assert sum(polygon.area for polygon in polygons) == mask.sum()
    y, x = offset_yx
    pixels = unary_union([box(x + j, y + i, x + j + 1, y + i + 1) for i, j in np.argwhere(mask).tolist()])
    assert pixels.symmetric_difference(unary_union(polygons)).area == 0


@given(masks)
def test_no_point_lies_on_a_straight_line_or_twice_in_a_ring(mask: Any) -> None:
    for ring in (ring for rings in mask_polygons(mask) for ring in rings):
        assert ring[0] == ring[-1]
        assert len(set(ring)) == len(ring) - 1 >= 4
        steps = [(x1 - x0 != 0, y1 - y0 != 0) for (x0, y0), (x1, y1) in pairwise(ring)]
        assert all(a != b and sum(a) == 1 for a, b in zip(steps, [*steps[1:], steps[0]], strict=True))


def test_a_ring_of_pixels_that_closes_over_a_corner() -> None:
    mask = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], np.bool_)
    (polygon,) = as_shapes(mask)
    assert polygon.is_valid
    assert (polygon.area, len(polygon.interiors)) == (7, 1)


@given(label_maps)
def test_geojson_holds_every_cell(labels: Any) -> None:
    result = made_result(labels, lost=1)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.geojson"
        write_geojson(path, result, 0.5)
        assert [left.name for left in Path(folder).iterdir()] == ["a.geojson"]
        collection = json.loads(path.read_text())
    assert collection["type"] == "FeatureCollection"
    assert [feature["properties"]["name"] for feature in collection["features"]] == [
        str(n) for n in range(1, len(result) + 1)
    ]
    for n, feature in enumerate(collection["features"], start=1):
        geometry = shape(feature["geometry"])
        assert geometry.is_valid
        assert geometry.area == (labels == n).sum()
        properties = feature["properties"]
        assert (feature["type"], properties["objectType"]) == ("Feature", "cell")
        assert properties["classification"]["name"] == "Cell"
        measured = properties["measurements"]
        assert measured["label_area_px"] == geometry.area
        assert measured["area_um2"] == pytest.approx(geometry.area / 4)
        # Pixel centres lie half a pixel from the corners.
        assert measured["centroid_x"] + 0.5 == pytest.approx(geometry.centroid.x)
        assert measured["centroid_y"] + 0.5 == pytest.approx(geometry.centroid.y)
        assert measured["score"] == pytest.approx(float(result.scores[n - 1]))


def test_geojson_without_cells_or_scores(tmp_path: Path) -> None:
    write_geojson(tmp_path / "none.geojson", made_result(np.zeros((4, 5), np.int32)))
    assert json.loads((tmp_path / "none.geojson").read_text()) == {"type": "FeatureCollection", "features": []}
    one = made_result(np.ones((2, 2), np.int32))
    prompted = replace(one, scores=np.full(1, np.nan, np.float32))
    write_geojson(tmp_path / "one.geojson", prompted)
    (feature,) = json.loads((tmp_path / "one.geojson").read_text())["features"]
    assert set(feature["properties"]["measurements"]) == {
        "label",
        "iou_prediction",
        "label_area_px",
        "centroid_y",
        "centroid_x",
    }


def test_geojson_says_which_plane_of_a_stack(tmp_path: Path) -> None:
    """QuPath reads c, z and t beside the coordinates; without them, it uses the first plane."""
    one = made_result(np.ones((2, 2), np.int32))
    for plane, expected in (
        (None, None),
        (Plane(z=0), None),
        (Plane(z=4), {"c": -1, "z": 4, "t": 0}),
        (Plane(time=2, z=1), {"c": -1, "z": 1, "t": 2}),
    ):
        write_geojson(tmp_path / "one.geojson", one, plane=plane)
        (feature,) = json.loads((tmp_path / "one.geojson").read_text())["features"]
        assert feature["geometry"].get("plane") == expected


@given(label_maps, st.sampled_from([None, 0.25]))
def test_rows_tell_centroids_and_areas(labels: Any, pixel_size_um: float | None) -> None:
    result = made_result(labels, lost=2)
    rows = [dict(zip(TABLE_COLUMNS, row, strict=True)) for row in table_rows(result, pixel_size_um)]
    assert [row["label"] for row in rows] == [*range(1, len(result) + 1), 0, 0]
    for row in rows:
        if not row["label"]:
            assert (row["label_area_px"], row["centroid_y"], row["area_um2"]) == (0, None, None)
            continue
        y, x = np.nonzero(labels == row["label"])
        assert (row["centroid_y"], row["centroid_x"]) == pytest.approx((y.mean(), x.mean()))
        assert row["label_area_px"] == len(y)
        assert row["area_um2"] == (None if pixel_size_um is None else pytest.approx(len(y) / 16))
