"""Tests of the pictures of a segmentation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime import InputError
from runtime.files.outputs.overlay import draw_overlay, write_overlay

LABELS = np.zeros((600, 500), np.int32)
LABELS[100:140, 100:140] = 1
LABELS[100:140, 140:180] = 2


@pytest.mark.parametrize("channels", [(), (1,), (2,), (3,)])
def test_outlines_lie_on_the_cells_borders(channels: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 4000, (600, 500, *channels)).astype(np.uint16)
    plain, drawn = draw_overlay(image, np.zeros_like(LABELS)), draw_overlay(image, LABELS)
    assert drawn.shape == (600, 500, 3)
    changed = (plain != drawn).any(-1)
    assert not changed[LABELS == 0].any()
    first, second = drawn[100, 110], drawn[100, 170]
    assert (drawn[100, 101:139] == first).all()
    assert (drawn[100:140, 179] == second).all()
    assert np.abs(first.astype(int) - second).max() > 60  # touching cells have different colours


def test_gray_stays_gray_and_a_flat_image_is_drawn() -> None:
    flat = draw_overlay(np.full((600, 500), 7, np.uint8), np.zeros_like(LABELS))
    assert (flat == flat[..., :1]).all()


def test_stained_tissue_keeps_its_colours() -> None:
    tissue = np.full((600, 500, 3), (240, 230, 235), np.uint8)
    tissue[50:90, 50:90] = (120, 60, 140)
    np.testing.assert_array_equal(draw_overlay(tissue, np.zeros_like(LABELS)), tissue)


def test_small_images_are_enlarged(tmp_path: Path) -> None:
    labels = np.zeros((100, 120), np.int32)
    labels[10:20, 10:20] = 3
    write_overlay(tmp_path / "picture.png", np.zeros((100, 120)), labels)
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size == (480, 400)
    assert [path.name for path in tmp_path.iterdir()] == ["picture.png"]


def test_large_images_are_shrunk() -> None:
    """Pictures have at most 4096 pixels a side, with the gray levels of the image."""
    image = np.tile(np.arange(8193) % 2 * 100, (20, 1)).astype(np.uint8)
    labels = np.zeros(image.shape, np.int32)
    labels[:, 3000:6000] = 1
    drawn = draw_overlay(np.stack([image] * 3, axis=-1), labels)
    assert drawn.shape == (7, 2731, 3)
    coloured = drawn.max(axis=2) != drawn.min(axis=2)
    np.testing.assert_array_equal(coloured, labels[::3, ::3] > 0)
    assert set(np.unique(drawn[0, :999])) == {33, 67}


def test_labels_of_another_size_are_refused() -> None:
    with pytest.raises(InputError, match=r"labels have shape \(600, 500\); expected \(10, 10\)"):
        draw_overlay(np.zeros((10, 10)), LABELS)
