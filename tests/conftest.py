"""Shared fixtures: a small model with its engines, and the full-size golden cases."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from numpy.typing import NDArray
from scipy import ndimage

import runtime.jobs.segmenter_spec
from export.exporter import ExportConfig, export_engines, write_engines
from export.sample_image import verification_image
from runtime import Segmentation, Segmenter
from runtime.results import Appearance
from tests.golden.cases import NAMES, GoldenCase, make_case
from tests.runtime.files.outputs.made import made_result
from tests.sharing import GroupScheduling, is_slow, longest_groups_first, made_once
from tests.small import SMALL, calm_model, save_small
from training.checkpoint import save_checkpoint
from training.weights import load_weights

os.environ["CELLSAM_BACKEND"] = "cpu"  # exact, and the same on every machine; inherited by processes that tests start

settings.register_profile("no deadline", deadline=None)  # a busy machine must not cause failures
settings.load_profile("no deadline")


@pytest.fixture(scope="session")
def image() -> NDArray[np.uint8]:
    """Real image of fluorescent nuclei, (519, 253) uint8."""
    return verification_image()


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small checkpoint in our own format: seeded weights, shared trunk."""
    return made_once(tmp_path_factory, "small.pt", lambda path: save_small(path, SMALL))


@pytest.fixture(scope="session")
def small_engines(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Engines of the small model."""
    return made_once(tmp_path_factory, "small", lambda path: export_engines(small_checkpoint, path))


@pytest.fixture(scope="session")
def calm_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of the calm model in our own format, with freshly initialised weights."""
    return made_once(
        tmp_path_factory, "calm.pt", lambda path: save_checkpoint(path, calm_model(), licence="test weights")
    )


@pytest.fixture(scope="session")
def calm_engines(calm_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Engines of the calm model."""
    return made_once(tmp_path_factory, "calm", lambda path: export_engines(calm_checkpoint, path))


@pytest.fixture(scope="session")
def integer_engines(calm_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Engines of the calm model with an 8-bit integer encoder."""
    config = ExportConfig(precision="int8")
    return made_once(tmp_path_factory, "calm-int8", lambda path: export_engines(calm_checkpoint, path, config))


@pytest.fixture(scope="session")
def half_engines(calm_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half-precision engines of the calm model."""
    config = ExportConfig(precision="fp16")
    return made_once(tmp_path_factory, "calm-fp16", lambda path: export_engines(calm_checkpoint, path, config))


@pytest.fixture(scope="session")
def segmenter(small_engines: Path) -> Segmenter:
    return Segmenter(small_engines)


@pytest.fixture(scope="session", params=NAMES)
def golden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GoldenCase]:
    """Each golden case with its full-size checkpoint of 1.1 GB, which exists only during the tests of the case."""
    directory = tmp_path_factory.mktemp("golden")
    yield make_case(request.param, directory)
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def golden_engines(golden: GoldenCase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Full-size engines of a golden case; they exist only during the tests of the case.

    The export verifies those of the shared trunk, which takes minutes. The tests themselves compare both cases with the
    released code.
    """
    directory = tmp_path_factory.mktemp("full-size") / golden.name
    if golden.trunk == "shared":
        export_engines(golden.checkpoint, directory)
    else:
        directory.mkdir()
        loaded = load_weights(golden.checkpoint)
        write_engines(loaded, loaded.sha256, directory, ExportConfig()).write(directory)
    yield directory
    shutil.rmtree(directory.parent)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Replace the segmenter of the command line by a threshold, and return the list of images that it receives."""
    images: list[Any] = []

    class Threshold:
        """Substitute for ``Segmenter`` that segments by a threshold."""

        def __init__(self, *args: Any, **kwargs: Any) -> None: ...

        def __call__(self, image: Any, *, config: Any = None) -> Segmentation:
            images.append(image)
            labels: Any = ndimage.label(image[..., -1] > 0)[0]
            diameter = None if config is None else config.diameter_px
            return replace(made_result(labels.astype(np.int32)), appearance=Appearance(diameter_px=diameter))

        def batch(self, images: Any, *, config: Any = None) -> list[Segmentation]:
            return [self(image, config=config) for image in images]

    monkeypatch.setattr(runtime.jobs.segmenter_spec, "Segmenter", Threshold)
    runtime.jobs.segmenter_spec.forget_loaded()
    yield images
    runtime.jobs.segmenter_spec.forget_loaded()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries may use the global generator


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark slow tests, and put the longest groups first."""
    for item in items:
        if is_slow(item):
            item.add_marker(pytest.mark.slow)
    items[:] = longest_groups_first(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> GroupScheduling:
    """Keep the tests of a group in one worker."""
    config.option.loadscopereorder = False
    return GroupScheduling(config, log)
