"""Tests of the choice of channels for the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

from runtime import InputError
from runtime.commands.app import app
from runtime.files.formats import choose_channels, open_image, without_copies

NAMES = ["DAPI", "CD3", "CD8", "PanCK", "2", "cd3"]
PLANES = np.random.default_rng(0).integers(0, 1 << 16, (6, 20, 30)).astype(np.uint16)


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """Reader of six channels: one has a number as its name, two have names that differ in case."""
    metadata = {"axes": "CYX", "Channel": {"Name": NAMES}}
    tifffile.imwrite(tmp_path / "many.ome.tif", PLANES, photometric="minisblack", metadata=metadata)
    return tmp_path / "many.ome.tif"


@pytest.mark.parametrize(
    ("nuclear", "membrane", "expected"),
    [
        ("DAPI", "PanCK", (0, 3)),
        ("dapi", " panck", (0, 3)),
        ("CD3", "cd3", (1, 5)),
        (0, 3, (0, 3)),
        ("0", "3", (0, 3)),
        ("2", 2, (4, 2)),
        ("CD8", None, (2,)),
        (None, 5, (5,)),
        ("PanCK", "DAPI", (3, 0)),
    ],
)
def test_channels_by_name_and_number(many: Path, nuclear: Any, membrane: Any, expected: tuple[int, ...]) -> None:
    with open_image(many) as reader:
        chosen = choose_channels(reader, nuclear=nuclear, membrane=membrane)
        assert chosen.channels == tuple(NAMES[place] for place in expected)
        assert (chosen.size_hw, chosen.name, chosen.dtype) == ((20, 30), str(many), np.uint16)
        np.testing.assert_array_equal(chosen.read(2, 3, 7, 8), np.moveaxis(PLANES[list(expected), 2:9, 3:11], 0, -1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nuclear": "DAPI2"}, r"no channel 'DAPI2'; it has 6 channels: 0 \(DAPI\), 1 \(CD3\)"),
        ({"membrane": 6}, r"no channel 6; it has 6 channels"),
        ({"membrane": "-1"}, r"no channel '-1'"),
        ({"nuclear": "Cd3"}, r"several channels 'Cd3'"),
        ({"nuclear": "DAPI", "membrane": 0}, r"channel 0 \(DAPI\) is chosen as nuclear and as membrane"),
        ({}, r"6 channels: 0 \(DAPI\).*5 \(cd3\); expected at most three. Choose with nuclear= and membrane="),
        ({"rgb": True}, r"6 channels.*expected three, red, green and blue"),
        ({"rgb": True, "nuclear": 0}, "expected one of the two"),
    ],
)
def test_wrong_choices_list_the_channels(many: Path, options: dict[str, Any], message: str) -> None:
    with open_image(many) as reader, pytest.raises(InputError, match=message):
        choose_channels(reader, **options)


def test_one_channel_needs_no_choice(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PLANES[0])
    with open_image(tmp_path / "a.tif") as reader:
        with pytest.raises(InputError, match="no channel 1; it has one channel; leave membrane= out"):
            choose_channels(reader, membrane=1)
        with pytest.raises(InputError, match="has one channel; expected three"):
            choose_channels(reader, rgb=True)


def test_few_channels_are_taken_as_they_are(tmp_path: Path) -> None:
    for count in (1, 2, 3):
        tifffile.imwrite(tmp_path / "a.tif", PLANES[:count], photometric="minisblack", metadata={"axes": "CYX"})
        with open_image(tmp_path / "a.tif") as reader:
            chosen = choose_channels(reader)
            assert chosen.channels == tuple(map(str, range(count)))
            np.testing.assert_array_equal(chosen.read(0, 0, 20, 30), np.moveaxis(PLANES[:count], 0, -1))


def test_colours_stay_together_unless_one_is_chosen(tmp_path: Path) -> None:
    image = PLANES[:3].astype(np.uint8).transpose(1, 2, 0)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb")
    with open_image(tmp_path / "a.tif") as reader:
        for rgb in (True, False):
            np.testing.assert_array_equal(choose_channels(reader, rgb=rgb).read(0, 0, 20, 30), image)
        assert choose_channels(reader, nuclear="blue").channels == ("blue",)


def test_any_reader_will_do() -> None:
    class Memory:
        """A different implementation of ``ImageReader``."""

        name, size_hw, dtype, channels, pixel_size_um = "memory", (20, 30), PLANES.dtype, tuple("abcdef"), 0.5

        def read(self, top: int, left: int, height: int, width: int) -> Any:
            return np.moveaxis(PLANES[:, top : top + height, left : left + width], 0, -1)

    chosen = choose_channels(Memory(), nuclear="f", membrane="b")
    np.testing.assert_array_equal(chosen.read(1, 1, 3, 4), np.moveaxis(PLANES[[5, 1], 1:4, 1:5], 0, -1))
    assert chosen.pixel_size_um == 0.5


def test_gray_images_saved_in_colour_are_gray() -> None:
    gray = np.random.default_rng(0).integers(0, 255, (20, 30), dtype=np.uint8)
    empty = np.full_like(gray, 7)
    jpeg = np.clip(gray.astype(int) + np.random.default_rng(1).integers(-1, 2, gray.shape), 0, 255).astype(np.uint8)
    for planes in ((gray, gray, gray), (jpeg, gray, gray), (empty, gray, empty), (gray, empty, empty)):
        found = without_copies(np.stack(planes, -1))
        assert found.shape == (20, 30, 1)
        np.testing.assert_array_equal(found[..., 0], gray)
    for planes in ((gray, gray[::-1], gray), (gray, gray, empty)):
        image = np.stack(planes, -1)
        assert without_copies(image) is image
    wide = np.stack([gray, gray, jpeg], -1).astype(np.uint16)
    assert without_copies(wide) is wide, "JPEG has no 16-bit images"
    assert without_copies(np.stack([empty] * 3, -1)).shape == (20, 30, 1)


@pytest.mark.parametrize(("options", "channels"), [([], 1), (["--rgb"], 3), (["--nuclear", "red"], 1)])
def test_a_gray_picture_in_colour_on_the_command_line(
    tmp_path: Path, seen: list[Any], options: list[str], channels: int
) -> None:
    gray = np.zeros((20, 30), np.uint8)
    gray[5:15, 5:15] = 200
    Image.fromarray(np.stack([gray] * 3, -1)).save(tmp_path / "a.png")
    done = CliRunner().invoke(app, ["segment", str(tmp_path / "a.png"), "--out", str(tmp_path / "out"), *options])
    assert done.exit_code == 0, done.output
    assert seen[0].shape == (20, 30, channels)
