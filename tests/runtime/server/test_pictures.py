"""Tests of pixels, labels and outlines for a page: Deep Zoom tiles, contrast, polygons."""

from __future__ import annotations

import io
import math
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator

import numpy as np
import pytest
import shapely
import tifffile
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from runtime.correction.project import Project
from runtime.errors import ConfigError, InputError
from runtime.server.app import create_app
from runtime.server.images.deep_zoom import TILE_PX, halve, highest_level, tile_extent
from runtime.server.images.label_tiles import label_pixels
from runtime.server.images.outlines import Outlines, describe, simplify
from runtime.server.images.rendering import measure_contrast, parse_look, render
from runtime.server.options import ServerOptions
from tests.runtime.server.conftest import ENGINES, LOCAL

SIZE = (300, 520)
CELL = "/api/project/images/0"


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    """Return labels with a gap in the numbers, a hole, and a cell of two parts."""
    labels = np.zeros(SIZE, np.int32)
    labels[10:40, 20:60] = 1
    labels[20:30, 30:40] = 0
    labels[100:140, 200:230] = 3
    labels[200:210, 200:210] = 3
    labels[250:300, 480:520] = 70000
    return labels


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, labels: np.ndarray) -> Iterator[TestClient]:
    """Return a client of a project with one 16-bit image of two channels."""
    folder = tmp_path_factory.mktemp("pictures")
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]].astype(np.uint16)
    tifffile.imwrite(
        folder / "image.ome.tif",
        np.stack([columns * 100, rows * 10]),
        metadata={"axes": "CYX", "Channel": {"Name": ["DAPI", "actin"]}},
    )
    with Project.create(folder / "project", [folder / "image.ome.tif"]) as project:
        project.store_segmentation("image.ome.tif", labels)
    options = ServerOptions(engines=ENGINES, project=folder / "project")
    with TestClient(create_app(options), base_url=LOCAL) as client:
        yield client


