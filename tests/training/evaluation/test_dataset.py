"""Tests of both layouts of evaluation data, and of missing files."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import InputError, SegmenterError
from runtime.ops.preprocess import normalize_contrast
from tests.training.evaluation.made import bright_image, discs, row_of_squares, write_pair, write_tile
from training.evaluation.dataset import find_samples, read_sample, select

MODALITY = {"n": "fluorescence nuclei", "h": "H&E / purple-stained histology nuclei (colour)", "p": "phase contrast"}


def write_manifest(root: Path, rows: list[tuple[str, str, str, str]]) -> None:
    with (root / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["split", "dataset", "id", "img", "mask", "modality"])
        for split, dataset, name, modality in rows:
            stem = f"{split}/{dataset}/{name}"
            writer.writerow([split, dataset, name, f"{stem}_img.png", f"{stem}_mask.png", modality])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Write a mixed dataset and a plain one, with the manifest beside the folder of the split."""
    for dataset, name in (("dsb2018", "a"), ("dsb2018", "b"), ("usiigaci_phase", "c")):
        write_pair(tmp_path / "test" / dataset, name, row_of_squares(2))
    rows = [("test", "dsb2018", "a", MODALITY["h"]), ("test", "dsb2018", "b", MODALITY["n"])]
    write_manifest(tmp_path, [*rows, ("test", "usiigaci_phase", "c", MODALITY["p"])])
    return tmp_path / "test"


def test_a_mixed_dataset_is_split_by_modality(root: Path) -> None:
    found = [(s.id, s.dataset, s.subset, s.group) for s in find_samples(root)]
    assert found == [
        ("a", "dsb2018", "dsb2018 histology", "Nuclear"),
        ("b", "dsb2018", "dsb2018 fluorescence", "Nuclear"),
        ("c", "usiigaci_phase", "usiigaci_phase", "Cell Culture"),
    ]


def test_without_a_manifest_folders_name_the_datasets(root: Path) -> None:
    (root.parent / "manifest.csv").unlink()
    write_pair(root / "unheard", "d", row_of_squares(1))
    assert {(s.subset, s.group) for s in find_samples(root)} == {
        ("dsb2018", "Nuclear"),
        ("usiigaci_phase", "Cell Culture"),
        ("unheard", "Other"),
    }


def test_sixteen_bit_masks_and_images_are_read(root: Path) -> None:
    labels = discs() * 300
    write_pair(root / "usiigaci_phase", "c", labels)
    image, truth = read_sample(find_samples(root)[-1])
    assert (image.dtype, image.shape) == (np.uint8, (64, 64))
    np.testing.assert_array_equal(truth, labels)
    assert truth.dtype == np.int32


def test_tiles_are_read_without_their_padding(tmp_path: Path) -> None:
    image, labels = bright_image(discs()), discs()
    out = write_tile(tmp_path / "built", "t1", image, labels)
    for base in (out, tmp_path):  # the dataset itself, or the folder of all datasets
        (sample,) = find_samples(base)
        assert (sample.id, sample.dataset, sample.subset, sample.group) == ("t1", "yeaz", "yeaz", "Yeast")
        tile, truth = read_sample(sample)
        np.testing.assert_array_equal(tile, normalize_contrast(image))
        np.testing.assert_array_equal(truth, labels)
    with pytest.raises(InputError, match="contains no samples"):
        find_samples(out, split="val")
    with pytest.raises(SegmenterError, match="split is 'everything'"):
        find_samples(out, split="everything")


def test_selecting_by_dataset_or_subset(root: Path) -> None:
    samples = find_samples(root)
    assert [s.id for s in select(samples, ["dsb2018"])] == ["a", "b"]
    assert [s.id for s in select(samples, ["dsb2018 histology", "usiigaci_phase"])] == ["a", "c"]
    assert select(samples, []) == samples
    with pytest.raises(InputError, match="no image belongs to livecell; expected some of dsb2018"):
        select(samples, ["livecell"])


def test_missing_things_are_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a directory"):
        find_samples(tmp_path / "nowhere")
    (root / "dsb2018" / "a_mask.png").unlink()
    with pytest.raises(InputError, match=r"a_img\.png has no true labels"):
        find_samples(root)
    (root / "dsb2018" / "a_img.png").unlink()
    with pytest.raises(InputError, match=r"line 2, lists test/dsb2018/a_img\.png, which is missing"):
        find_samples(root)


def test_sizes_must_agree(root: Path) -> None:
    (root / "dsb2018" / "a_mask.png").write_bytes((write_other(root) / "z_mask.png").read_bytes())
    with pytest.raises(InputError, match=r"a_mask\.png has shape \(64, 64\)"):
        read_sample(find_samples(root)[0])


def write_other(root: Path) -> Path:
    return write_pair(root.parent / "other", "z", discs()).parent


def test_damaged_descriptions_are_named(root: Path, tmp_path: Path) -> None:
    write_manifest(tmp_path, [("test", "dsb2018", "a", "")])
    with pytest.raises(InputError, match="line 2, has no modality"):
        find_samples(root)
    (root / "dataset.json").write_text("{}")
    with pytest.raises(SegmenterError, match="Build it again"):
        find_samples(root)
