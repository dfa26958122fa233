"""Tests of synthetic images in training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.made_data import make_dataset
from training.batches import StepSampler, TrainingSamples, training_loader
from training.data.errors import DataError
from training.data.format import read_split, read_summary
from training.data.synthetic import SYNTHETIC_GROUPS, MadeSamples, made_sample, make_image, write_datasets
from training.recipe import NANO, Recipe, RecipeError

GROUPS = ("yeast_dic", "nuclei_he", "culture_nuclear_cell", "empty_phase")


def files_below(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_a_written_dataset_reads_as_any_other(tmp_path: Path) -> None:
    directories = write_datasets(tmp_path, count=2, groups=GROUPS, seed=5)
    assert [path.name for path in directories] == list(GROUPS)
    assert read_summary(tmp_path / "yeast_dic")["name"] == "synthetic/yeast_dic"
    tiles = read_split(tmp_path, "train")
    assert len(tiles) == 8
    used = {"yeast_dic": {2}, "nuclei_he": {0, 1, 2}, "culture_nuclear_cell": {1, 2}, "empty_phase": {2}}
    for number in range(len(tiles)):
        sample = tiles[number]
        name = sample.record.dataset.removeprefix("synthetic/")
        assert set(np.flatnonzero(sample.image.any(axis=(1, 2)))) == used[name]
        assert sample.record.objects == sample.labels.max()
        assert (sample.labels.max() == 0) == (name == "empty_phase")


def test_the_number_of_workers_does_not_change_a_byte(tmp_path: Path) -> None:
    write_datasets(tmp_path / "one", count=3, groups=["yeast_dic", "bacteria_phase"], seed=1)
    write_datasets(tmp_path / "two", count=3, groups=["yeast_dic", "bacteria_phase"], seed=1, workers=2)
    assert files_below(tmp_path / "one") == files_below(tmp_path / "two")


def test_more_images_leave_the_first_ones_as_they_are(tmp_path: Path) -> None:
    write_datasets(tmp_path / "few", count=1, groups=["dic_round"])
    write_datasets(tmp_path / "more", count=2, groups=["dic_round"])
    few, more = (read_split(tmp_path / name, "train") for name in ("few", "more"))
    np.testing.assert_array_equal(few[0].image, more[0].image)


def test_a_directory_that_exists_and_an_unknown_group_are_refused(tmp_path: Path) -> None:
    (tmp_path / "dic_round").mkdir()
    with pytest.raises(DataError, match="exists"):
        write_datasets(tmp_path, count=1, groups=["dic_round"])
    with pytest.raises(DataError, match="group is 'fish'"):
        write_datasets(tmp_path, count=1, groups=["fish"])


def test_a_sample_keeps_the_labels_of_its_image() -> None:
    sample, made = made_sample("yeast_phase", 11), make_image("yeast_phase", 11)
    assert sample.labels.max() <= made.labels.max()
    assert (sample.labels[made.labels == 0] == 0).all()
    assert (sample.labels > 0).sum() > 0.99 * (made.labels > 0).sum()


def test_groups_are_drawn_by_their_weights() -> None:
    only = MadeSamples({name: float(name == "dic_round") for name in SYNTHETIC_GROUPS})
    rng = np.random.default_rng(0)
    assert {only.draw(rng).record.dataset for _ in range(3)} == {"synthetic/dic_round"}


@pytest.mark.parametrize("weights", [{"fish": 1.0}, None])
def test_weights_that_cannot_be_drawn_are_refused(weights: dict[str, float] | None) -> None:
    with pytest.raises(ValueError, match="group"):
        MadeSamples(weights or dict.fromkeys(SYNTHETIC_GROUPS, 0.0))


def recipe_of(share: float) -> Recipe:
    return replace(NANO, synthetic_share=share, seed=4)


def test_a_recipe_mixes_made_images_in(tmp_path: Path) -> None:
    tiles = read_split(make_dataset(tmp_path), "train")
    plain, none, half, all_made = (TrainingSamples(tiles, recipe_of(share)) for share in (0.0, 0.0, 0.5, 1.0))
    for number in range(3):
        for a, b in zip(plain[number], none[number], strict=True):
            np.testing.assert_array_equal(a, b)
        # A sample depends only on its number, not on earlier draws.
        for a, b in zip(half[number], TrainingSamples(tiles, recipe_of(0.5))[number], strict=True):
            np.testing.assert_array_equal(a, b)
        assert not np.array_equal(plain[number][0], all_made[number][0])


def test_workers_make_the_images_that_one_process_makes(tmp_path: Path) -> None:
    tiles, recipe = read_split(make_dataset(tmp_path), "train"), recipe_of(0.7)
    samples = TrainingSamples(tiles, recipe)
    batches = [list(training_loader(samples, StepSampler(2, 2), workers=workers)) for workers in (0, 2)]
    for alone, shared in zip(*batches, strict=True):
        assert alone.numbers == shared.numbers
        assert torch.equal(alone.pixel_values, shared.pixel_values)
        assert torch.equal(alone.labels, shared.labels)


@pytest.mark.parametrize("changes", [{"synthetic_share": 1.5}, {"synthetic_weights": {"yeast_dic": -1.0}}])
def test_a_recipe_refuses_shares_and_weights_that_make_no_sense(changes: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="synthetic_"):
        replace(NANO, **changes)
