"""Tests of the results of stacks and movies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from runtime import ConfigError, InputError
from runtime.files.formats import Plane
from runtime.files.formats.stack import find_stack, parse_planes
from runtime.files.outputs.stacks import check_stack_formats, write_tracks


def frame(**cells: int) -> Any:
    """Make a label map with a pixel for each cell, at a place of its own."""
    labels = np.zeros((4, 8), np.int32)
    for label in cells.values():
        labels[label % 4, label] = label
    return labels


def test_tracks_of_the_challenge(tmp_path: Path) -> None:
    """Cell 1 divides into 3 and 4; cell 2 is missed in frame 1, and its second part divides into 5."""
    frames = [frame(a=1, b=2), frame(c=3, d=4), frame(b=2, c=3), frame(c=3, e=5)]
    write_tracks(tmp_path / "a_RES", frames, {3: 1, 4: 1, 5: 2})
    lines = (tmp_path / "a_RES" / "res_track.txt").read_text().splitlines()
    assert lines == ["1 0 0 0", "2 0 0 0", "3 1 3 1", "4 1 1 1", "5 3 3 6", "6 2 2 2"]
    found = [tifffile.imread(tmp_path / "a_RES" / f"mask{number:03d}.tif") for number in range(4)]
    assert {one.dtype for one in found} == {np.dtype(np.uint16)}
    np.testing.assert_array_equal(found[0], frames[0])
    np.testing.assert_array_equal(found[2], np.where(frames[2] == 2, 6, frames[2]))
    # As the evaluation of the challenge requires: each track is in all frames from its first to its last.
    for line in lines:
        label, begin, end, _ = map(int, line.split())
        there = [number for number, one in enumerate(found) if (one == label).any()]
        assert there == list(range(begin, end + 1))
    write_tracks(tmp_path / "none_RES", [frame()])
    assert (tmp_path / "none_RES" / "res_track.txt").read_text() == ""


def test_formats_of_stacks() -> None:
    check_stack_formats(["tiff", "csv", "ctc", "cellpose"])
    with pytest.raises(ConfigError, match="geojson together with planes; expected formats among tiff"):
        check_stack_formats(["tiff", "geojson"])


@pytest.mark.parametrize(("text", "planes"), [("all", [0, 1, 2, 3]), ("2", [2]), ("1-3", [1, 2, 3])])
def test_ranges(text: str, planes: list[int]) -> None:
    assert list(parse_planes(text, 4)) == planes


@pytest.mark.parametrize("text", ["", "3-1", "a", "-1", "0-", "1,2"])
def test_other_ranges(text: str) -> None:
    with pytest.raises(ConfigError, match="expected all, a number from 0, or a range"):
        parse_planes(text)
    with pytest.raises(InputError, match="the image has 3; expected numbers from 0 to 2"):
        parse_planes("1-3", 3)


def test_the_axis_of_a_file(tmp_path: Path) -> None:
    def saved(name: str, shape: tuple[int, ...], axes: str) -> Path:
        tifffile.imwrite(tmp_path / name, np.zeros(shape, np.uint8), metadata={"axes": axes}, photometric="minisblack")
        return tmp_path / name

    movie, stack = saved("t.ome.tif", (5, 8, 9), "TYX"), saved("z.ome.tif", (4, 2, 8, 9), "ZCYX")
    both, one = saved("tz.ome.tif", (3, 4, 8, 9), "TZYX"), saved("one.tif", (8, 9), "YX")
    found = find_stack(movie, None, Plane())
    assert (found.letter, found.length, found.column, found.at(3)) == ("T", 5, "frame", Plane(time=3))
    found = find_stack(stack, None, Plane())
    assert (found.letter, found.length, found.column, found.at(3)) == ("Z", 4, "plane", Plane(z=3))
    found = find_stack(both, None, Plane(z=1))
    assert (found.letter, found.length, found.at(2)) == ("T", 3, Plane(time=2, z=1))
    with pytest.raises(InputError, match="3 time points and 4 z planes; expected one of the two"):
        find_stack(both, None, Plane())
    assert find_stack(one, None, Plane()).length == 1
    tifffile.imwrite(tmp_path / "pages.tif", np.zeros((6, 8, 9), np.uint8), metadata=None, photometric="minisblack")
    found = find_stack(tmp_path / "pages.tif", None, Plane())
    assert (found.letter, found.length) == ("T", 6)
