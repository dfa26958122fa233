"""Tests of reading images and writing labels."""

from __future__ import annotations

import logging
import struct
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from runtime import InputError
from runtime.files.formats import open_image
from runtime.files.plain import read_image, write_labels

DEEP = np.random.default_rng(1).integers(0, 1 << 16, (12, 17, 4)).astype(np.uint16)

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 255, (12, 17), np.uint8)
RGB = RNG.integers(0, 255, (12, 17, 3), np.uint8)


def save(path: Path, array: Any, **options: Any) -> Path:
    if path.suffix in (".tif", ".tiff"):
        tifffile.imwrite(path, array, **options)
    elif path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".tif", ".tiff", ".npy"])
@pytest.mark.parametrize("array", [GREY, RGB])
def test_round_trip(tmp_path: Path, suffix: str, array: Any) -> None:
    options = {"photometric": "rgb"} if suffix.startswith(".tif") and array.ndim == 3 else {}
    path = tmp_path / f"image{suffix.lower()}"
    save(path, array, **options)
    path = path.rename(tmp_path / f"image{suffix}")
    np.testing.assert_array_equal(read_image(path), array)


def test_sixteen_bits_survive(tmp_path: Path) -> None:
    deep = GREY.astype(np.uint16) * 257
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", deep)), deep)
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.tif", deep, compression="lzw")), deep)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bit_pngs_keep_their_depth(tmp_path: Path, channels: int) -> None:
    deep = DEEP[..., :channels].copy()
    if channels in (2, 4):
        deep[..., -1] = 65535
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(deep.squeeze()))
    kept = deep[..., : channels - 1] if channels in (2, 4) else deep
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), kept.squeeze(), strict=True)


def png(path: Path, array: Any, *, depth: int, transparent: bytes = b"") -> Path:
    """Write a gray or RGB PNG by hand, with features that no library writes; ``rows`` contain its bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    width = array.shape[1] * 8 // depth if depth < 8 else array.shape[1]
    header = struct.pack(">IIBBBBB", width, len(array), depth, 0 if array.ndim == 2 else 2, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in array))
    extra = chunk(b"tRNS", transparent) if transparent else b""
    parts = chunk(b"IHDR", header) + extra + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    return path


def test_pngs_of_few_bits(tmp_path: Path) -> None:
    mask = GREY > 100
    np.testing.assert_array_equal(read_image(save(tmp_path / "mask.png", mask)), mask, strict=True)
    packed = np.array([[0b00011011, 0b11100100]], np.uint8)
    np.testing.assert_array_equal(
        read_image(png(tmp_path / "two.png", packed, depth=2)), [[0, 85, 170, 255, 255, 170, 85, 0]]
    )
    np.testing.assert_array_equal(read_image(png(tmp_path / "four.png", packed, depth=4)), [[17, 187, 238, 68]])


def test_a_value_declared_transparent_leaves_the_image_as_it_is(tmp_path: Path) -> None:
    grey = png(tmp_path / "grey.png", GREY, depth=8, transparent=struct.pack(">H", int(GREY[0, 0])))
    np.testing.assert_array_equal(read_image(grey), GREY)
    colour = png(tmp_path / "rgb.png", RGB, depth=8, transparent=struct.pack(">HHH", *map(int, RGB[0, 0])))
    np.testing.assert_array_equal(read_image(colour), RGB)


def test_pictures_are_told_apart_by_content(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.jpg")
    expected = read_image(tmp_path / "a.jpg")
    np.testing.assert_array_equal(read_image((tmp_path / "a.jpg").rename(tmp_path / "a.png")), expected)
    save(tmp_path / "b.png", RGB)
    np.testing.assert_array_equal(read_image((tmp_path / "b.png").rename(tmp_path / "b.jpg")), RGB)


def test_cmyk_jpegs_become_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (20, 10), (255, 0, 0, 0)).save(tmp_path / "a.jpg")
    image = read_image(tmp_path / "a.jpg")
    assert image.shape == (10, 20, 3)
    assert image[5, 5, 0] < 10 < 240 < image[5, 5, 1]


def test_images_larger_than_pillow_trusts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow rejects images of twice its limit. The limit itself must be restored."""
    picture = Image.fromarray(RGB)
    picture.save(tmp_path / "a.jpg")
    picture.save(tmp_path / "b.png")
    picture.quantize(16).save(tmp_path / "palette.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    for path in tmp_path.iterdir():
        assert read_image(path).shape == RGB.shape
    assert Image.MAX_IMAGE_PIXELS == 50


def test_opaque_alpha_is_left_out_and_transparency_refused(tmp_path: Path) -> None:
    alpha = np.full((12, 17, 1), 255, np.uint8)
    opaque = np.concatenate((RGB, alpha), -1)
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", opaque)), RGB)
    tiff = save(tmp_path / "a.tif", opaque, photometric="rgb", extrasamples=["unassalpha"])
    np.testing.assert_array_equal(read_image(tiff), RGB)
    opaque[3, 3, 3] = 7
    with pytest.raises(InputError, match="transparent"):
        read_image(save(tmp_path / "b.png", opaque))


def test_palettes_are_resolved_to_colours(tmp_path: Path) -> None:
    picture = Image.fromarray(RGB).quantize(16)
    picture.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_image(tmp_path / "p.png"), np.asarray(picture.convert("RGB")))


