"""Tests of the reader: results and rejected input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.training.data import sources
from training.data import DataError, FolderOptions, build_dataset, find_datasets, read_split
from training.data.format import tile_is_written, write_tile
from training.data.records import SPLITS, SourceDataset, Split
from training.data.tiles import Tile

OPTIONS = FolderOptions(groups={"": "Nuclear"})


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write two built datasets side by side."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("out")
    sources.folder(source, count=3, dataset="cells")
    sources.folder(source, count=4, dataset="nuclei")
    for dataset in find_datasets("folder", source, OPTIONS):
        build_dataset(dataset, out / dataset.subdirectory)
    return out


def test_tiles_have_the_common_format(built: Path) -> None:
    tiles = read_split(built / "nuclei", "train")
    assert len(tiles) == 2
    for index in range(len(tiles)):
        sample = tiles[index]
        assert sample.image.shape == (3, 512, 512)
        assert sample.image.dtype == np.float32
        assert sample.image.min() >= 0
        assert sample.image.max() <= 1
        assert not sample.image[:2].any()
        assert sample.image[2].any()
        assert sample.labels.dtype == np.int32
        np.testing.assert_array_equal(np.unique(sample.labels), np.arange(sample.record.objects + 1))
        assert (sample.record.height, sample.record.width) == sources.SIZE_HW
        assert not sample.image[:, 60:].any()
        assert not sample.labels[:, 72:].any()
        assert (sample.record.dataset, sample.record.group) == ("nuclei", "Nuclear")


def test_a_parent_directory_joins_its_datasets(built: Path) -> None:
    counts = [len(read_split(built, split)) for split in SPLITS]
    assert counts == [sum(len(read_split(built / name, split)) for name in ("cells", "nuclei")) for split in SPLITS]
    assert sum(counts) == 7
    assert {record.dataset for record in read_split(built, "train").records} == {"cells", "nuclei"}


def test_a_sample_can_be_changed_without_changing_the_file(built: Path) -> None:
    tiles = read_split(built, "train")
    sample = tiles[0]
    before = sample.image.copy()
    sample.image[:] = 0.5
    np.testing.assert_array_equal(tiles[0].image, before)


def test_positions_end(built: Path) -> None:
    tiles = read_split(built, "train")
    assert len([sample for sample in tiles]) == len(tiles)  # noqa: C416  the protocol of a sequence
    with pytest.raises(IndexError):
        tiles[len(tiles)]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "dataset.json").unlink(), "no finished build"),
        (lambda d: (d / "dataset.json").write_text("{"), "damaged"),
        (lambda d: (d / "dataset.json").write_text('{"schema": 9, "group": "Yeast"}'), "schema 9"),
        (lambda d: (d / "dataset.json").write_text('{"schema": 1, "group": "Fish"}'), "'Fish'"),
        (lambda d: (d / "train" / "tiles.jsonl").write_text("{}\n"), "damaged"),
    ],
)
def test_an_unfinished_or_damaged_dataset_is_refused(damage: object, message: str, tmp_path: Path) -> None:
    build_one(tmp_path)
    damage(tmp_path / "out")  # type: ignore[operator]
    with pytest.raises(DataError, match=message):
        read_split(tmp_path / "out", "train")


def test_a_damaged_tile_is_named(tmp_path: Path) -> None:
    build_one(tmp_path)
    tiles = read_split(tmp_path / "out", "train")
    path = next((tmp_path / "out" / "train" / "images").glob("*.npy"))
    np.save(path, np.zeros((3, 512, 511), np.float32))
    with pytest.raises(DataError, match=r"511\) float32; expected"):
        tiles[0]
    path.write_bytes(b"no array")
    with pytest.raises(DataError, match="cannot be read"):
        tiles[0]
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        tiles[0]


def test_an_unknown_split_is_refused(built: Path) -> None:
    split: Split = "trian"  # type: ignore[assignment]
    with pytest.raises(DataError, match="'trian'"):
        read_split(built, split)


def test_a_cut_off_tile_does_not_count_as_written(tmp_path: Path) -> None:
    tile = Tile(np.zeros((3, 512, 512), np.float32), np.zeros((512, 512), np.int32), 0, 0, 512, 512)
    write_tile(tmp_path, "a", tile)
    assert tile_is_written(tmp_path, "a")
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["a.npy", "a.npy"]
    labels = tmp_path / "labels" / "a.npy"
    labels.write_bytes(labels.read_bytes()[: 512 * 512])
    assert not tile_is_written(tmp_path, "a")


def build_one(root: Path) -> SourceDataset:
    """Build a dataset of one image in root/out, from root/nuclei."""
    sources.folder(root, count=1)
    (dataset,) = find_datasets("folder", root / "nuclei", OPTIONS)
    build_dataset(dataset, root / "out")
    return dataset


def test_summary_counts_what_is_on_disk(built: Path) -> None:
    for directory in (built / "cells", built / "nuclei"):
        summary = json.loads((directory / "dataset.json").read_text())
        for split in SPLITS:
            records = read_split(directory, split).records
            assert summary["splits"][split] == {
                "images": len({record.image_id for record in records}),
                "tiles": len(records),
                "objects": sum(record.objects for record in records),
            }
            coco = json.loads((directory / split / "coco.json").read_text())
            assert len(coco["annotations"]) == summary["splits"][split]["objects"]
