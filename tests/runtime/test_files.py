"""Reading and writing files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from runtime import InputError
from runtime.files import read_image, write_labels

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
        ("a.tif", b"II*\0garbage", "holds no image"),
        ("a.npy", b"\x93NUMPY", "cannot be read"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_image(path)


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
