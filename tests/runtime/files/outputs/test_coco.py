"""Tests of COCO annotations: golden strings of pycocotools, and a round trip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.files.outputs.coco import annotations_of, compress_counts, run_lengths, write_coco
from tests.runtime.correction.made import label_maps

# pycocotools 2.0: mask.encode() of the mask and its counts.
GOLDEN = [
    ([0, 1, 12, 3, 4, 1, 8, 1], "01<2HN40"),
    ([5], "5"),
    ([0, 1000], "0Xo0"),
    ([3, 1, 100000, 5, 162135], "31PeQ34gel1"),
    ([100, 1, 511, 3, 509], "T31o?2N"),
]


def decode(segmentation: dict[str, Any]) -> NDArray[np.bool_]:
    """Decode compressed run lengths by the description of the format, independently of the encoder."""
    values: list[int] = []
    shift = value = 0
    for character in segmentation["counts"]:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        values.append(value + (values[-2] if len(values) > 2 else 0))
        shift = value = 0
    height, width = segmentation["size"]
    flat = np.repeat(np.arange(len(values)) % 2 == 1, values)
    return np.pad(flat, (0, height * width - flat.size)).reshape(width, height).T


@pytest.mark.parametrize(("counts", "text"), GOLDEN)
def test_counts_are_compressed_as_pycocotools_does(counts: list[int], text: str) -> None:
    assert compress_counts(counts) == text


def test_run_lengths_of_the_golden_mask() -> None:
    mask = np.zeros((6, 5), bool)
    mask[0, 0] = mask[1:4, 2] = mask[5, 4] = mask[2, 3] = True
    assert run_lengths(mask, (0, 0), (6, 5)) == [0, 1, 12, 3, 4, 1, 8, 1]


@given(label_maps)
def test_annotations_hold_masks_boxes_and_areas(labels: NDArray[np.int32]) -> None:
    ids = [value for value in np.unique(labels) if value]
    annotations = list(annotations_of(labels))
    assert len(annotations) == len(ids)
    for value, annotation in zip(ids, annotations, strict=True):
        mask = labels == value
        np.testing.assert_array_equal(decode(annotation["segmentation"]), mask)
        rows, columns = np.nonzero(mask)
        box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert annotation["bbox"] == box
        assert annotation["area"] == mask.sum()
        assert annotation["iscrowd"] == 0


@given(st.lists(st.integers(0, 300_000), min_size=1, max_size=20))
def test_counts_round_trip(counts: list[int]) -> None:
    total = sum(counts)
    mask = decode({"size": [total, 1], "counts": compress_counts(counts)})
    np.testing.assert_array_equal(mask[:, 0], np.repeat(np.arange(len(counts)) % 2 == 1, counts))


def test_file_has_images_annotations_and_labels(tmp_path: Path) -> None:
    labels = np.zeros((16, 20), np.int32)
    labels[2:5, 3:9] = 7
    labels[8:10, 8:10] = 2
    write_coco(tmp_path / "coco.json", [("a.png", labels), ("b.png", labels * 0)], "made")
    coco = json.loads((tmp_path / "coco.json").read_text())
    assert coco["images"] == [
        {"id": 1, "file_name": "a.png", "width": 20, "height": 16},
        {"id": 2, "file_name": "b.png", "width": 20, "height": 16},
    ]
    found = [(one["id"], one["image_id"], one["bbox"], one["attributes"]) for one in coco["annotations"]]
    assert found == [(1, 1, [8, 8, 2, 2], {"label": 2}), (2, 1, [3, 2, 6, 3], {"label": 7})]
    assert {one["category_id"] for one in coco["annotations"]} == {one["id"] for one in coco["categories"]}
