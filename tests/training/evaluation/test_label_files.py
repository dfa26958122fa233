"""Tests of label maps of other tools: finding them by name, and scoring."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from runtime.errors import InputError
from tests.training.evaluation.made import row_of_squares, write_pair
from training.evaluation.dataset import Sample, find_samples
from training.evaluation.label_files import find_label_files, score_label_files


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Write two images of one dataset and one of another, whose id also occurs in the first."""
    for dataset, name, cells in (("one", "a", 2), ("one", "b", 3), ("two", "a", 4)):
        write_pair(tmp_path / "data" / dataset, name, row_of_squares(cells))
    return find_samples(tmp_path / "data")


def write(path: Path, labels: NDArray[np.integer]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, labels)
    elif path.suffix == ".png":
        Image.fromarray(labels.astype(np.uint16)).save(path)
    else:
        tifffile.imwrite(path, labels)
    return path


@pytest.mark.parametrize(
    "name",
    [
        *("a_img_cp_masks.tif", "a_cp_masks.png", "a_img.stardist.tif", "a_img_labels.tif", "a_labels.ome.tif"),
        *("a_mask.npy", "a_img_masks.tiff", "a.tif", "a_img.tif", "deeper/down/a_cp_masks.tif"),
    ],
)
def test_names_that_tools_give(name: str, samples: list[Sample], tmp_path: Path) -> None:
    path = write(tmp_path / "found" / name, row_of_squares(2).astype(np.uint16))
    assert find_label_files(tmp_path / "found", samples[:1]) == {samples[0]: path}
    (scored,) = score_label_files({samples[0]: path}, samples[:1])
    assert (scored.score.tp["0.95"], scored.score.truth, scored.score.predicted) == (2, 2, 2)
    assert scored.score.seconds is None
    assert scored.coco is not None
    assert scored.coco.scores == (1.0, 1.0)


def test_true_labels_and_copies_of_images_are_not_taken(samples: list[Sample], tmp_path: Path) -> None:
    """Cellpose writes next to the images, where the true labels have a matching name."""
    folder = samples[0].image_path.parent
    with pytest.raises(InputError, match=r"no label map of the 3 images; expected names such as a_img_cp_masks\.tif"):
        find_label_files(folder, samples)
    path = write(folder / "a_img_cp_masks.tif", row_of_squares(2).astype(np.uint16))
    assert find_label_files(folder, samples[:2]) == {samples[0]: path}
    copied = tmp_path / "copied"
    write(copied / "a_img.png", row_of_squares(1))
    path = write(copied / "a_img_cp_masks.png", row_of_squares(2))
    assert find_label_files(copied, samples[:1]) == {samples[0]: path}


def test_ids_of_several_datasets_are_told_apart_by_folder(samples: list[Sample], tmp_path: Path) -> None:
    found = tmp_path / "found"
    paths = [write(found / s.dataset / f"{s.id}_labels.tif", row_of_squares(2).astype(np.uint16)) for s in samples]
    assert list(find_label_files(found, samples).values()) == paths
    flat = tmp_path / "flat"
    write(flat / "a_labels.tif", row_of_squares(2).astype(np.uint16))
    with pytest.raises(InputError, match="could be the label map of one/a and of two/a; put the label maps of each"):
        find_label_files(flat, samples)
    write(flat / "again" / "a_img_labels.tif", row_of_squares(2).astype(np.uint16))
    with pytest.raises(InputError, match="could both be the label map of one/a; keep one"):
        find_label_files(flat, samples)
    with pytest.raises(InputError, match="is not a directory"):
        find_label_files(tmp_path / "none", samples)


def test_what_cannot_be_scored_has_failed(samples: list[Sample], tmp_path: Path) -> None:
    """A missing label map does not count as empty, and a foreground mask is not a label map."""
    mask = write(tmp_path / "found" / "b_mask.png", (row_of_squares(3) > 0).astype(np.uint8))
    scores = [item.score for item in score_label_files({samples[1]: mask}, samples[:2])]
    assert scores[0].error == "has no label map; expected a file such as a_img_cp_masks.tif or a_labels.tif."
    assert "3 separate parts; expected one id per object" in str(scores[1].error)
