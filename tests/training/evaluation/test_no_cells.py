"""Tests of images without cells: content, no downloads, and counts."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime import Segmenter
from runtime.results import Segmentation
from training.evaluation.dataset import NO_CELLS, find_samples, read_sample
from training.evaluation.evaluate import evaluate, from_labels, from_segmentation
from training.evaluation.no_cells import PHOTOGRAPHS, write_no_cells


@pytest.fixture(scope="module")
def no_cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the images without a network."""
    out = tmp_path_factory.mktemp("images")

    def refuse(*_: Any) -> None:
        raise OSError("the test allows no connection")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        names = write_no_cells(out)
    assert len(names) == len(set(names)) > len(PHOTOGRAPHS) + 6
    return out


def test_they_are_the_same_on_every_call(no_cells: Path, tmp_path: Path) -> None:
    write_no_cells(tmp_path)
    samples = find_samples(no_cells)
    assert {(s.dataset, s.group) for s in samples} == {("no_cells", NO_CELLS)}
    for sample in samples:
        image, truth = read_sample(sample)
        again, _ = read_sample(next(s for s in find_samples(tmp_path) if s.id == sample.id))
        np.testing.assert_array_equal(image, again)
        assert not truth.any()
        assert image.ndim == 2 or image.shape[2] == 3


def test_false_cells_are_counted_apart(no_cells: Path) -> None:
    """Segmenter that finds one cell in every colour image."""

    def segment(image: Any) -> Any:
        labels = np.zeros(image.shape[:2], np.int32)
        labels[:9, :9] = image.ndim == 3
        return from_labels(labels)

    evaluation = evaluate(segment, find_samples(no_cells))
    assert {row.level for row in evaluation.rows} == {"subset", "dataset", "group"}, "no row of all images"
    row = evaluation.rows[0]
    colour = sum(read_sample(sample)[0].ndim == 3 for sample in find_samples(no_cells))
    assert (row.without_cells, row.false_cells) == (len(evaluation.images), colour)
    assert row.false_cells_per_image == colour / len(evaluation.images)
    assert row.mean_segmentation_accuracy == 0.0, "images without any cell, true or predicted, are left out"


def test_the_built_in_model_takes_none_for_a_field_of_cells(no_cells: Path) -> None:
    segmenter = Segmenter()

    def segment(image: Any) -> Any:
        result: Segmentation = segmenter(image)
        return from_segmentation(result)

    chosen = [s for s in find_samples(no_cells) if s.id in ("blank", "gaussian_noise", "gradient", "vignette")]
    assert evaluate(segment, chosen).rows[0].false_cells_per_image <= 2