def picture(page: TestClient, path: str) -> np.ndarray:
    answer = page.get(f"{CELL}/{path}")
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def whole(page: TestClient, kind: str, level: int, query: str = "") -> np.ndarray:
    """Put the tiles of a level together."""
    rows = []
    halved = highest_level(SIZE) - level
    height, width = (-(-length // (1 << halved)) for length in SIZE)
    for row in range(-(-height // TILE_PX)):
        tiles = [picture(page, f"{kind}_files/{level}/{c}_{row}.png{query}") for c in range(-(-width // TILE_PX))]
        rows.append(np.concatenate(tiles, axis=1))
    return np.concatenate(rows)


def test_descriptor_gives_size_and_tiles(page: TestClient) -> None:
    for kind in ("image", "labels"):
        answer = page.get(f"{CELL}/{kind}.dzi?channels=0")
        assert answer.headers["content-type"] == "application/xml"
        root = ElementTree.fromstring(answer.text)
        size = root.find("{http://schemas.microsoft.com/deepzoom/2008}Size")
        assert size is not None
        assert (size.get("Width"), size.get("Height")) == ("520", "300")
        assert (root.get("TileSize"), root.get("Overlap"), root.get("Format")) == ("256", "0", "png")


def test_full_level_shows_every_pixel_in_the_chosen_range(page: TestClient) -> None:
    shown = whole(page, "image", 10, "?channels=0&contrast=0:51000")
    assert shown.shape == (*SIZE, 3)
    expected = np.clip(np.arange(520) * 100 / 51000, 0, 1) * 255
    np.testing.assert_allclose(shown[7, :, 1], expected, atol=0.51)
    np.testing.assert_array_equal(shown[..., 0], shown[..., 2])


def test_two_channels_are_green_and_magenta_unless_colours_are_given(page: TestClient) -> None:
    usual = whole(page, "image", 10, "?contrast=0:51900,0:2990")
    np.testing.assert_array_equal(usual[..., 0], usual[..., 2])
    assert usual[0, -1].tolist() == [0, 255, 0]
    assert usual[-1, 0].tolist() == [255, 0, 255]
    chosen = picture(page, "image_files/10/0_0.png?channels=1&colours=ff8000&contrast=0:10")
    assert chosen[-1, -1].tolist() == [255, 128, 0]


def test_lower_levels_are_means(page: TestClient) -> None:
    assert whole(page, "image", 8).shape == (75, 130, 3)
    assert whole(page, "image", 0).shape == (1, 1, 3)
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    np.testing.assert_array_equal(halve(values), [[2, 4], [8, 10]])
    assert halve(np.ones((1, 1), bool)).all()
    assert halve(np.full((5, 5), 60000, np.uint16)).max() == 60000


def test_contrast_is_measured_for_each_channel(page: TestClient) -> None:
    found = page.get(f"{CELL}/contrast").json()["channels"]
    assert [one["name"] for one in found] == ["DAPI", "actin"]
    assert (found[0]["min"], found[0]["max"]) == (0, 51900)
    assert (found[0]["low"], found[0]["high"]) == (200, 51800)
    flat = measure_contrast(np.full((4, 4), 7.0))
    assert (flat.low, flat.high) == (7, 8)
    assert measure_contrast(np.full((4, 4), np.nan)).high > 0


@pytest.mark.parametrize(
    "query",
    [
        *(f"channels={given}" for given in ("2", "0,1,0,1", "-1", "a", "0,")),
        *(f"colours={given}" for given in ("ff0000", "gg0000,00ff00")),
        *(f"contrast={given}" for given in ("1:2", "2:1,auto", "nan:1,auto", "1e400:2e400,auto", "a,b")),
    ],
)
def test_unusable_looks_are_rejected(page: TestClient, query: str) -> None:
    answer = page.get(f"{CELL}/image_files/10/0_0.png?{query}")
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, query.split("=")[0])


@pytest.mark.parametrize("tile", ["11/0_0", "10/3_0", "10/0_2", "-1/0_0", "10/-1_0", "99999/0_0"])
def test_tiles_outside_the_pyramid_are_not_found(page: TestClient, tile: str) -> None:
    for kind in ("image", "labels"):
        assert page.get(f"{CELL}/{kind}_files/{tile}.png").status_code == 404


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 12))
def test_tiles_cover_each_level_once(height: int, width: int, level: int) -> None:
    highest = highest_level((height, width))
    assert 2**highest >= max(height, width) > 2 ** (highest - 1) or highest == 0
    if level > highest:
        with pytest.raises(InputError):
            tile_extent((height, width), level, 0, 0)
        return
    covered = 0
    scale = 1 << (highest - level)
    rows, columns = (math.ceil(math.ceil(length / scale) / TILE_PX) for length in (height, width))
    for row in range(rows):
        for column in range(columns):
            _, (top, left, bottom, right) = tile_extent((height, width), level, column, row)
            covered += (bottom - top) * (right - left)
    assert covered == math.ceil(height / scale) * math.ceil(width / scale)


def test_label_tiles_carry_the_numbers(page: TestClient, labels: np.ndarray) -> None:
    shown = whole(page, "labels", 10, "?colours=ids").astype(np.int64)
    np.testing.assert_array_equal(shown[..., 0] + 256 * shown[..., 1] + 65536 * shown[..., 2], labels)
    np.testing.assert_array_equal(shown[..., 3], np.where(labels > 0, 255, 0))
    half = whole(page, "labels", 9, "?colours=ids").astype(np.int64)
    np.testing.assert_array_equal(half[..., 0] + 256 * half[..., 1] + 65536 * half[..., 2], labels[::2, ::2])


def test_random_colours_tell_neighbours_apart() -> None:
    shown = label_pixels(np.arange(1, 11, dtype=np.int32)[None], "random")[0, :, :3].astype(int)
    distances = np.abs(np.diff(shown, axis=0)).sum(axis=1)
    assert distances.min() > 60
    assert not label_pixels(np.zeros((2, 2), np.int32), "random").any()


def polygons(cell: dict) -> shapely.MultiPolygon:
    return shapely.MultiPolygon([(rings[0], rings[1:]) for rings in cell["polygons"]])


def test_outlines_follow_the_pixels(page: TestClient, labels: np.ndarray) -> None:
    found = page.get(f"{CELL}/outlines").json()
    assert (found["revision"], found["all"], found["total"]) == (1, True, 3)
    for cell in found["cells"]:
        assert polygons(cell).area == cell["area_px"] == (labels == cell["label"]).sum()
        assert polygons(cell).bounds == tuple(cell["bbox"])
    assert [len(cell["polygons"]) for cell in found["cells"]] == [1, 2, 1]
    assert len(found["cells"][0]["polygons"][0]) == 2, "a hole"


def test_outlines_of_a_region_and_since_a_revision(page: TestClient) -> None:
    def outlined(query: str) -> list[int]:
        return [cell["label"] for cell in page.get(f"{CELL}/outlines?{query}").json()["cells"]]

    assert outlined("x0=0&y0=0&x1=100&y1=100") == [1]
    assert outlined("x0=60&y0=0&x1=100&y1=100") == [], "edges do not count"
    assert outlined("x0=59.5&y0=39.5&x1=201&y1=101") == [1, 3]
    assert outlined("limit=1") == [1]
    assert outlined("since=1") == []
    assert outlined("since=0") == outlined("since=50") == [1, 3, 70000], "unknown revisions give all cells"
    assert page.get(f"{CELL}/outlines?x0=nan&y1=inf").status_code == 200
    assert page.get(f"{CELL}/outlines?limit=0").status_code == 422


def test_simplified_outlines_stay_close_and_have_fewer_points() -> None:
    rows, columns = np.mgrid[:60, :60]
    disc = (((rows - 30) ** 2 + (columns - 30) ** 2) < 25**2).astype(np.int32)
    cell = next(iter(Outlines().update(1, disc).cells.values()))
    exact, simple = (polygons(describe(cell, tolerance)) for tolerance in (0, 1.0))
    assert shapely.hausdorff_distance(exact, simple) <= 1.5
    assert len(simple.geoms[0].exterior.coords) < len(exact.geoms[0].exterior.coords) / 2
    assert simplify([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)], 5) == [(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)]


def test_only_changed_cells_are_traced_again(labels: np.ndarray) -> None:
    outlines = Outlines()
    first = outlines.update(1, labels)
    changed = labels.copy()
    changed[100:140, 200:230] = 0
    changed[250:300, 480:520] = 0
    second = outlines.update(4, changed)
    assert second.cells[1] is first.cells[1]
    assert second.changed == {3: 4, 70000: 4}
    assert set(second.cells) == {1, 3}
    assert outlines.update(2, labels) is second, "an older revision does not replace a newer one"


def test_cells_and_labels_are_found_by_place(page: TestClient, labels: np.ndarray) -> None:
    found = page.get(f"{CELL}/cells").json()
    rows = {row[0]: dict(zip(found["columns"], row, strict=True)) for row in found["rows"]}
    assert set(rows) == {1, 3, 70000}
    assert (rows[70000]["centroid_x"], rows[70000]["centroid_y"], rows[70000]["area_px"]) == (500, 275, 2000)
    assert page.get(f"{CELL}/at?x=500.9&y=275").json() == {"revision": 1, "label": 70000}
    for query in ("x=-1&y=0", "x=1e300&y=5", "x=nan&y=1"):
        assert page.get(f"{CELL}/at?{query}").json()["label"] == 0
    assert page.get(f"{CELL}/export?format=png").status_code == 400, "a PNG cannot hold label 70000"


def test_two_thousand_cells_are_outlined_in_seconds() -> None:
    labels = np.zeros((1600, 1250), np.int32)
    for number in range(2000):
        top, left = 32 * (number // 40), 31 * (number % 40)
        labels[top : top + 24, left : left + 24] = number + 1
    outlines, start = Outlines(), time.perf_counter()
    cells = outlines.update(1, labels).cells
    assert len(cells) == 2000
    assert time.perf_counter() - start < 20
    labels[:10] = 0
    start = time.perf_counter()
    assert len(outlines.update(2, labels).changed) == 40
    assert time.perf_counter() - start < 5


def test_looks_default_to_the_first_channels() -> None:
    assert parse_look(None, None, None, 5).channels == (0, 1, 2)
    look = parse_look("4", None, "auto", 5)
    assert (look.channels, look.contrast) == ((4,), (None,))
    plane = np.array([[0.0, np.nan, np.inf, 10.0]])
    shown = render([plane], look, [measure_contrast(np.array([[0.0, 10.0]]), whole_range=False)])
    assert shown[0, :, 0].tolist() == [0, 0, 255, 255]
    with pytest.raises(ConfigError):
        parse_look("0", None, None, 0)
