"""Tests of each builder on a tiny source in the published layout of its dataset, up to the tiles."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.data import sources
from training.data import DATASETS, DataError, build_dataset, find_datasets, read_split
from training.data.builders import layout_of
from training.data.builders.brifiseg import nuclei_of_classes
from training.data.records import SPLITS, SourceDataset, TileRecord
from training.data.tiles import filter_labels, normalize_field

PUBLISHED = {
    # images in train, val and test
    "tissuenet": (3, 1, 2),
    "deepbacs": (3, 0, 2),
    "brifiseg": (2, 0, 1),
    "cellpose": (3, 0, 1),
    "omnipose": (2, 0, 1),
    "phase400": (2, 1, 1),
    "livecell": (1, 1, 1),
}
GROUP = {
    "tissuenet": "Tissue",
    "deepbacs": "Bacteria",
    "omnipose": "Bacteria",
    "yeastnet": "Yeast",
    "yeaz": "Yeast",
    "dsb2018": "Nuclear",
    "brifiseg": "Cell Culture",
    "cellpose": "Cell Culture",
    "phase400": "Cell Culture",
    "livecell": "Cell Culture",
}


def find_one(name: Any, root: Path) -> SourceDataset:
    getattr(sources, name)(root)
    (dataset,) = find_datasets(name, root)
    assert dataset.name == name
    assert dataset.skipped == ()
    return dataset


def build(name: Any, root: Path) -> tuple[dict[str, list[TileRecord]], Path]:
    dataset = find_one(name, root)
    report = build_dataset(dataset, root / "out")
    assert report.skipped == ()
    return {split: list(read_split(root / "out", split).records) for split in SPLITS}, root / "out"


def test_every_dataset_of_the_paper_has_a_builder() -> None:
    assert {*GROUP, "folder"} == set(DATASETS)
    assert all(len(layout_of(name)) > 100 for name in DATASETS)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_splits_are_kept(name: str, tmp_path: Path) -> None:
    records, out = build(name, tmp_path)
    images = tuple(len({record.image_id for record in records[split]}) for split in SPLITS)
    assert images == PUBLISHED[name]
    assert {record.group for tiles in records.values() for record in tiles} == {GROUP[name]}
    sample = read_split(out, "train")[0]
    assert sample.image[2].any()
    assert not sample.image[0].any()
    assert sample.labels.max() > 0


@pytest.mark.parametrize("name", DATASETS)
def test_an_empty_directory_is_refused_with_the_expected_layout(name: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected .+"):
        find_datasets(name, tmp_path)
    with pytest.raises(DataError, match="not a directory"):
        find_datasets(name, tmp_path / "absent")


def test_tissuenet_has_nuclei_in_green_and_whole_cell_labels(tmp_path: Path) -> None:
    records, out = build("tissuenet", tmp_path)
    image, labels = sources.scene(1)
    position = [record.image_id for record in records["train"]].index("train/00001")
    sample = read_split(out, "train")[position]
    expected = normalize_field(np.stack((image[::-1], image), -1).astype(np.float32))
    np.testing.assert_array_equal(sample.image[:, :60, :72], expected)
    np.testing.assert_array_equal(sample.labels[:60, :72], filter_labels(labels))


def test_tissuenet_versions_are_not_mixed(tmp_path: Path) -> None:
    sources.tissuenet(tmp_path)
    (tmp_path / "tissuenet_v1.0_train.npz").write_bytes((tmp_path / "tissuenet_v1.1_train.npz").read_bytes())
    with pytest.raises(DataError, match=r"v1\.0 and v1\.1"):
        find_datasets("tissuenet", tmp_path)


def test_a_cut_off_npz_is_named_and_the_other_splits_are_built(tmp_path: Path) -> None:
    sources.tissuenet(tmp_path)
    path = tmp_path / "tissuenet_v1.1_val.npz"
    path.write_bytes(path.read_bytes()[:500])
    (dataset,) = find_datasets("tissuenet", tmp_path)
    report = build_dataset(dataset, tmp_path / "out")
    assert [problem.file for problem in report.skipped] == [path.name]
    assert report.images == {"train": 3, "val": 0, "test": 2}


def test_deepbacs_leaves_out_patches_and_binary_masks(tmp_path: Path) -> None:
    ids = [field.image_id for field in find_one("deepbacs", tmp_path).fields]
    assert len(ids) == 5
    assert not [name for name in ids if "patches" in name]
    assert "ecoli/train/brightfield/pos1/pos1" not in ids


def test_brifiseg_borders_part_touching_nuclei() -> None:
    classes = np.zeros((30, 40), np.float32)
    classes[5:15, 5:30] = 2
    classes[7:13, 7:16] = classes[7:13, 19:28] = 1
    classes[20:22, 5:9] = 2  # too thin to have a centre
    labels = nuclei_of_classes(classes)
    assert len(np.unique(labels)) == 4
    np.testing.assert_array_equal(labels > 0, classes > 0)
    assert len({labels[10, 10], labels[10, 25], labels[20, 6]}) == 3
    assert labels[10, 15] == labels[10, 10]
    full = nuclei_of_classes((classes > 0).astype(np.float32))
    assert len(np.unique(full)) == 3


def test_cellpose_red_is_nuclear_and_green_the_cell(tmp_path: Path) -> None:
    _, out = build("cellpose", tmp_path)
    tiles = read_split(out, "train")
    samples = {record.image_id: tiles[i] for i, record in enumerate(tiles.records)}
    image, _ = sources.scene(0)
    expected = normalize_field(np.stack((image[::-1], image), -1))
    np.testing.assert_array_equal(samples["train/000"].image[:, :60, :72], expected)
    assert not samples["train/001"].image[1].any()  # gray


def test_omnipose_leaves_out_worms_and_flows(tmp_path: Path) -> None:
    ids = [field.image_id for field in find_one("omnipose", tmp_path).fields]
    assert sorted(ids) == [
        "bact_fluor/train_sorted/vibrio/c",
        "bact_phase/test_sorted/caulo/b",
        "bact_phase/train_sorted/caulo/a",
    ]


def test_yeastnet_keeps_focal_planes_and_neighbouring_times_together(tmp_path: Path) -> None:
    fields = {field.image_id: field for field in find_one("yeastnet", tmp_path).fields}
    assert len(fields) == 17
    sets = {name: field.object_set for name, field in fields.items()}
    assert len({sets[f"DSDataset/{i}"] for i in ("000", "051", "102", "001")}) == 1
    assert len({sets[f"DSDataset/{i}"] for i in ("050", "101", "152")}) == 1
    assert len({sets[name] for name in sets if name.startswith("YIT")}) == 10
    records, _ = build("yeastnet", tmp_path)
    split_of = {record.image_id: split for split in SPLITS for record in records[split]}
    assert len({split_of[f"DSDataset/{i}"] for i in ("000", "051", "102")}) == 1
    assert all(records[split] for split in SPLITS)


def test_yeaz_keeps_stacks_and_exposures_together(tmp_path: Path) -> None:
    records, _ = build("yeaz", tmp_path)
    placed = {record.image_id: (split, record.object_set) for split in SPLITS for record in records[split]}
    assert len(placed) == 8
    assert len({placed[f"gold-standard-PhC-plus-2/wt/t000{t}"] for t in range(3)}) == 1
    assert len({placed[f"gold-standard-BF-V-1/BF_{exposure}"] for exposure in (1, 5)}) == 1
    assert len({object_set for _, object_set in placed.values()}) == 3
    assert {split for split, _ in placed.values()} == set(SPLITS)


def test_yeaz_stacks_that_do_not_fit_or_are_damaged_are_named(tmp_path: Path) -> None:
    sources.yeaz(tmp_path)
    directory = tmp_path / "gold-standard-PhC-plus-2"
    sources.save(directory / "wt_mask.tif", np.zeros((2, 60, 72), np.uint16))
    (directory / "clb_im.tif").write_bytes(b"II*\0 broken")
    (dataset,) = find_datasets("yeaz", tmp_path)
    reasons = {problem.file.split("/")[1]: problem.reason for problem in dataset.skipped}
    assert "3 frames and its mask 2" in reasons["wt_im.tif"]
    assert "clb_im.tif cannot be read" in reasons["clb_im.tif"]
    assert len(dataset.fields) == 2


def test_dsb2018_merges_masks_and_keeps_neighbours_together(tmp_path: Path) -> None:
    dataset = find_one("dsb2018", tmp_path)
    image, labels = sources.scene(3)
    field = dataset.fields[5]  # two halves, then the scenes 0, 1, ...
    np.testing.assert_array_equal(field.read_channels(), image)
    np.testing.assert_array_equal(field.read_labels() > 0, labels > 0)
    assert len(np.unique(field.read_labels())) == len(np.unique(labels))
    assert dataset.fields[9].read_channels().ndim == 2  # coloured
    build_dataset(dataset, tmp_path / "out")
    records = [record for split in SPLITS for record in read_split(tmp_path / "out", split).records]
    assert len(records) == 10
    halves = [record.object_set for record in records if int(record.image_id, 16) < 2]
    assert halves[0] == halves[1]
    assert Counter(record.object_set for record in records).most_common(1)[0][1] == 2


def test_dsb2018_names_images_without_masks_and_uneven_masks(tmp_path: Path) -> None:
    sources.dsb2018(tmp_path)
    directories = sorted((tmp_path / "stage1_train").iterdir())
    for path in (directories[4] / "masks").iterdir():
        path.unlink()
    sources.save(next((directories[5] / "masks").iterdir()), np.full((60, 71), 255, np.uint8))
    (dataset,) = find_datasets("dsb2018", tmp_path)
    report = build_dataset(dataset, tmp_path / "out")
    reasons = {problem.file: problem.reason for problem in report.skipped}
    assert len(reasons) == 2
    assert "1 images and 0 masks" in reasons[f"stage1_train/{directories[4].name}"]
    assert any("expected the same size" in reason for reason in reasons.values())


@pytest.mark.parametrize("names", [("{}_img.png", "{}_mask.png"), ("images/{}.tif", "labels/{}.png")])
def test_phase400_without_splits_draws_them(names: tuple[str, str], tmp_path: Path) -> None:
    for seed in range(5):
        for name, array in zip(names, sources.scene(seed), strict=True):
            sources.save(tmp_path / "HeLa" / name.format(f"f{seed}"), array)
    (dataset,) = find_datasets("phase400", tmp_path)
    assert [field.image_id for field in dataset.fields] == [f"HeLa/f{seed}" for seed in range(5)]
    report = build_dataset(dataset, tmp_path / "out")
    assert report.images == {"train": 3, "val": 1, "test": 1}


def test_livecell_is_doubled_without_overlaps(tmp_path: Path) -> None:
    dataset = find_one("livecell", tmp_path)
    assert [field.scale for field in dataset.fields] == [2.0] * 3
    labels = dataset.fields[0].read_labels()
    assert labels.max() == 2  # the covered cell is dropped
    assert labels[10, 5] == 1
    assert labels[10, 30] == 2
    for split in SPLITS:
        build_dataset(dataset, tmp_path / "out")
        (record,) = read_split(tmp_path / "out", split).records
        assert (record.height, record.width, record.objects) == (120, 144, 2)


def test_livecell_names_missing_images_and_broken_annotations(tmp_path: Path) -> None:
    sources.livecell(tmp_path)
    next((tmp_path / "images" / "livecell_test_images").rglob("*.tif")).unlink()
    (tmp_path / "livecell_coco_val.json").write_text('{"images": [')
    (dataset,) = find_datasets("livecell", tmp_path)
    reasons = {problem.file: problem.reason for problem in dataset.skipped}
    assert "unpack images.zip" in reasons["BV2_Phase_B4_2_00d00h00m_3.tif"]
    assert "damaged" in reasons["livecell_coco_val.json"]
    assert len(dataset.fields) == 1
