"""The built-in engines segment the sample images that ship with the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from runtime import Segmentation, Segmenter
from runtime.engines.builtin import builtin_engine, sample_images
from runtime.engines.engine_source import check_files
from runtime.engines.manifest import read_manifest
from runtime.files.plain import read_image

CELLS = {"fluorescence": 79, "histology": 71, "phase_contrast": 51, "u2os": 85}
"""Numbers of annotated cells in the samples, from the datasets' masks."""


@pytest.fixture(scope="module")
def results() -> dict[str, Segmentation]:
    segmenter = Segmenter()
    return {path.stem.removesuffix("_img"): segmenter(read_image(path)) for path in sample_images()}


def test_the_engines_are_whole_and_small() -> None:
    directory = builtin_engine()
    manifest = read_manifest(directory)
    check_files(directory, manifest)
    assert sum(path.stat().st_size for path in directory.iterdir()) <= 25 * 2**20
    assert manifest.weights["licence"] == "Apache-2.0"
    assert (directory.parent / "README.md").is_file(), "the model card"


def test_about_as_many_cells_are_found_as_were_annotated(results: dict[str, Segmentation]) -> None:
    assert results.keys() == CELLS.keys()
    for name, result in results.items():
        assert 0.6 * CELLS[name] <= len(result) <= 1.5 * CELLS[name], (name, len(result))
        assert (np.bincount(result.labels.ravel())[1:] > 0).all()


def test_an_empty_field_has_no_cells() -> None:
    segmenter = Segmenter()
    for value in (0, 7):
        assert segmenter(np.full((200, 300), value, np.uint8)).labels.max() == 0


def test_samples_lie_in_the_package() -> None:
    assert all(path.is_relative_to(Path(__file__).parents[3] / "runtime") for path in sample_images())
