"""Tests of pictures, npy files and whole slides."""

from __future__ import annotations

import struct
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from runtime import InputError
from runtime.files.formats import Plane, open_image, pictures

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (40, 50, 3), np.uint8)


def test_pictures(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    Image.fromarray(RGB[..., 0]).save(tmp_path / "b.png")
    with open_image(tmp_path / "a.png") as reader:
        assert reader.channels == ("red", "green", "blue")
        np.testing.assert_array_equal(reader.read(3, 4, 5, 6, (2, 0)), RGB[3:8, 4:10, [2, 0]])
        assert reader.pixel_size_um is None
    with open_image(tmp_path / "b.png") as reader:
        assert reader.channels == ("0",)
        np.testing.assert_array_equal(reader.read_all(), RGB[..., :1])


def test_npy_files_are_mapped(tmp_path: Path) -> None:
    stack = RNG.random((30, 40, 7)).astype(np.float32)
    np.save(tmp_path / "a.npy", stack)
    with open_image(tmp_path / "a.npy") as reader:
        assert isinstance(reader._array, np.memmap)  # type: ignore[attr-defined]
        assert len(reader.channels) == 7
        part = reader.read(1, 2, 3, 4)
    np.testing.assert_array_equal(part, stack[1:4, 2:6])
    assert not isinstance(part, np.memmap)
    np.save(tmp_path / "f.npy", np.asfortranarray(RGB[..., 0].astype(">u2")))
    with open_image(tmp_path / "f.npy") as reader:
        np.testing.assert_array_equal(reader.read_all()[..., 0], RGB[..., 0].astype(np.uint16), strict=True)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(5), r"shape \(5,\); expected \(H, W\)"),
        (np.zeros((2, 3, 4, 5)), "expected"),
        (np.zeros((0, 5)), "at least one pixel"),
        (np.zeros((3, 20, 30)), "Move the channel axis last"),
        (np.array([{}], object), "cannot be read"),
    ],
)
def test_arrays_that_are_no_image(tmp_path: Path, array: Any, message: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match=message):
        open_image(tmp_path / "a.npy")


def test_one_plane_gives_no_choice(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", RGB)
    assert open_image(tmp_path / "a.npy", series=0, plane=Plane(time=0, z=0)).size_hw == (40, 50)
    with pytest.raises(InputError, match="levels 0 to 0, but level 1"):
        open_image(tmp_path / "a.npy", level=1)
    for options in ({"series": 1}, {"plane": Plane(z=2)}, {"plane": Plane(time=1)}):
        with pytest.raises(InputError, match="has one plane"):
            open_image(tmp_path / "a.npy", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.czi", b"x", r"type '\.czi'; expected one of"),
        ("a.png", b"", "0 bytes"),
        ("a.jpg", b"no", "cannot be read"),
        ("none.tif", None, "not a file"),
    ],
)
def test_files_that_are_no_image(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_image(tmp_path / name)


def write_slide(path: Path) -> Any:
    """Write a tiled pyramid like those of Aperio scanners."""
    large = np.kron(RNG.integers(0, 256, (32, 48, 3), np.uint8), np.ones((16, 16, 1), np.uint8))
    description = "Aperio Image Library v1\n{w}x{h}|AppMag = 20|MPP = 0.5"
    with tifffile.TiffWriter(path) as tiff:
        for step in (1, 4):
            level = np.ascontiguousarray(large[::step, ::step])
            text = description.format(w=level.shape[1], h=level.shape[0])
            tiff.write(level, tile=(128, 128), photometric="rgb", metadata=None, description=text)
    return large


def test_slides(tmp_path: Path) -> None:
    pytest.importorskip("openslide")
    large = write_slide(tmp_path / "a.svs")
    with open_image(tmp_path / "a.svs") as reader:
        assert reader.channels == ("red", "green", "blue")
        assert reader.levels == ((512, 768), (128, 192))
        assert reader.pixel_size_um == pytest.approx(0.5)
        np.testing.assert_array_equal(reader.read(100, 200, 70, 60), large[100:170, 200:260])
    with open_image(tmp_path / "a.svs", level=1) as reader:
        assert reader.pixel_size_um == pytest.approx(2.0)
        np.testing.assert_array_equal(reader.read(30, 40, 20, 10, (1,)), large[::4, ::4][30:50, 40:50, 1:2])


def test_what_was_not_scanned_has_the_colour_of_the_background(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slide:
        """Double of ``openslide.OpenSlide`` with nothing scanned in the left half."""

        level_dimensions = ((100, 80),)
        level_downsamples = (1.0,)
        properties = {"openslide.background-color": "F0E0D0"}  # noqa: RUF012

        def __init__(self, path: str) -> None:
            self.path = path

        def read_region(self, place: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
            columns = np.arange(place[0], place[0] + size[0])
            rgba = np.zeros((size[1], size[0], 4), np.uint8)
            rgba[:, columns >= 50] = (10, 20, 30, 255)
            return Image.fromarray(rgba)

        def close(self) -> None:
            pass

    monkeypatch.setitem(sys.modules, "openslide", SimpleNamespace(OpenSlide=Slide))
    (tmp_path / "a.mrxs").write_bytes(b"x")
    with open_image(tmp_path / "a.mrxs") as reader:
        assert (reader.size_hw, reader.pixel_size_um) == ((80, 100), None)
        part = reader.read(0, 48, 2, 4)
    assert part[0].tolist() == [[240, 224, 208], [240, 224, 208], [10, 20, 30], [10, 20, 30]]


@pytest.mark.parametrize(("module", "name"), [("openslide", "a.ndpi"), ("zarr", "a.zarr")])
def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str) -> None:
    if name.endswith(".zarr"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".zgroup").write_text("{}")
    else:
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"needs the package {module}.*pip install .*\[formats\]'"):
        open_image(tmp_path / name)


def png_of(width: int, height: int) -> bytes:
    """Write an almost empty PNG whose header declares this size."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")


def test_a_picture_that_cannot_be_so_large_is_not_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png_of(60_000, 60_000))
    with pytest.raises(InputError, match=r"60000 x 60000 pixels, more than a PNG of \d+ bytes can contain"):
        open_image(path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_the_size_of_a_picture_is_checked_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / name
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(path)
    monkeypatch.setattr(pictures, "LARGEST_PICTURE_PX", 30 * 40)
    assert open_image(path).size_hw == (30, 40)
    monkeypatch.setattr(pictures, "LARGEST_PICTURE_PX", 30 * 40 - 1)
    for decoder in ("_read_png", "_read_pillow"):
        monkeypatch.delattr(pictures, decoder)
    with pytest.raises(InputError, match=r"has 40 x 30 pixels; expected at most .* Save it as a tiled TIFF"):
        open_image(path)
