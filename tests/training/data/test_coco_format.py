"""Tests of the COCO files of built datasets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from training.data.coco_format import write_coco
from training.data.records import TileRecord


def test_file_has_the_keys_of_coco(tmp_path: Path) -> None:
    labels = np.zeros((16, 16), np.int32)
    labels[2:5, 3:9] = 1
    labels[8:10, 8:10] = 2
    records = [
        TileRecord(
            tile_id=name,
            image_id=name,
            object_set=name,
            y0=0,
            x0=0,
            height=16,
            width=16,
            objects=2,
            dataset="d",
            group="Yeast",
        )
        for name in ("a", "b")
    ]
    write_coco(tmp_path / "coco.json", records, lambda _: labels, size_px=16)
    coco = json.loads((tmp_path / "coco.json").read_text())
    assert coco["images"] == [
        {"id": 1, "file_name": "images/a.npy", "width": 16, "height": 16},
        {"id": 2, "file_name": "images/b.npy", "width": 16, "height": 16},
    ]
    assert [(a["id"], a["image_id"], a["bbox"]) for a in coco["annotations"]] == [
        (1, 1, [3, 2, 6, 3]),
        (2, 1, [8, 8, 2, 2]),
        (3, 2, [3, 2, 6, 3]),
        (4, 2, [8, 8, 2, 2]),
    ]
    assert {a["category_id"] for a in coco["annotations"]} == {c["id"] for c in coco["categories"]}
    write_coco(tmp_path / "empty.json", [], lambda _: labels, size_px=16)
    assert json.loads((tmp_path / "empty.json").read_text())["annotations"] == []
