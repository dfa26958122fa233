"""Tests of Cellpose's result files."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image
from scipy import ndimage

from runtime import InputError
from runtime.files.outputs.cellpose import (
    cell_outline,
    outline_labels,
    write_masks_png,
    write_outlines,
    write_seg,
)
from runtime.files.outputs.formats import OUTPUT_FORMATS, ImageOutput, check_slide_formats
from runtime.files.outputs.read_cellpose import read_masks, read_seg
from runtime.files.plain import write_labels
from runtime.ops.masks import MaskCrop, relabel
from tests.runtime.files.outputs.made import awkward_labels, made_result

label_maps = arrays(np.int32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 4)).map(
    lambda labels: relabel(labels, 4)[0]
)

RING = np.array([[0, 1, 1, 1, 0], [1, 1, 0, 1, 1], [1, 0, 0, 0, 1], [0, 1, 1, 1, 0]], np.bool_)
"""A cell with a hole."""


def load(path: Path) -> Any:
    """Load a file as Cellpose does."""
    return np.load(path, allow_pickle=True).item()


def test_seg_has_what_cellpose_reads(tmp_path: Path) -> None:
    labels = awkward_labels()
    write_seg(tmp_path / "a_seg.npy", labels, "/data/a.tif", 17.5)
    found = load(tmp_path / "a_seg.npy")
    np.testing.assert_array_equal(found["masks"], labels)
    assert found["masks"].dtype == found["outlines"].dtype == np.uint16
    np.testing.assert_array_equal(found["outlines"], outline_labels(labels))
    assert found["filename"] == "/data/a.tif"
    assert found["est_diam"] == found["diameter"] == 17.5
    assert found["ismanual"].tolist() == [False] * labels.max()
    assert found["chan_choose"] == [0, 0]
    assert [len(flow) for flow in found["flows"]] == [0, 0, 0, 0, 1]
    first = (tmp_path / "a_seg.npy").read_bytes()
    write_seg(tmp_path / "a_seg.npy", labels, "/data/a.tif", 17.5)
    assert (tmp_path / "a_seg.npy").read_bytes() == first, "the same cells give the same file"


def test_the_format_names_the_image(tmp_path: Path) -> None:
    result = made_result(awkward_labels())
    output = ImageOutput(result=result, image=Path("images/a.tif"))
    OUTPUT_FORMATS["cellpose"].write(tmp_path / "a_seg.npy", output)
    assert load(tmp_path / "a_seg.npy")["filename"] == os.path.abspath("images/a.tif")
    assert np.isnan(load(tmp_path / "a_seg.npy")["diameter"]), "the diameter was not measured"


@given(label_maps)
def test_outlines_are_the_pixels_beside_the_background_around_a_cell(labels: Any) -> None:
    outlined = outline_labels(labels)
    for number in range(1, labels.max() + 1):
        outside = np.pad(ndimage.binary_fill_holes(labels == number), 1)
        beside = np.zeros_like(outside)
        for axis, shift in ((0, 1), (0, -1), (1, 1), (1, -1)):
            beside |= ~np.roll(outside, shift, axis)
        np.testing.assert_array_equal(outlined == number, (outside & beside)[1:-1, 1:-1])


@given(arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=8)))
def test_a_traced_outline_visits_every_border_pixel_in_order(mask: Any) -> None:
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    for number in range(1, count + 1):
        part = parts == number
        outline = cell_outline(MaskCrop(part, (10, 20))) - (10, 20)
        steps = np.abs(np.diff(np.vstack([outline, outline[:1]]), axis=0)).max(axis=1)
        assert (steps == 1).all() or len(outline) == 1, "neighbours, and closed"
        visited = np.zeros_like(part)
        visited[tuple(outline.T)] = True
        outside, _ = ndimage.label(~np.pad(part, 1))
        around = np.pad(outside == outside[0, 0], 0)
        expected = ndimage.binary_dilation(around)[1:-1, 1:-1] & part
        np.testing.assert_array_equal(visited, expected)


def test_outline_of_a_ring() -> None:
    outline = cell_outline(MaskCrop(RING, (0, 0)))
    assert outline[0].tolist() == [0, 1], "the leftmost pixel of the topmost row"
    assert outline[1].tolist() == [1, 0], "against the clock"
    assert len(outline) == 10, "the pixels around the hole do not count"


def test_outline_lines(tmp_path: Path) -> None:
    labels = awkward_labels()
    write_outlines(tmp_path / "a.txt", labels)
    lines = (tmp_path / "a.txt").read_text().split("\n")
    assert len(lines) == labels.max() + 1
    assert lines[-1] == ""
    assert lines[3] == lines[5] == "", "a cell of one pixel has no outline"
    x, y = np.array(lines[0].split(","), int).reshape(-1, 2).T
    assert (x.min(), x.max(), y.min(), y.max()) == (5, 13, 4, 11)
    assert (labels[y, x] == 1).all()


@pytest.mark.parametrize("ending", ["_seg.npy", "_cp_masks.png", "_cp_masks.tif"])
def test_masks_round_trip(tmp_path: Path, ending: str) -> None:
    labels = awkward_labels()
    name = next(name for name, kind in OUTPUT_FORMATS.items() if kind.ending == ending)
    OUTPUT_FORMATS[name].write(tmp_path / f"a{ending}", ImageOutput(result=made_result(labels)))
    found = read_masks(tmp_path / f"a{ending}")
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, labels)
    assert [left.name for left in tmp_path.iterdir()] == [f"a{ending}"]


def test_many_cells(tmp_path: Path) -> None:
    labels = np.arange(70_000, dtype=np.int32).reshape(250, 280)
    write_seg(tmp_path / "a_seg.npy", labels, "a.tif")
    np.testing.assert_array_equal(read_masks(tmp_path / "a_seg.npy"), labels)
    assert load(tmp_path / "a_seg.npy")["masks"].dtype == np.uint32
    with pytest.raises(InputError, match=r"69999 cells; expected at most 65535"):
        write_masks_png(tmp_path / "a.png", labels)
    assert [left.name for left in tmp_path.iterdir()] == ["a_seg.npy"]
    write_labels(tmp_path / "a_masks.tif", labels)
    np.testing.assert_array_equal(read_masks(tmp_path / "a_masks.tif"), labels)


def test_png_has_16_bits(tmp_path: Path) -> None:
    write_masks_png(tmp_path / "a.png", awkward_labels() * 1000)
    with Image.open(tmp_path / "a.png") as picture:
        assert np.asarray(picture).max() == 6000


def test_a_stack(tmp_path: Path) -> None:
    stack = np.stack([awkward_labels(), np.zeros_like(awkward_labels())])
    write_seg(tmp_path / "a_seg.npy", stack, "a.tif")
    np.testing.assert_array_equal(read_masks(tmp_path / "a_seg.npy"), stack)
    np.testing.assert_array_equal(load(tmp_path / "a_seg.npy")["outlines"][0], outline_labels(stack[0]))
    tifffile.imwrite(tmp_path / "a_masks.tif", stack.astype(np.uint16))
    np.testing.assert_array_equal(read_masks(tmp_path / "a_masks.tif"), stack)


def saved(path: Path, content: Any) -> Path:
    """Save an object as Cellpose does."""
    np.save(path, content)
    return path


def test_read_files_of_cellpose_itself(tmp_path: Path) -> None:
    """The dictionary as the GUI saves it, with what the reader does not need, and as the first versions saved it."""
    labels = awkward_labels()
    flows = [np.zeros((1, 24, 30, 3), np.uint8), [], np.float32(1.5)]
    drawn = np.array([True, False, False, False, True, False])
    content = {"masks": labels.astype(np.uint16), "flows": flows, "ismanual": drawn, "filename": Path("d/a.tif")}
    found = read_seg(saved(tmp_path / "a_seg.npy", content))
    np.testing.assert_array_equal(found.masks, labels)
    assert found.is_manual.tolist() == drawn.tolist()
    assert found.image == str(Path("d/a.tif"))
    old = {"masks": np.asfortranarray(labels - 1), "outlines": []}
    found = read_seg(saved(tmp_path / "b_seg.npy", old))
    np.testing.assert_array_equal(found.masks, labels)
    assert (len(found.is_manual), found.image) == (0, None)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_pickle_protocol(tmp_path: Path, protocol: int) -> None:
    content = np.array({"masks": awkward_labels().astype(">u2")}, object)
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }\n"
    head = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    (tmp_path / "a_seg.npy").write_bytes(head + pickle.dumps(content, protocol))
    np.testing.assert_array_equal(read_masks(tmp_path / "a_seg.npy"), awkward_labels())


class _Attack:
    """Runs a function when it is unpickled."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    "function", [os.system, eval, exec, getattr, np.load, np.memmap, np.fromfile, np.frombuffer, np.array, pickle.loads]
)
def test_no_code_of_a_file_runs(tmp_path: Path, function: Any) -> None:
    mark = tmp_path / "ran"
    content = {"masks": awkward_labels(), "flows": _Attack(function, f"touch {mark}")}
    with pytest.raises(InputError, match=r"contains [\w.]+; expected arrays and plain values"):
        read_masks(saved(tmp_path / "a_seg.npy", content))
    assert not mark.exists()


