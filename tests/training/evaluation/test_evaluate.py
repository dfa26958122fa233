"""Tests of scores per image and sums per row, failing images and held-out datasets."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.errors import ConfigError, InputError
from tests.training.evaluation.made import row_of_squares, write_pair
from training.evaluation.dataset import Sample, find_samples
from training.evaluation.evaluate import Prediction, evaluate, from_labels, hold_out
from training.evaluation.matching import Counts
from training.evaluation.summary import HELD_OUT, ImageScore, SummaryRow


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Write three images that equal their label maps, so that a fake segmenter knows the cells."""
    for dataset, name, cells in (("dsb2018", "a", 4), ("dsb2018", "b", 6), ("yeaz", "c", 3)):
        labels = row_of_squares(cells)
        write_pair(tmp_path / dataset, name, labels, labels.astype(np.uint8))
    return find_samples(tmp_path)


def lose_last(image: NDArray[Any]) -> Prediction:
    """Return all cells but the last one, and a wrong one of four pixels."""
    labels = image.astype(np.int32)
    labels[labels == labels.max()] = 0
    labels[:2, :2] = 99
    return from_labels(labels)


def row(rows: tuple[SummaryRow, ...], level: str, name: str) -> SummaryRow:
    return next(r for r in rows if (r.level, r.name) == (level, name))


def test_counts_are_summed_over_images(samples: list[Sample]) -> None:
    seen: list[ImageScore] = []
    evaluation = evaluate(lose_last, samples, ious=(0.5, 0.6), on_image=seen.append)
    assert seen == list(evaluation.images)
    first = evaluation.images[0]
    assert (first.id, first.truth, first.predicted, first.tp) == ("a", 4, 4, {"0.5": 3, "0.6": 3})
    assert first.seconds is not None
    assert first.size_hw == (14, 50)
    nuclear = row(evaluation.rows, "group", "Nuclear")
    assert nuclear.counts["0.6"] == Counts(tp=8, fp=2, fn=2)
    assert nuclear.counts["0.6"].f1 == pytest.approx(0.8)
    assert nuclear.cellpose_ap["0.6"] == pytest.approx((3 / 5 + 5 / 7) / 2)
    assert row(evaluation.rows, "all", "all").counts["0.6"] == Counts(tp=10, fp=3, fn=3)
    assert [r.level for r in evaluation.rows].count("subset") == 2
    assert math.isnan(nuclear.mean_prompt_iou)


def test_coco_of_a_row_is_over_its_images(samples: list[Sample]) -> None:
    evaluation = evaluate(lose_last, samples)
    yeast = row(evaluation.rows, "group", "Yeast").coco
    assert yeast is not None
    # Equal scores keep their order: two correct ones (recall 2/3: 67 levels), then the wrong one.
    assert yeast.map == pytest.approx(67 / 101)


def test_an_image_that_fails_is_reported_and_counts_nowhere(samples: list[Sample]) -> None:
    def segment(image: NDArray[Any]) -> Prediction:
        if image.shape[1] == row_of_squares(6).shape[1]:
            raise InputError("the engine did not like it")
        return from_labels(image.astype(np.int32))

    evaluation = evaluate(segment, samples)
    (failed,) = evaluation.failed
    assert (failed.id, failed.error, failed.tp) == ("b", "the engine did not like it", {})
    dsb = row(evaluation.rows, "dataset", "dsb2018")
    assert (dsb.images, dsb.failed, dsb.truth) == (1, 1, 4)
    assert dsb.counts["0.6"] == Counts(tp=4)


def test_damaged_files_fail_without_their_folder_in_the_message(samples: list[Sample]) -> None:
    samples[0].image_path.write_bytes(b"not a picture")
    samples[1].labels_path.unlink()
    evaluation = evaluate(lose_last, samples)
    assert [image.error is None for image in evaluation.images] == [False, False, True]
    for image in evaluation.failed:
        assert image.error is not None
        assert str(samples[0].image_path.parent) not in image.error
    assert str(evaluation.images[0].error).startswith("a_img.png cannot be read")


def test_predictions_of_another_size_fail(samples: list[Sample]) -> None:
    evaluation = evaluate(lambda image: from_labels(np.zeros((5, 5), np.int32)), samples)
    assert len(evaluation.failed) == 3
    assert row(evaluation.rows, "all", "all").images == 0
    assert math.isnan(row(evaluation.rows, "all", "all").counts["0.6"].f1)


def test_mistakes_in_the_program_are_not_swallowed(samples: list[Sample]) -> None:
    def segment(image: NDArray[Any]) -> Prediction:
        raise KeyError("no such setting")

    with pytest.raises(KeyError):
        evaluate(segment, samples)


def test_held_out_datasets_are_scored_apart(samples: list[Sample]) -> None:
    evaluation = evaluate(lose_last, hold_out(samples, ["yeaz"]))
    assert row(evaluation.rows, "group", HELD_OUT).counts["0.6"] == Counts(tp=2, fp=1, fn=1)
    assert row(evaluation.rows, "all", "all").images == 2
    assert row(evaluation.rows, "dataset", "yeaz").images == 1
    assert not [r for r in evaluation.rows if r.name == "Yeast"]


def test_thresholds_are_checked_first(samples: list[Sample]) -> None:
    with pytest.raises(ConfigError, match="IoU threshold is 60"):
        evaluate(lose_last, samples, ious=(60,))
