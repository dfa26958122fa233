"""The streaming second pass gives the same result as the one in memory; each cell of a slide appears whole, once."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import roifile
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from shapely.geometry import Polygon, shape

from benchmarks.made_slide import AS_MADE, MadeSlide, PerfectEngines
from runtime.files.formats import open_image
from runtime.files.outputs.formats import slide_formats
from runtime.files.outputs.pyramid import label_levels
from runtime.files.outputs.tables import TABLE_COLUMNS
from runtime.jobs.slides import ArrayReader, SlideResult, SlideSettings, segment_slide
from runtime.jobs.slides.blocks import LabelBlocks
from runtime.jobs.slides.join import SlideJoin
from runtime.jobs.slides.layout import SlideLayout
from runtime.jobs.slides.outputs import OVERLAY
from runtime.ops.masks import MaskCrop, label_crops, relabel
from runtime.results import Instances
from runtime.views.grid import tile_grid
from runtime.views.merge_rules import TileCells
from runtime.views.stitch import ViewCells, stitch
from tests.runtime.files.outputs.test_label_files import assert_valid_labels


def rough_tile(rng: np.random.Generator, extent: tuple[int, int, int, int]) -> TileCells:
    """Make random cells, so that neighbouring tiles agree on a place, overlap in part, or disagree."""
    height, width = extent[2] - extent[0], extent[3] - extent[1]
    labels = np.zeros((height, width), np.int32)
    y, x = np.mgrid[extent[0] : extent[2], extent[1] : extent[3]]
    shared = np.random.default_rng(0).uniform(0, 260, (25, 2))  # centres that all tiles share
    for number, (cy, cx) in enumerate(shared, start=1):
        dy, dx = rng.normal(0, 2, 2)
        a, b = rng.uniform(5, 30, 2)
        if rng.random() < 0.85:
            labels[((y - cy - dy) / a) ** 2 + ((x - cx - dx) / b) ** 2 < 1] = number
    labels, _ = relabel(labels, 40)
    count = int(labels.max())
    boxes = rng.uniform(0, 200, (count, 4))
    return TileCells(extent, labels, boxes, rng.random(count, np.float32), rng.random(count, np.float32))


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), side=st.integers(60, 150), share=st.floats(0.1, 0.5), min_area=st.integers(0, 200))
def test_streamed_and_in_memory_agree(
    tmp_path_factory: pytest.TempPathFactory, seed: int, side: int, share: float, min_area: int
) -> None:
    rng = np.random.default_rng(seed)
    grid = tile_grid((250, 230), side, side * share)
    layout = SlideLayout(grid, (None,), None, False, 0)
    tiles = [rough_tile(rng, layout.extent(place)) for place in range(len(grid))]
    views = [
        ViewCells(tile, in_image(label_crops(tile.labels), tile), np.full(len(tile.scores), -1), Instances.empty())
        for tile in tiles
    ]
    expected = stitch(views, grid.size_hw, min_area_px=min_area)

    join = SlideJoin(layout, tiles.__getitem__, tmp_path_factory.mktemp("join"), min_area_px=min_area)
    assert list(join.run())[-1] == join.steps
    labels = np.zeros(grid.size_hw, np.int32)
    for (top, left, bottom, right), block in join.blocks:
        labels[top:bottom, left:right] = block
    np.testing.assert_array_equal(labels, expected.labels)
    cells = list(join.cells())
    assert [cell.label for cell in cells] == list(range(1, len(expected) + 1))
    assert join.cell_count == len(expected)
    np.testing.assert_array_equal(np.array([cell.box for cell in cells]).reshape(-1, 4), expected.boxes)
    np.testing.assert_array_equal(np.array([cell.score for cell in cells], np.float32), expected.scores)
    assert [cell.area_px for cell in cells] == np.bincount(labels.ravel())[1:].tolist()


def in_image(masks: tuple[MaskCrop, ...], tile: TileCells) -> tuple[MaskCrop, ...]:
    return tuple(mask.in_image(tile.extent[:2], (250, 230)) for mask in masks)


def same_cells(labels: NDArray[np.integer], truth: NDArray[np.integer]) -> bool:
    """Return whether two label maps contain the same cells, with any numbering."""
    pairs = np.unique(np.stack((labels.ravel(), truth.ravel())), axis=1)
    one_to_one = len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]
    return one_to_one and bool(((labels > 0) == (truth > 0)).all())


@pytest.mark.parametrize(("tile", "overlap"), [(128, 44), (200, 100), (512, 44)])
def test_cells_at_seams_are_found_as_all_others(tmp_path: Path, tile: int, overlap: int) -> None:
    slide = MadeSlide((940, 1070))
    truth = slide.truth(0, 0, *slide.size_hw)
    reader = ArrayReader(truth > 0)
    cut = SlideSettings(tile_px=tile, overlap_px=overlap)
    done = segment_slide(reader, tmp_path, engines=PerfectEngines(), settings=cut)
    labels = tifffile.imread(done.labels)
    assert labels.dtype == np.uint32
    assert same_cells(labels, truth), "every cell appears once and whole: none at a seam is lost, doubled or cut"
    assert done.cells == labels.max() == len(np.unique(truth)) - 1
    grid = tile_grid(slide.size_hw, tile, overlap)
    rows = [top + edge for top in grid.tops for edge in (0, grid.side) if 0 < top + edge < slide.size_hw[0]]
    assert rows, "there are seams"
    assert len(np.unique(truth[rows])) > 20, "and cells on them"
    # In reading order of their extents.
    firsts = [tuple(np.argwhere(labels == n).min(axis=0)) for n in range(1, 60)]
    assert firsts == sorted(firsts)
    assert len(done.files["csv"].read_text().splitlines()) == done.cells + 1


def test_a_cell_larger_than_all_tiles_around_it(tmp_path: Path) -> None:
    """A fibre across the slide and a loop around most of it pass through more tiles than memory keeps at a time."""
    image = np.zeros((700, 700), np.uint8)
    image[340:352] = 1
    image[20:680, 20:30] = image[20:680, 670:680] = image[20:30, 20:680] = 1
    image[335:357, 10:40] = image[335:357, 660:690] = 0
    image[100:120, 100:130] = 1
    done = segment_slide(
        ArrayReader(image), tmp_path, engines=PerfectEngines(), settings=SlideSettings(tile_px=64, overlap_px=20)
    )
    truth, count = ndimage.label(image, structure=np.ones((3, 3)))
    assert done.cells == count
    assert same_cells(tifffile.imread(done.labels), truth)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> SlideResult:
    """Write a slide in every format."""
    slide = MadeSlide((1130, 2070), pixel_size_um=0.5)
    cut = SlideSettings(tile_px=500, overlap_px=60, formats=slide_formats(), overlay=True)
    out = tmp_path_factory.mktemp("written")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("runtime.files.outputs.shrink.LARGEST_SIDE_PX", 2000)
        done = segment_slide(slide, out, engines=PerfectEngines(), settings=cut)
    assert set(done.files) == {*slide_formats(), OVERLAY}
    assert sorted(out.iterdir()) == sorted(done.files.values())
    return done


def test_zarr_shows_the_same_labels_and_is_ome_zarr(written: SlideResult) -> None:
    """ome-zarr's reader opens it as a label image with a pyramid, whose levels equal those of an image's labels."""
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Label, Reader

    location = parse_url(str(written.files["ome-zarr"]))
    assert location is not None
    (node,) = [node for node in Reader(location)() if node.data]
    assert node.load(Label) is not None
    assert node.metadata["coordinateTransformations"][1] == [{"type": "scale", "scale": [1.0, 1.0]}]
    assert_valid_labels(written.files["ome-zarr"])
    levels = list(label_levels(tifffile.imread(written.labels)))
    assert len(node.data) == len(levels) == 3
    for level, expected in zip(node.data, levels, strict=True):
        assert level.dtype == np.uint32
        np.testing.assert_array_equal(np.asarray(level), expected)


def test_ome_tiff_is_a_pyramid(written: SlideResult) -> None:
    with tifffile.TiffFile(written.files["ome-tiff"]) as tiff:
        (series,) = tiff.series
        assert (tiff.is_ome, series.axes, series.dtype, len(series.levels)) == (True, "YX", np.uint32, 3)
        for level, expected in zip(series.levels, label_levels(tifffile.imread(written.labels)), strict=True):
            assert level.keyframe.is_tiled
            np.testing.assert_array_equal(level.asarray(), expected)
    with open_image(written.files["ome-tiff"]) as reader:
        assert (reader.pixel_size_um, reader.channels) == (pytest.approx(0.5), ("cells",))


def test_outlines_are_valid_and_of_the_cells_areas(written: SlideResult) -> None:
    features = json.loads(written.files["geojson"].read_text())["features"]
    areas = np.bincount(tifffile.imread(written.labels).ravel())
    assert len(features) == written.cells == len(areas) - 1 > 900
    of = {int(feature["properties"]["name"]): feature for feature in features}
    assert set(of) == set(range(1, written.cells + 1))
    for label, feature in of.items():
        outline, measured = shape(feature["geometry"]), feature["properties"]["measurements"]
        assert outline.is_valid
        assert outline.area == areas[label] == measured["label_area_px"] == 4 * measured["area_um2"]
        assert outline.centroid.coords[0] == pytest.approx((measured["centroid_x"] + 0.5, measured["centroid_y"] + 0.5))
    many = sum(feature["geometry"]["coordinates"][0][0][0] // 512 != 0 for feature in features)
    assert many > 100, "cells in several blocks"


def test_imagej_rois_are_those_of_the_outlines(written: SlideResult) -> None:
    features = json.loads(written.files["geojson"].read_text())["features"]
    rois = roifile.roiread(written.files["imagej"])
    assert isinstance(rois, list)
    assert [roi.name for roi in rois] == [feature["properties"]["name"] for feature in features]
    for roi, feature in zip(rois, features, strict=True):
        (ring, *_) = roi.coordinates(multi=True) if roi.composite else [roi.coordinates()]
        assert Polygon(ring).bounds == shape(feature["geometry"]).bounds


def test_tables_of_a_slide_agree(written: SlideResult) -> None:
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(written.files["parquet"]).to_pylist()
    with written.files["csv"].open(newline="") as file:
        texts = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == list(range(1, written.cells + 1)) == [int(t["label"]) for t in texts]
    assert tuple(rows[0]) == tuple(texts[0]) == TABLE_COLUMNS
    for row, text in zip(rows, texts, strict=True):
        assert {name: float(value) for name, value in text.items()} == pytest.approx(row, abs=0.006)


def test_the_picture_is_small_and_shows_every_part(written: SlideResult) -> None:
    with Image.open(written.files[OVERLAY]) as picture:
        drawn = np.asarray(picture)
    assert drawn.shape == (565, 1035, 3), "half of 1130 x 2070"
    labels = tifffile.imread(written.labels)[::2, ::2]
    coloured = drawn.max(axis=2) != drawn.min(axis=2)
    assert coloured[labels > 0].mean() > 0.99
    assert not coloured[labels == 0].any()


@settings(max_examples=20)
@given(st.data())
def test_any_part_of_the_label_map(data: st.DataObject) -> None:
    """Parts are read from compressed blocks at any step."""
    height, width = 700, 1100
    labels = (np.arange(height)[:, None] // 90 * 20 + np.arange(width) // 60 + 1).astype(np.uint32)
    with TemporaryDirectory() as folder:
        np.arange(1000, dtype=np.uint32).tofile(Path(folder) / "labels")
        blocks = LabelBlocks(Path(folder) / "blocks", (height, width), Path(folder) / "labels")
        for top, left, bottom, right in blocks.extents:
            numbers, local = np.unique(labels[top:bottom, left:right], return_inverse=True)
            shape = bottom - top, right - left
            blocks.add(numbers.astype(np.uint32), (local + 1).reshape(shape).astype(np.int32))
        top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        bottom, right = data.draw(st.integers(top + 1, height)), data.draw(st.integers(left + 1, width))
        step = data.draw(st.sampled_from([1, 2, 3, 8, 600]))
        part = blocks.part((top, left, bottom, right), step)
        np.testing.assert_array_equal(part, labels[top:bottom:step, left:right:step])
        assert len(list(blocks)) == len(blocks) == 6


def test_small_cells_are_left_out_and_numbers_have_no_gaps(tmp_path: Path) -> None:
    slide = MadeSlide((500, 500))
    truth = slide.truth(0, 0, 500, 500)
    areas = np.bincount(truth.ravel())
    least = int(np.median(areas[areas > 0][1:]))
    done = segment_slide(
        slide,
        tmp_path,
        engines=PerfectEngines(),
        config=replace(AS_MADE, min_area_px=least),
        settings=SlideSettings(tile_px=150, overlap_px=50),
    )
    labels = tifffile.imread(done.labels)
    kept = np.flatnonzero(areas >= least)[1:]
    assert same_cells(labels, np.where(np.isin(truth, kept), truth, 0))
    assert labels.max() == len(kept) == done.cells < len(areas[areas > 0]) - 1
