"""Tests of TIFF and OME-TIFF: parts, planes, series, levels, names and sizes."""

from __future__ import annotations

import itertools
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import InputError
from runtime.files.formats import Plane, open_image
from runtime.files.formats.tiff_pages import PageParts

RNG = np.random.default_rng(0)
SIZES = {"T": 2, "C": 5, "Z": 3, "Y": 40, "X": 53}
STACK = RNG.integers(0, 1 << 16, tuple(SIZES.values())).astype(np.uint16)
"""Axes are TCZYX."""


def write_stack(path: Path, axes: str, **options: Any) -> Path:
    """Write ``STACK`` with its axes in another order; omitted axes are reduced to their first index."""
    kept = STACK[tuple(slice(None) if axis in axes else 0 for axis in "TCZYX")]
    order = [axis for axis in "TCZYX" if axis in axes]
    array = np.ascontiguousarray(kept.transpose([order.index(axis) for axis in axes]))
    metadata = {"axes": axes, **options.pop("metadata", {})}
    tifffile.imwrite(path, array, ome=True, photometric="minisblack", metadata=metadata, **options)
    return path


@st.composite
def parts(draw: st.DrawFn, size_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """Choose a part (top, left, height, width) of an image."""
    top, left = draw(st.integers(0, size_hw[0] - 1)), draw(st.integers(0, size_hw[1] - 1))
    return top, left, draw(st.integers(1, size_hw[0] - top)), draw(st.integers(1, size_hw[1] - left))


LAYOUTS: list[dict[str, Any]] = [
    {},
    {"tile": (16, 32)},
    {"rowsperstrip": 7},
    {"tile": (16, 16), "compression": "zlib", "predictor": True},
    {"rowsperstrip": 9, "compression": "lzw"},
    {"compression": "zlib"},
    {"byteorder": ">"},
]


@settings(max_examples=60, deadline=None)
@given(
    axes=st.permutations("TCZ").map(lambda order: "".join(order) + "YX"),
    layout=st.sampled_from(LAYOUTS),
    time=st.integers(0, SIZES["T"] - 1),
    z=st.integers(0, SIZES["Z"] - 1),
    part=parts((SIZES["Y"], SIZES["X"])),
    channels=st.lists(st.integers(0, SIZES["C"] - 1), min_size=1, max_size=5),
)
def test_any_part_of_any_plane_of_any_layout(
    axes: str, layout: dict[str, Any], time: int, z: int, part: tuple[int, int, int, int], channels: list[int]
) -> None:
    with TemporaryDirectory() as folder:
        path = write_stack(Path(folder) / "a.ome.tif", axes, **layout)
        with open_image(path, plane=Plane(time=time, z=z)) as reader:
            found = reader.read(*part, channels)
    top, left, height, width = part
    expected = np.moveaxis(STACK[time, channels, z, top : top + height, left : left + width], 0, -1)
    np.testing.assert_array_equal(found, expected, strict=True)


@settings(max_examples=30, deadline=None)
@given(
    planar=st.booleans(),
    layout=st.sampled_from(LAYOUTS),
    part=parts((30, 35)),
    channels=st.lists(st.integers(0, 2), min_size=1, max_size=3),
)
def test_parts_of_colour_images(
    planar: bool, layout: dict[str, Any], part: tuple[int, int, int, int], channels: list[int]
) -> None:
    image = RNG.integers(0, 256, (30, 35, 3), np.uint8)
    stored = np.ascontiguousarray(np.moveaxis(image, -1, 0)) if planar else image
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.tif"
        tifffile.imwrite(path, stored, photometric="rgb", planarconfig="separate" if planar else "contig", **layout)
        with open_image(path) as reader:
            assert reader.channels == ("red", "green", "blue")
            found = reader.read(*part, channels)
    top, left, height, width = part
    np.testing.assert_array_equal(found, image[top : top + height, left : left + width, channels], strict=True)


@pytest.mark.parametrize("axes", ["CZYX", "ZCYX", "CYX", "ZYX", "YX"])
def test_axes_that_are_missing_are_no_choice(tmp_path: Path, axes: str) -> None:
    path = write_stack(tmp_path / "a.ome.tif", axes)
    with open_image(path, plane=Plane(z=2 if "Z" in axes else None)) as reader:
        expected = STACK[0, : SIZES["C"] if "C" in axes else 1, 2 if "Z" in axes else 0]
        np.testing.assert_array_equal(reader.read_all(), np.moveaxis(expected, 0, -1))


@pytest.mark.parametrize(
    ("plane", "message"),
    [
        (Plane(), r"axes TCZYX with shape \(2, 5, 3, 40, 53\); .*time=0\.\.1 and z=0\.\.2"),
        (Plane(time=1), r"Choose it: z=0\.\.2"),
        (Plane(time=2, z=0), r"time=2 was given, expected 0 to 1"),
        (Plane(time=0, z=-1), r"z=-1 was given, expected 0 to 2"),
    ],
)
def test_a_choice_that_is_missing_or_wrong_names_the_axes(tmp_path: Path, plane: Plane, message: str) -> None:
    path = write_stack(tmp_path / "a.ome.tif", "TCZYX")
    with pytest.raises(InputError, match=message):
        open_image(path, plane=plane)


def test_a_plane_of_an_axis_that_is_not_there(tmp_path: Path) -> None:
    path = write_stack(tmp_path / "a.ome.tif", "CYX")
    with pytest.raises(InputError, match="z=4 was given, but there is no axis Z"):
        open_image(path, plane=Plane(z=4))
    with open_image(path, plane=Plane(z=0)) as reader:
        assert reader.size_hw == (40, 53)


def test_pages_without_a_name_are_what_the_caller_says(tmp_path: Path) -> None:
    pages = STACK[0, :, 0]
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack", metadata=None)
    with pytest.raises(InputError, match=r"axes IYX .* does not describe its 5 pages"):
        open_image(tmp_path / "a.tif")
    for plane in (Plane(z=3), Plane(time=3)):
        with open_image(tmp_path / "a.tif", plane=plane) as reader:
            np.testing.assert_array_equal(reader.read_all()[..., 0], pages[3])
    with open_image(tmp_path / "a.tif", plane=Plane(pages_are_channels=True)) as reader:
        assert reader.channels == ("0", "1", "2", "3", "4")
        np.testing.assert_array_equal(reader.read_all(), np.moveaxis(pages, 0, -1))


def test_names_and_sizes_of_ome(tmp_path: Path) -> None:
    names = ["DAPI", "CD3", "CD8", "PanCK", "membrane"]
    metadata = {
        "Channel": {"Name": names},
        "PhysicalSizeX": 325.0,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 0.325,
        "PhysicalSizeYUnit": "\u00b5m",
    }
    path = write_stack(tmp_path / "a.ome.tif", "CYX", metadata=metadata)
    with open_image(path) as reader:
        assert reader.channels == tuple(names)
        assert reader.pixel_size_um == pytest.approx(0.325)
        assert (reader.size_hw, reader.dtype, reader.name) == ((40, 53), np.uint16, str(path))
    with open_image(write_stack(tmp_path / "b.ome.tif", "CYX")) as reader:
        assert reader.pixel_size_um is None
        assert len(reader.channels) == 5


def test_names_and_sizes_of_imagej(tmp_path: Path) -> None:
    labels = [f"{name} z{z}" for z in range(3) for name in ("nuclei", "membrane")]
    tifffile.imwrite(
        tmp_path / "a.tif",
        STACK[0, :2].swapaxes(0, 1).copy(),
        imagej=True,
        resolution=(1 / 0.5, 1 / 0.5),
        metadata={"axes": "ZCYX", "unit": "um", "Labels": labels},
    )
    with open_image(tmp_path / "a.tif", plane=Plane(z=1)) as reader:
        assert reader.pixel_size_um == pytest.approx(0.5, rel=1e-4)
        assert reader.channels == ("nuclei z0", "membrane z0")
        np.testing.assert_array_equal(reader.read_all(), np.moveaxis(STACK[0, :2, 1], 0, -1))


@pytest.mark.parametrize(
    ("resolution", "unit", "expected"),
    [
        ((20000, 20000), "CENTIMETER", 0.5),
        ((50800, 50800), "INCH", 0.5),
        ((300, 300), "INCH", None),
        ((2, 2), None, None),
    ],
)
def test_resolution_tags(tmp_path: Path, resolution: Any, unit: str | None, expected: float | None) -> None:
    """Resolution tags of printers and screens are not pixel sizes."""
    tifffile.imwrite(tmp_path / "a.tif", STACK[0, 0, 0], resolution=resolution, resolutionunit=unit)
    with open_image(tmp_path / "a.tif") as reader:
        assert reader.pixel_size_um == (None if expected is None else pytest.approx(expected, rel=1e-4))


@pytest.fixture
def pyramid(tmp_path: Path) -> Path:
    """Write three tiled levels of 200 x 300 pixels and 2 channels."""
    image = RNG.integers(0, 1 << 16, (2, 200, 300)).astype(np.uint16)
    with tifffile.TiffWriter(tmp_path / "p.ome.tif") as tiff:
        metadata = {"axes": "CYX", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25, "Channel": {"Name": ["a", "b"]}}
        tiff.write(image, subifds=2, tile=(64, 64), photometric="minisblack", compression="zlib", metadata=metadata)
        for step in (2, 4):
            tiff.write(image[:, ::step, ::step], subfiletype=1, tile=(64, 64), photometric="minisblack")
    return tmp_path / "p.ome.tif"


def test_levels_of_a_pyramid(pyramid: Path) -> None:
    with open_image(pyramid) as reader:
        whole = reader.read_all()
        assert reader.levels == ((200, 300), (100, 150), (50, 75))
        assert reader.pixel_size_um == pytest.approx(0.25)
    for level in (1, 2):
        with open_image(pyramid, level=level) as reader:
            assert reader.channels == ("a", "b")
            assert reader.pixel_size_um == pytest.approx(0.25 * 2**level)
            np.testing.assert_array_equal(reader.read_all(), whole[:: 2**level, :: 2**level])
    with pytest.raises(InputError, match="levels 0 to 2, but level 3"):
        open_image(pyramid, level=3)


def test_only_the_tiles_of_a_part_are_read(pyramid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each tile is read only once, since decoded tiles are cached."""
    sizes: list[int] = []
    real = PageParts._raw

    def count(self: PageParts, file: Any, offset: int, size: int) -> bytes | None:
        sizes.append(size)
        return real(self, file, offset, size)

    monkeypatch.setattr(PageParts, "_raw", count)
    with open_image(pyramid) as reader:
        reader.read(60, 60, 10, 10, (1,))
        assert len(sizes) == 4
        reader.read(10, 10, 100, 100, (1,))
        assert len(sizes) == 4
        reader.read(0, 0, 1, 1)
        assert len(sizes) == 5


def test_the_cache_is_bounded(pyramid: Path) -> None:
    with open_image(pyramid) as reader:
        reader._parts = kept = PageParts(limit_bytes=3 * 64 * 64 * 2)  # type: ignore[attr-defined]
        whole = reader.read_all()
        assert kept._size <= 3 * 64 * 64 * 2
        np.testing.assert_array_equal(reader.read_all(), whole)


def test_a_series_is_chosen_by_number_or_name(tmp_path: Path) -> None:
    path = tmp_path / "s.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for name, plane, side in (("overview", 0, 1.0), ("field 1", 1, 0.5)):
            metadata = {"axes": "YX", "Name": name, "PhysicalSizeX": side, "PhysicalSizeY": side}
            tiff.write(STACK[0, plane, 0, : 20 + plane], photometric="minisblack", metadata=metadata)
    with pytest.raises(InputError, match=r"contains 2 series; .*series= \(0: overview, axes YX.*1: field 1"):
        open_image(path)
    for series in (1, "1", "field 1"):
        with open_image(path, series=series) as reader:
            assert reader.pixel_size_um == pytest.approx(0.5)
            np.testing.assert_array_equal(reader.read_all()[..., 0], STACK[0, 1, 0, :21])
    with pytest.raises(InputError, match="no series 'field 2'"):
        open_image(path, series="field 2")


def test_parts_beyond_the_image_are_refused(pyramid: Path) -> None:
    with open_image(pyramid) as reader:
        for part in ((0, 0, 201, 10), (-1, 0, 5, 5), (0, 299, 5, 2), (0, 0, 0, 5)):
            with pytest.raises(InputError, match="expected a part of 200 x 300 pixels"):
                reader.read(*part)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_truncated_files(tmp_path: Path, layout: dict[str, Any], kept: float) -> None:
    """Files end in the pixels, between the pages, or in the metadata at the end, without which axes have no names."""
    path = write_stack(tmp_path / "a.ome.tif", "CYX", **layout)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    message = r"a\.ome\.tif (cannot be read|contains no image|ends|lacks|has axes)"
    with pytest.raises(InputError, match=message), open_image(path) as reader:
        reader.read_all()


def test_bytes_that_are_no_tiff(tmp_path: Path) -> None:
    for name, content in itertools.product(("a.tif", "b.svs"), (b"", b"II*\0garbage", b"nothing of a TIFF")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="0 bytes" if not content else "cannot be read|contains no image"):
            open_image(tmp_path / name)


def test_stacks_of_imagej_with_one_page_for_all(tmp_path: Path) -> None:
    """ImageJ writes stacks over 4 GB in this way; this one is small."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, STACK[0, :, 0], imagej=True, metadata={"axes": "CYX"})
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        first = tiff.pages[0]
        tail = first.offset + 2 + 12 * len(first.tags)
    with path.open("r+b") as file:
        file.seek(tail)
        file.write(b"\0\0\0\0")  # no other page
    with open_image(path) as reader:
        assert len(reader.channels) == 5
        np.testing.assert_array_equal(
            reader.read(3, 4, 5, 6, (4, 1)), np.moveaxis(STACK[0, [4, 1], 0, 3:8, 4:10], 0, -1)
        )


def test_jpeg_tiles(tmp_path: Path) -> None:
    image = np.full((64, 96, 3), (200, 40, 90), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb", compression="jpeg", tile=(32, 32))
    with open_image(tmp_path / "a.tif") as reader:
        assert reader.channels == ("red", "green", "blue")
        assert np.abs(reader.read(20, 30, 30, 40).astype(int) - (200, 40, 90)).max() < 4
