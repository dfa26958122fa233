"""Tests of every group: properties of images and labels, and equal bytes for equal arguments."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from skimage.measure import label

from training.data.errors import DataError
from training.data.records import GROUPS
from training.data.synthetic import SYNTHETIC_GROUPS, MadeImage, make_image

SEEDS = range(4)
NAMES = tuple(SYNTHETIC_GROUPS)
EMPTY = tuple(name for name in NAMES if name.startswith("empty_"))
WITH_CELLS = tuple(name for name in NAMES if name not in EMPTY)


@cache
def made(group: str) -> tuple[MadeImage, ...]:
    return tuple(make_image(group, seed) for seed in SEEDS)


def digest(image: MadeImage) -> str:
    return hashlib.sha256(image.image.tobytes() + image.labels.tobytes()).hexdigest()


@pytest.mark.parametrize("group", NAMES)
def test_the_image_has_the_channels_and_numbers_of_its_group(group: str) -> None:
    shapes = {"whole-cell": (512, 512), "nuclear, whole-cell": (512, 512, 2), "rgb": (512, 512, 3)}
    for item in made(group):
        assert item.group == group
        assert item.kind in GROUPS
        assert item.image.shape == shapes[item.channels]
        assert item.image.dtype in (np.uint8, np.uint16)
        assert item.labels.shape == (512, 512)
        assert item.labels.dtype == np.int32
        assert item.image.std() > 0


@pytest.mark.parametrize("group", NAMES)
def test_labels_are_dense_and_each_is_one_part(group: str) -> None:
    for item in made(group):
        count = int(item.labels.max())
        np.testing.assert_array_equal(np.unique(item.labels[item.labels > 0]), np.arange(1, count + 1))
        assert label(item.labels, background=0, connectivity=2).max() == count


@pytest.mark.parametrize("group", NAMES)
def test_the_number_of_cells_is_in_the_range_of_the_group(group: str) -> None:
    low, high = SYNTHETIC_GROUPS[group].setting.cells
    counts = [int(item.labels.max()) for item in made(group)]
    # A field can be so sparse that all its cells are in the cropped margin.
    assert min(counts) >= min(low, 0 if low == 1 else low)
    assert max(counts) <= high
    assert (max(counts) > 0) == (group in WITH_CELLS)


@pytest.mark.parametrize("group", WITH_CELLS)
def test_the_median_diameter_is_in_the_range_of_the_group(group: str) -> None:
    low, high = SYNTHETIC_GROUPS[group].setting.diameter_px
    for item in made(group):
        areas = np.bincount(item.labels.ravel())[1:]
        if len(areas) == 0:
            assert item.median_diameter_px == 0
            continue
        assert item.median_diameter_px == pytest.approx(2 * np.sqrt(np.median(areas) / np.pi))
        if len(areas) >= 10:  # with fewer, the edge of the image truncates too many
            assert 0.5 * low <= item.median_diameter_px <= 1.5 * high


@pytest.mark.parametrize("group", [n for n in WITH_CELLS if SYNTHETIC_GROUPS[n].contrast in ("bright", "dark")])
def test_cells_of_most_images_are_brighter_or_darker_than_the_ground_as_stated(group: str) -> None:
    sign = 1 if SYNTHETIC_GROUPS[group].contrast == "bright" else -1
    contrasts = []
    for item in made(group):
        gray = item.image.astype(float) if item.image.ndim == 2 else item.image.mean(axis=-1)
        inside = item.labels > 0
        if inside.any():
            contrasts.append(sign * (gray[inside].mean() - gray[~inside].mean()) / gray.std())
    assert np.median(contrasts) > 0.3


@pytest.mark.parametrize("group", [n for n in NAMES if SYNTHETIC_GROUPS[n].contrast == "outline"])
def test_outlines_are_brighter_than_what_they_enclose(group: str) -> None:
    for item in made(group):
        padded = np.pad(item.labels, 1, mode="edge")
        outline = np.zeros(item.labels.shape, bool)
        for dy, dx in ((0, 1), (1, 0), (2, 1), (1, 2)):
            outline |= padded[dy : dy + 512, dx : dx + 512] != item.labels
        assert item.image[outline].mean() > item.image[~outline].mean()


@pytest.mark.parametrize("group", NAMES)
def test_another_seed_makes_another_image(group: str) -> None:
    assert len({digest(item) for item in made(group)}) == len(SEEDS)


IN_ANOTHER_PROCESS = """
import hashlib
from training.data.synthetic import SYNTHETIC_GROUPS, make_image
for group in reversed(SYNTHETIC_GROUPS):
    item = make_image(group, 3)
    print(group, hashlib.sha256(item.image.tobytes() + item.labels.tobytes()).hexdigest())
"""


def test_another_process_in_another_order_makes_equal_bytes() -> None:
    done = subprocess.run([sys.executable, "-c", IN_ANOTHER_PROCESS], capture_output=True, text=True, check=True)
    found = dict(line.split() for line in done.stdout.splitlines())
    assert found == {group: digest(made(group)[3]) for group in NAMES}


def test_other_sizes_are_made() -> None:
    item = make_image("yeast_dic", 1, (96, 200))
    assert item.image.shape == item.labels.shape == (96, 200)


def test_the_prefix_of_dataset_names_is_understood() -> None:
    assert digest(make_image("synthetic/dic_round", 1)) == digest(made("dic_round")[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fish", 0), "group is 'fish'"),
        (("dic_round", -1), "seed is -1"),
        (("dic_round", 0, (32, 512)), r"\(32, 512\)"),
    ],
)
def test_wrong_arguments_are_named(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make_image(*arguments)  # type: ignore[arg-type]
