"""Tests of OME-Zarr, versions 0.4 and 0.5."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from runtime import InputError
from runtime.files.formats import Plane, is_zarr, open_image
from runtime.files.image_results import FileOptions, read_file
from runtime.jobs.slides.slide_file import open_slide

RNG = np.random.default_rng(0)
STACK = RNG.integers(0, 1 << 16, (2, 4, 3, 30, 41)).astype(np.uint16)
"""Axes are TCZYX."""
KINDS = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}


def write_image(
    path: Path,
    axes: str = "tczyx",
    *,
    version: str = "0.4",
    scale: float = 0.5,
    unit: str | None = "micrometer",
    names: list[str] | None = None,
) -> Path:
    """Write ``STACK`` as an image of two levels, with its axes in this order."""
    array = STACK[tuple(slice(None) if axis in axes else 0 for axis in "tczyx")]
    order = [axis for axis in "tczyx" if axis in axes]
    array = array.transpose([order.index(axis) for axis in axes])
    group = zarr.open_group(str(path), mode="w", zarr_format=2 if version == "0.4" else 3)
    datasets = []
    for level in (0, 1):
        small = array[tuple(slice(None, None, 2**level) if axis in "yx" else slice(None) for axis in axes)]
        chunks = tuple(min(16, size) if axis in "yx" else size for axis, size in zip(axes, small.shape, strict=True))
        group.create_array(str(level), data=np.ascontiguousarray(small), chunks=chunks)
        scales = [scale * 2**level if axis in "yx" else 1.0 for axis in axes]
        datasets.append({"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scales}]})
    described: list[dict[str, Any]] = [{"name": axis, "type": KINDS[axis]} for axis in axes]
    for axis in described:
        if axis["type"] == "space" and unit:
            axis["unit"] = unit
    metadata: dict[str, Any] = {"multiscales": [{"axes": described, "datasets": datasets, "version": version}]}
    if names:
        metadata["omero"] = {"channels": [{"label": name} for name in names]}
    group.attrs.update(metadata if version == "0.4" else {"ome": {"version": "0.5", **metadata}})
    return path


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["tczyx", "ztcyx", "cyxzt", "xyctz"])
def test_any_part_of_any_order_of_axes(tmp_path: Path, axes: str, version: str) -> None:
    path = write_image(tmp_path / "a.zarr", axes, version=version)
    for _ in range(4):
        time, z, top, left = (int(RNG.integers(0, end)) for end in (2, 3, 30, 41))
        channels = RNG.integers(0, 4, RNG.integers(1, 5)).tolist()
        with open_image(path, plane=Plane(time=time, z=z)) as reader:
            assert reader.size_hw == (30, 41)
            found = reader.read(top, left, 30 - top, 41 - left, channels)
        np.testing.assert_array_equal(found, np.moveaxis(STACK[time, channels, z, top:, left:], 0, -1), strict=True)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_names_sizes_and_levels(tmp_path: Path, version: str) -> None:
    names = ["DAPI", "CD3", "CD8", "membrane"]
    path = write_image(tmp_path / "a.zarr", "cyx", version=version, names=names, scale=500.0, unit="nanometer")
    assert is_zarr(path)
    with open_image(path) as reader:
        assert reader.channels == tuple(names)
        assert reader.pixel_size_um == pytest.approx(0.5)
        assert reader.levels == ((30, 41), (15, 21))
        assert reader.dtype == np.uint16
    with open_image(path, level=1) as reader:
        assert reader.pixel_size_um == pytest.approx(1.0)
        np.testing.assert_array_equal(reader.read_all(), np.moveaxis(STACK[0, :, 0, ::2, ::2], 0, -1))
    with open_image(write_image(tmp_path / "b.zarr", "yx", version=version, unit=None)) as reader:
        assert (reader.pixel_size_um, reader.channels) == (None, ("0",))


def test_a_choice_that_is_missing_names_the_axes(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.zarr", "tczyx")
    with pytest.raises(InputError, match=r"axes TCZYX with shape \(2, 4, 3, 30, 41\); .*time=0\.\.1 and z=0\.\.2"):
        open_image(path)


def test_images_in_one_directory(tmp_path: Path) -> None:
    """The layouts are bioformats2raw's, and plates."""
    for number in (0, 1):
        write_image(tmp_path / str(number), "cyx", scale=1.0 + number)
    root = zarr.open_group(str(tmp_path / "all.zarr"), mode="w", zarr_format=2)
    root.attrs.update({"bioformats2raw.layout": 3})
    for number in ("0", "1"):
        shutil.move(tmp_path / number, tmp_path / "all.zarr" / number)
    with pytest.raises(InputError, match=r"contains 2 series; .*series= \(0: shape \(4, 30, 41\); 1: shape"):
        open_image(tmp_path / "all.zarr")
    with open_image(tmp_path / "all.zarr", series=1) as reader:
        assert reader.pixel_size_um == pytest.approx(2.0)
    plate = zarr.open_group(str(tmp_path / "plate.zarr"), mode="w", zarr_format=2)
    plate.attrs.update({"plate": {"wells": [{"path": "A/1"}, {"path": "B/2"}]}})
    plate.create_group("A/1")
    write_image(tmp_path / "plate.zarr" / "A" / "1" / "0", "cyx")
    with pytest.raises(InputError, match=r"plate with the wells A/1, B/2; .*series='A/1/0'"):
        open_image(tmp_path / "plate.zarr")
    with open_image(tmp_path / "plate.zarr", series="A/1/0") as reader:
        assert reader.size_hw == (30, 41)
    with pytest.raises(InputError, match="no image 'A/1/7'"):
        open_image(tmp_path / "plate.zarr", series="A/1/7")


