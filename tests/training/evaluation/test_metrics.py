"""Tests of F1 curves and average precision, against figures of Cellpose and pycocotools and by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import InputError
from runtime.ops.masks import MaskCrop, label_crops
from tests.training.evaluation.made import row_of_squares
from training.evaluation.coco_metrics import coco_ap, encode_image
from training.evaluation.matching import Counts, count_matches, find_overlaps
from training.evaluation.metrics import (
    DEFAULT_IOUS,
    counts_at,
    f1_at,
    mean_average_precision,
    mean_segmentation_accuracy,
    shown_iou,
)

REFERENCE = Path(__file__).parent / "reference"


def test_f1_falls_with_the_iou_asked_for() -> None:
    truth = row_of_squares(4)
    predicted = truth.copy()
    predicted[2] = 0  # every square keeps 90 of its 100 pixels
    predicted[predicted == 4] = 0
    f1 = f1_at(truth, predicted)
    assert f1["0.6"] == f1["0.9"] == pytest.approx(2 * 3 / (2 * 3 + 1))
    assert f1["0.95"] == 0.0
    assert list(f1) == ["0.5", "0.55", "0.6", "0.65", "0.7", "0.75", "0.8", "0.85", "0.9", "0.95"]


def test_tables_show_the_papers_iou_where_it_was_evaluated() -> None:
    assert shown_iou(DEFAULT_IOUS) == 0.6
    assert shown_iou((0.5, 0.7)) == 0.5


def test_counts_and_average_precision_equal_cellposes() -> None:
    with np.load(REFERENCE / "cellpose_average_precision.npz") as data:
        reference = dict(data)
    images, thresholds = reference["ap"].shape
    assert reference["tp"].min() == 0 < reference["tp"].max()
    for k in range(thresholds):
        counts = []
        for i in range(images):
            overlaps = find_overlaps(reference[f"truth_{i}"], reference[f"predicted_{i}"])
            counts.append(count_matches(overlaps, float(reference["thresholds"][k])))
            assert counts[i] == Counts(*(int(reference[name][i, k]) for name in ("tp", "fp", "fn")))
            assert counts[i].average_precision == pytest.approx(reference["ap"][i, k], abs=1e-6)
        assert mean_average_precision(counts) == pytest.approx(reference["ap"][:, k].mean(), abs=1e-6)


def test_images_without_any_cell_have_no_average_precision() -> None:
    assert mean_average_precision([Counts(), Counts(tp=1, fp=1)]) == 0.5
    assert math.isnan(mean_average_precision([Counts()]))


def test_mean_segmentation_accuracy_is_over_ten_ious_and_then_over_images() -> None:
    """Check one image with two cells, one of which keeps 70 of 100 pixels, one with a false cell, and an empty one."""
    truth = row_of_squares(2)
    smaller = np.where((truth == 2) & (np.arange(truth.shape[0])[:, None] >= 9), 0, truth)
    none = np.zeros_like(truth)
    pairs = [(truth, smaller), (none, smaller == 1), (none, none)]
    counts = [counts_at(find_overlaps(t, p.astype(np.int32)), DEFAULT_IOUS) for t, p in pairs]
    by_iou = {key: mean_average_precision(image[key] for image in counts) for key in counts[0]}
    first = (5 * 1 + 5 * (1 / 3)) / 10  # both cells up to 0.70; beyond, one found, one false, one missed
    assert mean_segmentation_accuracy(by_iou) == pytest.approx((first + 0) / 2)
    del by_iou["0.95"]
    assert math.isnan(mean_segmentation_accuracy(by_iou))


def test_coco_equals_pycocotools() -> None:
    with np.load(REFERENCE / "pycocotools_segm.npz") as data:
        reference = dict(data)
    images = [
        encode_image(
            reference[f"truth_{i}"].astype(np.int32),
            label_crops(reference[f"predicted_{i}"].astype(np.int32)),
            reference[f"scores_{i}"],
        )
        for i in range(3)
    ]
    found = coco_ap(images)
    assert [found.map, found.ap50, found.ap75] == pytest.approx(reference["figures"].tolist(), abs=1e-12)


def test_coco_by_hand() -> None:
    truth = row_of_squares(4)
    found = truth.copy()
    found[found == 4] = 0
    found[0, 0] = 9  # a wrong detection of one pixel
    crops = label_crops(found)
    # Recall reaches 0.75: 76 of COCO's 101 levels. With the wrong one last, precision there is 1.
    assert coco_ap([encode_image(truth, crops, np.array([0.9, 0.8, 0.7, 0.1]))]).map == pytest.approx(76 / 101)
    # With the wrong one first, precision is 1/2, 2/3, 3/4, and 3/4 once it is made monotonic.
    assert coco_ap([encode_image(truth, crops, np.array([0.9, 0.8, 0.7, 0.95]))]).map == pytest.approx(0.75 * 76 / 101)


def test_coco_thresholds_by_hand() -> None:
    truth = row_of_squares(1)
    found = np.where(np.arange(truth.shape[0])[:, None] < 9, truth, 0)  # 70 of 100 pixels
    figures = coco_ap([encode_image(truth, label_crops(found), np.ones(1))])
    assert (figures.map, figures.ap50, figures.ap75) == (pytest.approx(0.5), 1.0, 0.0)  # 0.50 .. 0.70 of ten


def test_more_than_a_hundred_detections_count() -> None:
    truth = np.concatenate([row_of_squares(30, side=3, gap=1) + 30 * i for i in range(4)])
    truth[np.isin(truth, [0, 30, 60, 90])] = 0
    truth = np.unique(truth, return_inverse=True)[1].reshape(truth.shape).astype(np.int32)
    assert truth.max() > 100
    image = encode_image(truth, label_crops(truth), np.ones(truth.max()))
    assert coco_ap([image]).map == 1.0
    assert coco_ap([image], max_detections=100).map < 0.9


def test_detections_may_overlap_or_be_empty() -> None:
    truth = row_of_squares(2)
    first, second = label_crops(truth)
    empty = MaskCrop(np.zeros((0, 0), np.bool_), (3, 3))
    image = encode_image(truth, (first, second, second, empty), np.array([0.9, 0.8, 0.7, 0.6]))
    assert coco_ap([image]).map == 1.0  # both are found before the first wrong one
    image = encode_image(truth, (first, first, second, empty), np.array([0.9, 0.8, 0.7, 0.95]))
    assert coco_ap([image]).map == pytest.approx((51 * 1 / 2 + 50 * 1 / 2) / 101)


def test_coco_without_cells() -> None:
    none = np.zeros((5, 5), np.int32)
    nothing = np.zeros(0, np.float32)
    assert math.isnan(coco_ap([encode_image(none, (), nothing)]).map)
    assert coco_ap([encode_image(row_of_squares(2), (), nothing)]).map == 0.0


def test_coco_refuses_scores_that_do_not_fit() -> None:
    truth = row_of_squares(2)
    crops = label_crops(truth)
    with pytest.raises(InputError, match="expects 2 finite scores"):
        encode_image(truth, crops, np.ones(3))
    with pytest.raises(InputError, match="1 values that are not finite"):
        encode_image(truth, crops, np.array([0.5, np.nan]))


def test_label_crops_paste_back() -> None:
    labels = row_of_squares(3)
    labels[labels == 2] = 7
    crops = label_crops(labels)
    assert len(crops) == 3
    for crop, label in zip(crops, (1, 3, 7), strict=True):
        np.testing.assert_array_equal(crop.paste((14, 38)), labels == label)
