"""Tests of the classical segmenter on synthetic images, and of the choice of its parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from runtime.errors import ConfigError, InputError
from tests.training.evaluation.made import bright_image, discs
from training.evaluation.baseline import BaselineConfig, segment_classical, segment_each
from training.evaluation.metrics import f1_at
from training.evaluation.tuning import BaselineGrid, tune

SMALL_GRID = BaselineGrid(
    smoothing_px=(1.0,),
    threshold_scale=(1.0,),
    seed_smoothing_px=(1.0,),
    seed_distance_px=(4, 8),
    min_area_px=(20,),
)


def stained_image() -> np.ndarray[Any, Any]:
    """Return purple cells on a light background."""
    image = np.full((64, 64, 3), 235, np.uint8)
    image[discs() > 0] = (110, 60, 150)
    return image


def textured_image() -> np.ndarray[Any, Any]:
    """Return rough cells that are as bright as the background on average."""
    rng = np.random.default_rng(3)
    return (128 + rng.normal(0, 1, (64, 64)) + rng.normal(0, 30, (64, 64)) * (discs() > 0)).astype(np.float32)


def test_separate_and_touching_cells_are_found() -> None:
    truth = discs()
    labels = segment_classical(bright_image(truth), BaselineConfig())
    assert labels.dtype == np.int32
    assert f1_at(truth, labels, [0.9]) == {"0.9": 1.0}


@pytest.mark.parametrize(
    ("image", "config", "iou"),
    [
        (255 - bright_image(discs()), BaselineConfig(dark=True), 0.9),
        (stained_image(), BaselineConfig(channel="hematoxylin"), 0.8),
        (stained_image(), BaselineConfig(dark=True), 0.9),
        (textured_image(), BaselineConfig(channel="texture", seed_smoothing_px=2.0, seed_distance_px=8), 0.6),
        (bright_image(discs()), BaselineConfig(threshold="local", threshold_scale=0.5), 0.8),
    ],
)
def test_each_kind_of_image_has_its_settings(image: Any, config: BaselineConfig, iou: float) -> None:
    assert list(f1_at(discs(), segment_classical(image, config), [iou]).values()) == [1.0]


def test_local_threshold_copes_with_uneven_light() -> None:
    ramp = np.linspace(0, 200, 64, dtype=np.float32)[None]
    image = bright_image(discs()).astype(np.float32) / 4 + ramp
    local = segment_classical(image, BaselineConfig(threshold="local", threshold_scale=0.05, local_window_px=12.0))
    assert (
        f1_at(discs(), local, [0.6])["0.6"] > f1_at(discs(), segment_classical(image, BaselineConfig()), [0.6])["0.6"]
    )


def test_holes_are_filled_and_small_objects_dropped() -> None:
    image = bright_image(discs())
    image[12, 12] = 30
    image[30, 30:32] = 255
    labels = segment_classical(image, BaselineConfig(smoothing_px=0.0))
    assert labels[12, 12] > 0
    assert labels[30, 30] == 0
    assert labels.max() == 5


def test_no_cells_is_a_result() -> None:
    assert not segment_classical(np.full((20, 30), 7, np.uint8), BaselineConfig()).any()


@settings(max_examples=25)
@given(hnp.arrays(np.uint8, (16, 18)))
def test_labels_are_dense_and_large_enough(image: Any) -> None:
    labels = segment_classical(image, BaselineConfig(min_area_px=5))
    areas = np.bincount(labels.ravel())[1:]
    assert labels.shape == image.shape
    assert (areas >= 5).all()


def test_shared_steps_change_nothing() -> None:
    image = bright_image(discs())
    configs = list(SMALL_GRID.configs(colour=False))
    for config, labels in zip(configs, segment_each(image, configs), strict=True):
        np.testing.assert_array_equal(labels, segment_classical(image, config))


def test_tuning_finds_settings_that_work() -> None:
    truth = discs()
    images = [255 - bright_image(truth, seed) for seed in range(5)]
    found = tune(images, [truth] * 5, SMALL_GRID, first_round=2)
    assert found.config.dark
    assert found.counts.f1 == 1.0
    assert (found.images, found.counts.tp) == (5, 25)
    assert found.tried == len(list(SMALL_GRID.configs(colour=False)))
    assert tune(images, [truth] * 5, SMALL_GRID, first_round=2) == found


def test_stain_separation_is_tried_on_colour_images_only() -> None:
    assert {c.channel for c in SMALL_GRID.configs(colour=False)} == {"intensity", "texture"}
    assert {c.channel for c in SMALL_GRID.configs(colour=True)} == {"intensity", "texture", "hematoxylin"}
    gray = np.repeat(bright_image(discs())[..., None], 3, axis=2)
    only_stain = BaselineGrid(channel=("hematoxylin", "intensity"), min_area_px=(20,), seed_distance_px=(8,))
    assert tune([gray], [discs()], only_stain).config.channel == "intensity"


def test_every_grid_entry_is_a_different_recipe() -> None:
    configs = list(BaselineGrid().configs(colour=True))
    assert len(set(configs)) == len(configs)
    assert not any(c.dark for c in configs if c.channel != "intensity")


def test_wrong_settings_and_inputs_are_named() -> None:
    with pytest.raises(ConfigError, match="channel is 'red'"):
        BaselineConfig(channel="red")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="seed_distance_px is 0"):
        BaselineConfig(seed_distance_px=0)
    with pytest.raises(ConfigError, match="smoothing_px is -1"):
        BaselineConfig(smoothing_px=-1.0)
    with pytest.raises(InputError, match="needs an RGB image"):
        segment_classical(np.zeros((8, 8), np.uint8), BaselineConfig(channel="hematoxylin"))
    with pytest.raises(InputError, match="1 images and 0 label maps"):
        tune([bright_image(discs())], [])
