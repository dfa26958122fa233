"""Tests of prompts from true cells: geometry, masks, and agreement with the runtime."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from runtime import Segmenter
from runtime.errors import ConfigError
from runtime.ops.masks import MaskCrop
from runtime.ops.preprocess import normalize_contrast
from tests.small import SMALL
from tests.training.evaluation.made import bright_image, discs, row_of_squares, write_pair
from training.checkpoint import load_checkpoint
from training.evaluation.dataset import find_samples
from training.evaluation.prompts import (
    PROMPT_CONFIG,
    ModelInput,
    embed,
    evaluate_prompts,
    prompt_ious,
    segment_prompts,
    true_prompts,
)
from training.model import CellSAM

SPEC = ModelInput(image_size=SMALL.image_size, profile="paper", renormalize=True)


@pytest.fixture
def model(small_checkpoint: Path) -> CellSAM:
    return load_checkpoint(small_checkpoint).model


def test_centres_and_boxes_by_hand() -> None:
    truth = np.zeros((6, 8), np.int32)
    truth[1:3, 2:6] = 4  # rows 1..2, columns 2..5
    truth[5, 7] = 9
    prompts = true_prompts(truth)
    assert prompts.ids.tolist() == [4, 9]
    assert prompts.centres_xy.tolist() == [[4.0, 2.0], [7.5, 5.5]]
    assert prompts.boxes_xyxy.tolist() == [[2, 1, 6, 3], [7, 5, 8, 6]]


def test_no_cells_no_prompts(model: CellSAM) -> None:
    prompts = true_prompts(np.zeros((6, 8), np.int32))
    assert (prompts.centres_xy.shape, prompts.boxes_xyxy.shape) == ((0, 2), (0, 4))
    with torch.inference_mode():
        prediction = segment_prompts(model, torch.zeros(1, 64, 10, 10), prompts, (6, 8), "point")
    assert not prediction.labels.any()
    assert prediction.masks == ()


def test_each_cell_is_compared_with_its_own_mask() -> None:
    truth = row_of_squares(3)
    prompts = true_prompts(truth)
    half = MaskCrop(np.ones((5, 10), np.bool_), (2, 2))  # the upper half of cell 1
    wide = MaskCrop(np.ones((10, 20), np.bool_), (2, 14))  # cell 2, the gap, most of cell 3
    none = MaskCrop(np.zeros((0, 0), np.bool_), (0, 0))
    assert prompt_ious(truth, prompts, (half, wide, none)).tolist() == [0.5, 0.5, 0.0]


def test_box_prompts_give_the_runtimes_labels(model: CellSAM, segmenter: Segmenter) -> None:
    truth = discs()
    image = bright_image(truth)
    prompts = true_prompts(truth)
    with torch.inference_mode():
        ours = segment_prompts(model, embed(model, normalize_contrast(image), SPEC), prompts, truth.shape, "box")
    config = replace(PROMPT_CONFIG, mask_window="full", iou_threshold=-1e9)
    theirs = segmenter(image, boxes=prompts.boxes_xyxy, config=config)
    assert np.mean(ours.labels == theirs.labels) >= 0.999
    np.testing.assert_allclose(ours.scores, theirs.iou_predictions, atol=1e-3)


def test_kinds_of_prompts_differ_and_best_of_three_is_the_best(model: CellSAM) -> None:
    truth = discs()
    prompts = true_prompts(truth)
    with torch.inference_mode():
        embedding = embed(model, normalize_contrast(bright_image(truth)), SPEC)
        found = {
            kind: segment_prompts(model, embedding, prompts, truth.shape, kind)
            for kind in ("box", "point", "point_best_of_3")
        }
    assert all(len(p.masks) == len(p.scores) == 5 for p in found.values())
    assert not np.allclose(found["box"].scores, found["point"].scores)
    assert not np.allclose(found["point"].scores, found["point_best_of_3"].scores)


def test_point_prompts_reach_the_prompt_encoder_in_model_pixels(
    model: CellSAM, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    forward = model.prompt_encoder.forward

    def spy(points: object, boxes: object, masks: object) -> object:
        seen.append(points)
        return forward(points, boxes, masks)

    monkeypatch.setattr(model.prompt_encoder, "forward", spy)
    truth = np.zeros((80, 40), np.int32)
    truth[20:40, 10:20] = 1  # centre: x 15 of 40, y 30 of 80
    with torch.inference_mode():
        segment_prompts(model, torch.zeros(1, 64, 10, 10), true_prompts(truth), truth.shape, "point")
    ((points, labels),) = seen
    assert (points + 0.5).tolist() == [[[60.0, 60.0]]]  # SAM adds the half pixel
    assert labels.tolist() == [[1]]


def test_evaluation_of_all_kinds(model: CellSAM, tmp_path: Path) -> None:
    write_pair(tmp_path / "made", "a", discs())
    damaged = write_pair(tmp_path / "made", "b", discs())
    damaged.write_bytes(b"")
    seen = []
    found = evaluate_prompts(model, SPEC, find_samples(tmp_path), on_image=seen.append)
    assert list(found) == ["box", "point", "point_best_of_3"]
    assert [score.id for score in seen] == ["a", "b"]
    for evaluation in found.values():
        assert [image.id for image in evaluation.failed] == ["b"]
        row = evaluation.rows[0]
        assert (row.truth, row.failed) == (5, 1)
        assert 0.0 <= row.mean_prompt_iou <= 1.0
        assert row.coco is not None
    with pytest.raises(ConfigError, match="prompt kinds are"):
        evaluate_prompts(model, SPEC, [], kinds=["circle"])  # type: ignore[list-item]