def test_colours_are_told_by_their_names(tmp_path: Path) -> None:
    array = RNG.integers(0, 256, (3, 9, 8), np.uint8)
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="w", zarr_format=2)
    group.create_array("0", data=array)
    axes = [{"name": "c", "type": "channel"}, {"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    group.attrs.update(
        {
            "multiscales": [{"axes": axes, "datasets": [{"path": "0"}]}],
            "omero": {"channels": [{"label": name} for name in ("Red", "Green", "Blue")]},
        }
    )
    with open_image(tmp_path / "a.zarr") as reader:
        assert reader.channels == ("red", "green", "blue")
        assert reader.pixel_size_um is None
        np.testing.assert_array_equal(reader.read_all(), np.moveaxis(array, 0, -1))


def test_damaged_directories(tmp_path: Path) -> None:
    whole = write_image(tmp_path / "whole.zarr", "cyx", version="0.5")
    no_level = tmp_path / "no_level.zarr"
    shutil.copytree(whole, no_level)
    shutil.rmtree(no_level / "0")
    with pytest.raises(InputError, match="cannot be read"):
        open_image(no_level)
    cut = tmp_path / "cut.zarr"
    shutil.copytree(whole, cut)
    chunk = next(path for path in (cut / "0" / "c").rglob("*") if path.is_file())
    chunk.write_bytes(chunk.read_bytes()[:20])
    with open_image(cut) as reader, pytest.raises(InputError, match=r"cut\.zarr cannot be read"):
        reader.read_all()
    (tmp_path / "odd.zarr").mkdir()
    (tmp_path / "odd.zarr" / "zarr.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        open_image(tmp_path / "odd.zarr")
    zarr.open_group(str(tmp_path / "plain.zarr"), mode="w").create_group("tables")
    with pytest.raises(InputError, match=r"no OME-Zarr image .*It contains: tables"):
        open_image(tmp_path / "plain.zarr")
    zarr.create_array(str(tmp_path / "array.zarr"), data=STACK[0, 0, 0])
    with pytest.raises(InputError, match="array without OME-Zarr metadata"):
        open_image(tmp_path / "array.zarr")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="not an OME-Zarr image; give image files"):
        open_image(tmp_path / "folder")


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_absent_chunks_are_counted_and_refused_where_that_is_wanted(
    tmp_path: Path, version: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_image(tmp_path / "a.zarr", "tczyx", version=version)
    options = FileOptions(plane=Plane(time=1, z=2), nuclear="0", membrane="1")
    read_file(path, options)
    assert not caplog.messages
    files = [one for one in (path / "0").rglob("*") if one.is_file()]
    (chunk,) = (one for one in files if re.split("[./]", one.relative_to(path / "0").as_posix())[-2:] == ["0", "1"])
    chunk.unlink()
    pixels = read_file(path, options).pixels
    assert caplog.messages == [
        f"{path} lacks 1 of 6 chunks; cells there are missed, unless these chunks are background that was not written"
    ]
    assert not pixels[:16, 16:32].any()
    assert pixels[16:].any()
    for refused in (read_file, open_slide):
        with pytest.raises(InputError, match=r"a\.zarr lacks 1 of 6 chunks; expected all .* strict=True"):
            refused(path, replace(options, strict=True))
