"""Files say what made them: each format is read back by a library of its own, then by ``read_provenance``."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from PIL import Image

import runtime
from runtime import InputError, Provenance, Segmentation, Segmenter
from runtime.files.image_results import FileOptions, ReadImage, write_results
from runtime.files.made_by import read_provenance
from runtime.files.outputs.formats import OUTPUT_FORMATS, output_path
from runtime.provenance import METADATA_KEY, to_jsonable, to_pairs
from tests.foreign_session import report_other_providers
from tests.runtime.files.outputs.made import awkward_labels, made_result

pytest.importorskip("zarr")
EVERY = FileOptions(formats=tuple(OUTPUT_FORMATS), overlay=True)
WITHOUT = ("_cells.csv", "_RES", "_cp_outlines.txt")
"""Endings of files that have no place for a record."""

ENDINGS = tuple(ending for ending in EVERY.endings if ending not in WITHOUT)


@pytest.fixture(scope="module")
def result() -> Segmentation:
    """Return cells that a segmenter of another provider than asked for has made."""
    with pytest.MonkeyPatch.context() as patch:
        report_other_providers(patch, "DnnlExecutionProvider")
        segmenter = Segmenter(backend="cpu")
    image = np.zeros((64, 64), np.uint8)
    image[20:40, 20:40] = 200
    found = segmenter(image, boxes=[[18, 18, 42, 42]])
    assert len(found) == 1
    return found


@pytest.fixture(scope="module")
def written(result: Segmentation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(result, tmp_path_factory.mktemp("made_by"))


def write(result: Segmentation, directory: Path) -> Path:
    height, width = result.labels.shape
    write_results(result, ReadImage(np.zeros((height, width)), 0.5, Path("x.png")), directory / "x", EVERY)
    return directory / "x"


def provenance_of(result: Segmentation) -> Provenance:
    assert result.provenance is not None
    return result.provenance


def of_tiff(stem: Path) -> Any:
    with tifffile.TiffFile(output_path(stem, "tiff")) as file:
        assert file.shaped_metadata is not None
        return file.shaped_metadata[0][METADATA_KEY]


def of_zarr(stem: Path) -> Any:
    import zarr

    return zarr.open_group(output_path(stem, "ome-zarr"), mode="r")["cells"].attrs[METADATA_KEY]


def of_geojson(stem: Path) -> Any:
    content = json.loads(output_path(stem, "geojson").read_text())
    assert content["type"] == "FeatureCollection"
    assert len(content["features"]) == 1
    return content[METADATA_KEY]


def of_parquet(stem: Path) -> Any:
    parquet = pytest.importorskip("pyarrow.parquet")
    return json.loads(parquet.read_table(output_path(stem, "parquet")).schema.metadata[METADATA_KEY.encode()])


def of_rois(stem: Path) -> Any:
    roifile = pytest.importorskip("roifile")
    assert len(roifile.roiread(output_path(stem, "imagej"))) == 1
    with zipfile.ZipFile(output_path(stem, "imagej")) as file:
        return json.loads(file.comment)


def of_png(stem: Path) -> Any:
    with Image.open(f"{stem}_overlay.png") as picture:
        return json.loads(picture.text[METADATA_KEY])  # type: ignore[attr-defined]


def of_seg(stem: Path) -> Any:
    content = np.load(output_path(stem, "cellpose"), allow_pickle=True).item()
    return json.loads(content[METADATA_KEY])


@pytest.mark.parametrize("read", [of_tiff, of_zarr, of_geojson, of_parquet, of_rois, of_png, of_seg])
def test_files_say_which_provider_ran(read: Callable[[Path], Any], written: Path, result: Segmentation) -> None:
    (made_by,) = read(written)
    assert made_by == to_jsonable([provenance_of(result)])[0]
    assert made_by["engines"]["encoder"]["providers"] == ["DnnlExecutionProvider", "CPUExecutionProvider"]


def test_ome_xml_has_the_record_as_pairs(written: Path, result: Segmentation) -> None:
    with tifffile.TiffFile(output_path(written, "ome-tiff")) as file:
        root = ElementTree.fromstring(file.ome_metadata or "")
    spaces = {"ome": "http://www.openmicroscopy.org/Schemas/OME/2016-06"}
    (annotation,) = root.findall("ome:StructuredAnnotations/ome:MapAnnotation", spaces)
    (reference,) = root.findall("ome:Image/ome:AnnotationRef", spaces)
    assert reference.get("ID") == annotation.get("ID")
    assert annotation.get("Namespace") == METADATA_KEY
    pairs = {pair.get("K"): pair.text for pair in annotation.findall("ome:Value/ome:M", spaces)}
    assert pairs == to_pairs(provenance_of(result))
    assert pairs["engines.mask_decoder.device"] == "Dnnl"


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_file_is_read_back(ending: str, written: Path, result: Segmentation) -> None:
    assert read_provenance(f"{written}{ending}") == (provenance_of(result),)


def test_the_same_files_again(written: Path, result: Segmentation, tmp_path: Path) -> None:
    again = write(result, tmp_path)
    other = replace(provenance_of(result), backend="openvino")
    changed = write(replace(result, provenance=other), tmp_path / "other")
    for ending in EVERY.endings:
        first, second, third = (contents(Path(f"{stem}{ending}")) for stem in (written, again, changed))
        assert first == second, ending
        assert (first == third) == (ending in WITHOUT), ending


def contents(path: Path) -> dict[str, bytes]:
    files = [one for one in path.rglob("*") if one.is_file()] if path.is_dir() else [path]
    return {one.relative_to(path).as_posix(): one.read_bytes() for one in files}


def test_a_result_of_no_segmenter_says_nothing(tmp_path: Path) -> None:
    stem = write(made_result(awkward_labels()), tmp_path)
    for ending in ENDINGS:
        assert read_provenance(f"{stem}{ending}") == (), ending


def test_saved_results_say_what_made_them(result: Segmentation, tmp_path: Path) -> None:
    for name in ("labels.tif", "labels.ome.tif", "cells.geojson"):
        runtime.save(result[[0]], tmp_path / name)
        assert read_provenance(tmp_path / name) == (provenance_of(result),)


def test_geojson_that_another_program_wrote_again(written: Path, result: Segmentation, tmp_path: Path) -> None:
    content = json.loads(output_path(written, "geojson").read_text())
    (tmp_path / "again.geojson").write_text(json.dumps(content, indent=1))
    assert read_provenance(tmp_path / "again.geojson") == (provenance_of(result),)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cells.csv", b"label\n", r"has type '\.csv'; expected one of .*segmented\.jsonl"),
        ("none.tif", None, "does not exist"),
        ("damaged.zip", b"PK", "cannot be read"),
        ("other.geojson", b'{"cellsam-engine": [{"model": 1}]}', r"cannot be read .*\[0\]\.model is 1"),
    ],
)
def test_files_that_cannot_be_read(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_provenance(tmp_path / name)
