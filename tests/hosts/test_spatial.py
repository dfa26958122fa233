"""Cells in SpatialData objects, and the model run by sopa and Harpy themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from runtime import Segmenter, SegmenterError
from runtime.config import SegmentConfig, with_overrides
from runtime.engines.builtin import sample_images
from runtime.files.formats import open_image
from runtime.files.plain import read_image
from runtime.jobs.segmenter_spec import SegmenterSpec
from runtime.spatial.elements import CellNames, add_cells, segment_element, to_spatialdata
from runtime.spatial.images import open_element
from runtime.spatial.methods import HarpyModel, LazySlideModel, SopaMethod, SpatialMethod
from runtime.spatial.tables import cell_table

spatialdata: Any = pytest.importorskip("spatialdata")
ROOT = Path(__file__).parents[2]
SPEC = SegmenterSpec(backend="cpu")
UM = 0.2125  # Xenium's pixel size


@pytest.fixture(scope="module")
def image() -> NDArray[Any]:
    """Nuclei, (H, W)."""
    path = next(path for path in sample_images() if path.name.startswith("u2os"))
    return np.asarray(read_image(path))[:160, :180]


@pytest.fixture(scope="module")
def segmenter() -> Iterator[Segmenter]:
    with Segmenter(backend="cpu") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def fixed(segmenter: Segmenter) -> SegmentConfig:
    """Settings that do not depend on what else the image shows, so that a part equals the whole."""
    return with_overrides(segmenter.config, {"diameter_px": 26.0, "invert": False})


@pytest.fixture(scope="module")
def result(segmenter: Segmenter, image: NDArray[Any], fixed: SegmentConfig) -> Any:
    found = segmenter(image, config=fixed)
    assert len(found) > 5
    return found


def object_of(image: NDArray[Any]) -> Any:
    """A SpatialData object with a two-channel image in pixels and micrometres."""
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Identity, Scale

    planes = np.stack([image, image // 2])
    systems = {"global": Identity(), "um": Scale([UM, UM], axes=("x", "y"))}
    element = Image2DModel.parse(planes, dims=("c", "y", "x"), c_coords=["DAPI", "actin"], transformations=systems)
    return spatialdata.SpatialData(images={"morphology": element})


def test_elements_survive_a_store(result: Any, image: NDArray[Any], tmp_path: Path) -> None:
    sdata = to_spatialdata(result, image, channels=("DAPI",), pixel_size_um=UM)
    sdata.write(tmp_path / "cells.zarr")
    read = spatialdata.read_zarr(tmp_path / "cells.zarr")
    np.testing.assert_array_equal(np.asarray(read.labels["cell_labels"]), result.labels)
    shapes = read.shapes["cell_boundaries"]
    np.testing.assert_array_equal(shapes.index, np.arange(1, len(result) + 1))
    np.testing.assert_array_equal(shapes.area, np.bincount(result.labels.ravel())[1:])
    assert shapes.is_valid.all()
    table = read.tables["cells"]
    assert table.uns["spatialdata_attrs"] == {
        "region": "cell_labels",
        "region_key": "region",
        "instance_key": "label",
    }
    np.testing.assert_array_equal(table.obs["label"], shapes.index)
    means = [image[result.labels == label].mean() for label in table.obs["label"]]
    np.testing.assert_allclose(np.asarray(table.X)[:, 0], means, rtol=1e-6)
    np.testing.assert_allclose(table.obs["area_um2"], shapes.area.to_numpy() * UM**2)
    centroids = np.stack([shapes.centroid.x, shapes.centroid.y], 1)
    np.testing.assert_allclose(table.obsm["spatial"], centroids, atol=1e-6)


def test_spatialdata_matches_the_table_with_the_labels(result: Any, image: NDArray[Any]) -> None:
    sdata = to_spatialdata(result, image, pixel_size_um=UM)
    joined = spatialdata.match_element_to_table(sdata, element_name="cell_labels", table_name="cells")
    assert joined[1].n_obs == len(result)
    inside = spatialdata.bounding_box_query(
        sdata, axes=("x", "y"), min_coordinate=[0, 0], max_coordinate=[20.0, 20.0], target_coordinate_system="um"
    )
    height, width = (length for name, length in inside["cell_labels"].sizes.items() if name in "yx")
    assert abs(height - 20 / UM) <= 1
    assert abs(width - 20 / UM) <= 1


def test_segment_element_writes_to_the_store(
    segmenter: Segmenter, image: NDArray[Any], fixed: SegmentConfig, result: Any, tmp_path: Path
) -> None:
    object_of(image).write(tmp_path / "store.zarr")
    sdata = spatialdata.read_zarr(tmp_path / "store.zarr")
    found = segment_element(sdata, "morphology", segmenter, nuclear="DAPI", config=fixed)
    np.testing.assert_array_equal(found.labels, result.labels)
    read = spatialdata.read_zarr(tmp_path / "store.zarr")
    assert {"cell_labels", "cell_boundaries", "cells"} < {name for _, name, _ in read.gen_elements()}
    with pytest.raises(SegmenterError, match="exists already"):
        segment_element(sdata, "morphology", segmenter, nuclear="DAPI")


def test_a_diameter_in_micrometres_uses_the_coordinate_system(
    segmenter: Segmenter, image: NDArray[Any], fixed: SegmentConfig, result: Any
) -> None:
    sdata = object_of(image)
    assert open_element(sdata, "morphology").pixel_size_um == pytest.approx(UM)
    assert open_element(sdata, "morphology", "elsewhere").pixel_size_um is None
    config = with_overrides(fixed, {"diameter_um": 26.0 * UM, "diameter_px": None})
    found = segment_element(sdata, "morphology", segmenter, nuclear="DAPI", config=config)
    np.testing.assert_array_equal(found.labels, result.labels)


def test_images_with_scales_and_without_cells(segmenter: Segmenter) -> None:
    from spatialdata.models import Image2DModel

    element = Image2DModel.parse(np.zeros((1, 96, 64), np.uint16), dims=("c", "y", "x"), scale_factors=[2])
    sdata = spatialdata.SpatialData(images={"blank": element})
    assert open_element(sdata, "blank").size_hw == (96, 64)
    assert len(segment_element(sdata, "blank", segmenter)) == 0
    assert np.asarray(sdata.labels["cell_labels"]).max() == 0
    assert "cell_boundaries" not in sdata
    assert sdata.tables["cells"].n_obs == 0


def test_unknown_images_and_other_sizes_are_rejected(result: Any, image: NDArray[Any]) -> None:
    sdata = object_of(image[:50])
    with pytest.raises(SegmenterError, match="expected one of morphology"):
        open_element(sdata, "other")
    with pytest.raises(SegmenterError, match="expected the same"):
        add_cells(sdata, result, "morphology")
    with pytest.raises(SegmenterError, match="three different"):
        CellNames(labels="cells")


def test_table_without_an_image(result: Any) -> None:
    table = cell_table(result)
    assert table.shape == (len(result), 0)
    np.testing.assert_array_equal(table.obs["score"], result.scores)


def test_sopa_finds_the_cells_of_the_segmenter(result: Any, image: NDArray[Any], fixed: SegmentConfig) -> None:
    """One patch; the outlines that sopa keeps are compared with the labels by rasterising them."""
    sopa = pytest.importorskip("sopa")
    from sopa.segmentation import custom_staining_based

    sdata = object_of(image)
    sopa.make_image_patches(sdata, patch_width=400, patch_overlap=40)
    method, masks = SopaMethod(spec=SPEC, config=fixed), []

    def record(patch: NDArray[Any]) -> NDArray[Any]:
        masks.append(method(patch))
        return masks[-1]

    custom_staining_based(sdata, record, ["DAPI"], gaussian_sigma=0, clip_limit=0, key_added="cellsam")
    np.testing.assert_array_equal(masks, [result.labels])
    assert len(sdata.shapes["cellsam"]) == len(result)
    assert match(sdata.shapes["cellsam"], result) > 0.8  # sopa smooths the outlines
    sopa.aggregate(sdata, shapes_key="cellsam")
    assert next(iter(sdata.tables.values())).n_obs == len(sdata.shapes["cellsam"])


def test_sopa_joins_patches(result: Any, image: NDArray[Any], fixed: SegmentConfig) -> None:
    sopa = pytest.importorskip("sopa")
    from sopa.segmentation import custom_staining_based

    sdata = object_of(image)
    sopa.make_image_patches(sdata, patch_width=120, patch_overlap=50)
    assert len(sdata.shapes["image_patches"]) > 1
    method = SopaMethod(spec=SPEC, config=fixed)
    custom_staining_based(sdata, method, ["DAPI"], gaussian_sigma=0, clip_limit=0, key_added="cellsam")
    assert abs(len(sdata.shapes["cellsam"]) - len(result)) <= 0.25 * len(result)


def test_harpy_finds_the_cells_of_the_segmenter(
    result: Any, image: NDArray[Any], fixed: SegmentConfig, tmp_path: Path
) -> None:
    harpy = pytest.importorskip("harpy")
    from spatialdata.models import Image2DModel

    element = Image2DModel.parse(image[None], dims=("c", "y", "x"), c_coords=["DAPI"])
    sdata = spatialdata.SpatialData(images={"raw": element})
    model = HarpyModel(spec=SPEC, config=fixed)
    names = {"output_labels_name": "cellsam", "output_shapes_name": "cellsam_shapes"}
    sdata = harpy.im.segment(sdata, image_name="raw", model=model, depth=20, chunks=400, trim=False, iou=True, **names)
    labels = np.asarray(sdata.labels["cellsam"])
    pairs = np.unique(np.stack([labels[result.labels > 0], result.labels[result.labels > 0]]), axis=1)
    assert np.mean((labels > 0) == (result.labels > 0)) > 0.98
    assert len(np.unique(pairs[1])) == len(result)


def test_lazyslide_runs_the_model(image: NDArray[Any], tmp_path: Path) -> None:
    """Runs only if LazySlide is installed, which brings PyTorch."""
    lazyslide = pytest.importorskip("lazyslide")
    from shapely.geometry import box
    from wsidata import open_wsi
    from wsidata.io import add_tissues

    colour = np.tile(np.stack([255 - image] * 3, -1), (4, 4, 1))[:512, :512]
    resolution = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "slide.tif", colour, photometric="rgb", tile=(256, 256), **resolution)
    slide = open_wsi(str(tmp_path / "slide.tif"), store=None)
    add_tissues(slide, key="tissues", tissues=[box(0, 0, 512, 512)])
    lazyslide.pp.tile_tissues(slide, 256, overlap=0.25)
    lazyslide.seg.cells(slide, model=LazySlideModel(SpatialMethod(spec=SPEC)))
    assert len(slide["cells"]) > 10


def test_images_of_spatial_platforms_have_their_pixel_size(image: NDArray[Any], tmp_path: Path) -> None:
    """Xenium's morphology and Visium HD's tissue image are OME-TIFF pyramids; SpatialData stores OME-Zarr."""
    metadata = {"axes": "YX", "PhysicalSizeX": UM, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": UM}
    with tifffile.TiffWriter(tmp_path / "morphology_focus.ome.tif", ome=True, bigtiff=True) as tiff:
        options = {"tile": (64, 64), "compression": "jpeg2000", "photometric": "minisblack"}
        tiff.write(image.astype(np.uint16), subifds=1, metadata=metadata, **options)
        tiff.write(image[::2, ::2].astype(np.uint16), subfiletype=1, **options)
    with open_image(tmp_path / "morphology_focus.ome.tif") as reader:
        assert reader.pixel_size_um == pytest.approx(UM)
        np.testing.assert_array_equal(reader.read_all()[..., 0], image)
        assert len(reader.levels) == 2
    colour = np.stack([image] * 3, -1)
    visium = {"axes": "YXS", "PhysicalSizeX": 0.2738, "PhysicalSizeY": 0.2738}
    tifffile.imwrite(tmp_path / "tissue_image.btf", colour, bigtiff=True, photometric="rgb", tile=(64, 64))
    tifffile.imwrite(tmp_path / "tissue.ome.tif", colour, photometric="rgb", metadata=visium, tile=(64, 64))
    with open_image(tmp_path / "tissue.ome.tif") as reader:
        assert reader.pixel_size_um == pytest.approx(0.2738)
        assert reader.channels == ("red", "green", "blue")


def test_an_image_in_a_store_opens_as_ome_zarr(image: NDArray[Any], tmp_path: Path) -> None:
    object_of(image).write(tmp_path / "store.zarr")
    with open_image(tmp_path / "store.zarr" / "images" / "morphology") as reader:
        assert reader.channels == ("DAPI", "actin")
        np.testing.assert_array_equal(reader.read_all()[..., 0], image)


def test_spatial_page(image: NDArray[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fenced Python of the page runs."""
    Image.fromarray(image).save(tmp_path / "cells.png")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "spatial.md").read_text(), re.DOTALL | re.MULTILINE)
    scope: dict[str, Any] = {}
    exec(code, scope)
    assert scope["sdata"].tables["cells"].n_obs == len(scope["result"]) > 5


def match(shapes: Any, result: Any) -> float:
    """Mean IoU between the cells of the result and the polygons that overlap them most."""
    from skimage.draw import polygon2mask

    masks = [
        polygon2mask(result.labels.shape, np.asarray(one.exterior.coords)[:, ::-1] - 0.5) for one in shapes.geometry
    ]
    overlaps = []
    for label in range(1, len(result) + 1):
        cell = result.labels == label
        overlaps.append(max((np.sum(cell & mask) / np.sum(cell | mask) for mask in masks), default=0.0))
    return float(np.mean(overlaps))