def test_channels_first_tiffs(tmp_path: Path) -> None:
    planes = np.moveaxis(RGB, -1, 0)
    for options in ({"metadata": {"axes": "CYX"}, "imagej": True}, {"metadata": {"axes": "CYX"}, "ome": True}, {}):
        path = save(tmp_path / "c.tif", np.ascontiguousarray(planes), photometric="minisblack", **options)
        np.testing.assert_array_equal(read_image(path), RGB)


def test_gray_with_opaque_alpha_is_gray(tmp_path: Path) -> None:
    opaque = np.stack((GREY, np.full_like(GREY, 255)), -1)
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.png", opaque)), GREY)
    tiff = save(
        tmp_path / "a.tif", opaque, photometric="minisblack", planarconfig="contig", extrasamples=["assocalpha"]
    )
    np.testing.assert_array_equal(read_image(tiff), GREY)


@pytest.mark.parametrize("channels", [2, 4])
@pytest.mark.parametrize("last", [1, 255, 7])
@pytest.mark.parametrize("planar", [False, True])
def test_further_tiff_channels_are_no_alpha(tmp_path: Path, channels: int, last: int, planar: bool) -> None:
    image = DEEP[..., :channels].astype(np.uint8)
    image[..., -1] = last
    path = save(
        tmp_path / "a.tif",
        np.moveaxis(image, -1, 0).copy() if planar else image,
        photometric="minisblack",
        planarconfig="separate" if planar else "contig",
    )
    np.testing.assert_array_equal(read_image(path), image)


def test_planar_rgba_tiffs(tmp_path: Path) -> None:
    planes = np.concatenate((np.moveaxis(RGB, -1, 0), np.full((1, 12, 17), 255, np.uint8)))
    options = {"photometric": "rgb", "planarconfig": "separate", "extrasamples": ["unassalpha"]}
    np.testing.assert_array_equal(read_image(save(tmp_path / "a.tif", planes, **options)), RGB)
    planes[3, 4, 4] = 9
    with pytest.raises(InputError, match="transparent"):
        read_image(save(tmp_path / "b.tif", planes, **options))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_palettes_are_resolved_to_colours(tmp_path: Path, dtype: Any) -> None:
    colours = RNG.integers(0, 256, (3, 256)).astype(np.uint16) * 257
    if dtype is np.uint16:
        colours[0, 0] = 1000
    path = save(tmp_path / "a.tif", GREY, photometric="palette", colormap=colours)
    expected = (colours if dtype is np.uint16 else colours // 257).astype(dtype).T[GREY]
    np.testing.assert_array_equal(read_image(path), expected, strict=True)


@pytest.mark.parametrize("options", [{}, {"metadata": None}])
def test_pages_taken_as_channels_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, options: dict[str, Any]
) -> None:
    path = save(tmp_path / "pages.tif", np.moveaxis(RGB, -1, 0).copy(), photometric="minisblack", **options)
    with caplog.at_level(logging.WARNING, "runtime.files.plain"):
        np.testing.assert_array_equal(read_image(path), RGB)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(path) in caplog.text
    assert "taken as channels" in caplog.text
    caplog.clear()
    read_image(path)
    assert caplog.records == [], "one warning"
    named = save(tmp_path / "c.tif", np.moveaxis(RGB, -1, 0).copy(), photometric="minisblack", metadata={"axes": "CYX"})
    read_image(named)
    assert caplog.records == []