def test_arrays_of_objects_and_fields_are_not_built(tmp_path: Path) -> None:
    """A made-up data type could let numpy take numbers for addresses."""
    for name, masks in (
        ("objects", np.array([[1, None]], object)),
        ("fields", np.zeros((2, 2), [("a", "u2")])),
        ("text", np.array([["a"]])),
    ):
        with pytest.raises(InputError, match="cannot be read"):
            read_masks(saved(tmp_path / f"{name}_seg.npy", {"masks": masks}))


@pytest.mark.parametrize("content", [{"outlines": 1}, {"masks": 3}, [1, 2], {"masks": {}}])
def test_other_content(tmp_path: Path, content: Any) -> None:
    with pytest.raises(InputError, match=r"contains no masks|not the dictionary"):
        read_seg(saved(tmp_path / "a_seg.npy", content))


@pytest.mark.parametrize("masks", [np.array([[0.5]]), np.array([[-2]]), np.zeros(3, int), np.zeros((1, 1, 1, 1), int)])
def test_masks_that_are_no_labels(tmp_path: Path, masks: Any) -> None:
    with pytest.raises(InputError, match="expected whole numbers from 0"):
        read_seg(saved(tmp_path / "a_seg.npy", {"masks": masks}))


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    path = saved(tmp_path / "a_seg.npy", {"masks": awkward_labels()})
    whole = path.read_bytes()
    for length in (0, 5, 60, 128, 140, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"cannot be read|no masks"):
            read_masks(path)
    with pytest.raises(InputError, match="is not a file"):
        read_masks(tmp_path / "b_seg.npy")
    with pytest.raises(InputError, match="is not a file"):
        read_masks(tmp_path / "b_masks.tif")
    with pytest.raises(InputError, match=r"has type '\.npy'; expected _seg.npy"):
        read_masks(tmp_path / "b.npy")


def test_slides_have_fewer_formats() -> None:
    check_slide_formats(["cellpose-tif", "cellpose-txt", "csv"])
    with pytest.raises(InputError, match="cannot be written as cellpose, cellpose-png; expected formats among tiff"):
        check_slide_formats(["cellpose", "csv", "cellpose-png"])
