"""Tests of the generic builder: layouts and options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training.data import sources
from training.data import DataError, FolderOptions, find_datasets


def test_folder_layouts(tmp_path: Path) -> None:
    options = FolderOptions(groups={"": "Nuclear", "cells": "Cell Culture"})
    for split in ("train", "test"):
        sources.folder(tmp_path / "a", count=2, dataset="cells", split=split)
        sources.folder(tmp_path / "a", count=2, dataset="nuclei", split=split)
    nested = find_datasets("folder", tmp_path / "a", options)
    assert [(d.name, d.group, d.subdirectory) for d in nested] == [
        ("cells", "Cell Culture", "cells"),
        ("nuclei", "Nuclear", "nuclei"),
    ]
    assert [(f.image_id, f.split) for f in nested[0].fields] == [
        ("test/00", "test"),
        ("test/01", "test"),
        ("train/00", "train"),
        ("train/01", "train"),
    ]
    below = find_datasets("folder", tmp_path / "a" / "train", options)
    assert [(d.name, d.subdirectory, d.fields[0].split) for d in below] == [
        ("cells", "cells", None),
        ("nuclei", "nuclei", None),
    ]
    (plain,) = find_datasets("folder", tmp_path / "a" / "train" / "cells", options)
    assert (plain.name, plain.subdirectory, plain.fields[0].image_id) == ("cells", "", "00")
    (splits,) = find_datasets(
        "folder",
        tmp_path / "a",
        FolderOptions(image_glob="nuclei/*_img.png", mask_glob="nuclei/*_mask.png", groups={"": "Yeast"}),
    )
    assert (splits.name, splits.subdirectory, splits.fields[-1].split) == ("a", "", "train")


def test_folder_options_reach_the_fields(tmp_path: Path) -> None:
    for seed, name in enumerate(("A_t0", "A_t1", "B_t0")):
        image, labels = sources.scene(seed)
        sources.save(tmp_path / "raw" / f"{name}.tif", np.stack((image, image // 2), 0))
        sources.save(tmp_path / "seg" / f"{name}.png", labels)
    options = FolderOptions(
        image_glob="raw/*.*", mask_glob="seg/*.*", groups={"": "Yeast"}, object_set=r"^([A-Z])_", licence="CC0"
    )
    (dataset,) = find_datasets("folder", tmp_path, options)
    assert [field.object_set for field in dataset.fields] == ["A", "A", "B"]
    assert dataset.licence == "CC0"
    assert dataset.fields[0].read_channels().shape == (60, 72, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": {"": "Fish"}}, "Fish"),
        ({"image_glob": "img.png"}, r"expected a '\*'"),
        ({"image_glob": "[ab]*.png"}, "no wildcards but"),
        ({"mask_glob": "*_img.*"}, "expected two"),
        ({"object_set": "("}, "regular expression"),
    ],
)
def test_folder_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        FolderOptions(**options)


def test_folder_needs_a_group_and_others_take_no_options(tmp_path: Path) -> None:
    sources.folder(tmp_path)
    with pytest.raises(DataError, match="Pass it with groups=: 'nuclei=Cell Culture'"):
        find_datasets("folder", tmp_path)
    with pytest.raises(DataError, match="Leave them out"):
        find_datasets("yeaz", tmp_path, FolderOptions())
    with pytest.raises(DataError, match="expected one of tissuenet"):
        find_datasets("nuinsseg", tmp_path)  # type: ignore[arg-type]