@pytest.mark.parametrize("shape", [(4, 12, 17), (2, 3, 12, 17)])
def test_stacks_are_refused_by_name_and_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = save(tmp_path / "z.tif", np.zeros(shape, np.uint8), photometric="minisblack")
    with pytest.raises(InputError, match="expected one plane"):
        read_image(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"x", "type '.txt'; expected one of .png"),
        ("a", b"x", "type 'none'"),
        ("a.png", b"", "0 bytes"),
        ("a.png", b"not a picture", "cannot be read"),
        ("a.tif", b"II*\0garbage", "contains no image"),
        ("a.npy", b"\x93NUMPY", "cannot be read"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_image(path)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.npy"])
def test_a_file_that_may_not_be_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / name).write_bytes(b"x")

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", name)

    for opener in ("builtins.open", "io.open", "tifffile.TiffFile"):
        monkeypatch.setattr(opener, refuse)
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\); check its permissions"):
        read_image(tmp_path / name)


def test_pickled_arrays_are_not_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "o.npy", np.array([{"a": 1}], object))
    with pytest.raises(InputError, match="cannot be read"):
        read_image(tmp_path / "o.npy")


@pytest.mark.parametrize(("highest", "dtype"), [(0, np.uint16), (65535, np.uint16), (65536, np.uint32)])
def test_label_files(tmp_path: Path, highest: int, dtype: Any) -> None:
    labels = np.zeros((30, 40), np.int32)
    labels[5, 6] = highest
    write_labels(tmp_path / "labels.tif", labels)
    back = tifffile.imread(tmp_path / "labels.tif")
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, labels)
    assert [path.name for path in tmp_path.iterdir()] == ["labels.tif"]


@pytest.mark.parametrize("highest", [3, 70000])
def test_label_files_hold_the_pixel_size(tmp_path: Path, highest: int) -> None:
    labels = np.full((30, 40), highest, np.int32)
    write_labels(tmp_path / "um.tif", labels, 0.325)
    write_labels(tmp_path / "none.tif", labels)
    with tifffile.TiffFile(tmp_path / "um.tif") as tiff:
        tags = tiff.pages[0].tags
        assert tags.valueof("ResolutionUnit") == tifffile.RESUNIT.CENTIMETER
        for name in ("XResolution", "YResolution"):
            above, below = tags.valueof(name)
            assert 1e4 / (above / below) == pytest.approx(0.325)
        np.testing.assert_array_equal(tiff.asarray(), labels)
    for name, size in (("um.tif", pytest.approx(0.325)), ("none.tif", None)):
        with open_image(tmp_path / name) as reader:
            assert reader.pixel_size_um == size


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "labels.tif"
    write_labels(path, np.ones((4, 4), np.int32))

    def full(temporary: Path, *_: Any, **__: Any) -> None:
        Path(temporary).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tifffile, "imwrite", full)
    with pytest.raises(OSError, match="No space"):
        write_labels(path, np.zeros((4, 4), np.int32))
    assert tifffile.imread(path).max() == 1
    assert [p.name for p in tmp_path.iterdir()] == ["labels.tif"]
