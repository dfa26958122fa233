"""The composed model against the runtime, step by step and as a whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper

from export.bioimageio.agreement import compare
from export.bioimageio.compose import compose, view_settings
from export.bioimageio.contrast import normalize_plane
from export.bioimageio.masks import _filled, _without_small
from export.bioimageio.operators import FLOAT, INT64, Operators
from export.errors import ExportError
from runtime import Segmenter
from runtime.engines.builtin import builtin_engine
from runtime.engines.manifest import read_manifest
from runtime.ops.masks import finish_labels
from runtime.ops.preprocess import normalize_contrast


def run(build: Callable[[Operators, str], str], array: NDArray[Any], out: int) -> NDArray[Any]:
    """Run a part of the graph on one array."""
    ops = Operators()
    name = build(ops, "given")
    kind = FLOAT if array.dtype == np.float32 else INT64
    given = helper.make_tensor_value_info("given", kind, array.shape)
    model = ops.model(given, helper.make_tensor_value_info(name, out, None), 20, 10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"given": array})
    return np.asarray(found)


IMAGES: dict[str, Callable[[np.random.Generator], NDArray[Any]]] = {
    "noise": lambda rng: rng.integers(0, 65536, (256, 256)),
    "dark": lambda rng: rng.poisson(0.2, (256, 256)),
    "steps": lambda rng: np.arange(256)[None] // 64 * np.ones((256, 1)),
    "constant": lambda rng: np.full((256, 256), 7),
    "zero": lambda rng: np.zeros((256, 256)),
    "one pixel": lambda rng: np.pad([[5.0]], ((0, 255), (255, 0))),
    "negative": lambda rng: rng.normal(size=(256, 256)),
}


@pytest.mark.parametrize("name", IMAGES)
def test_contrast_is_normalised_bit_for_bit(name: str) -> None:
    image = IMAGES[name](np.random.default_rng(0)).astype(np.float32)
    found = run(lambda ops, given: normalize_plane(ops, given, 256), image, FLOAT)
    np.testing.assert_array_equal(found, normalize_contrast(image)[..., 2])


def test_small_cells_go_and_holes_are_filled() -> None:
    config = view_settings(read_manifest(builtin_engine()))
    owner = np.zeros((64, 64), np.int64)
    owner[2:20, 2:20], owner[8:12, 8:12] = 1, 0  # a hole
    owner[30:33, 30:33] = 2  # too small
    owner[24:44, 2:8], owner[24:28, 2:20], owner[40:44, 2:20] = 3, 3, 3  # a bay, which is not a hole
    owner[46:62, 30:46], owner[46:62, 46:60] = 4, 5
    owner[52:56, 44:48] = 0  # a hole between two cells
    expected, _ = finish_labels(owner.astype(np.int32), 5, config)

    def finish(ops: Operators, given: str) -> str:
        labels = _without_small(ops, given, ops.whole(5), config.min_area_px)
        return _filled(ops, labels, 64)

    np.testing.assert_array_equal(run(finish, owner, INT64), expected)


@pytest.fixture(scope="module")
def composed() -> onnx.ModelProto:
    return compose(builtin_engine(), channels=3)


def test_labels_are_those_of_the_segmenter(composed: onnx.ModelProto) -> None:
    found = compare(composed, builtin_engine(), ["histology_img", "u2os_img"])
    assert len(found) == 2
    assert sum(one.cells for one in found) > 20
    assert all(one.passed for one in found)
    assert sum(one.differing_px for one in found) <= 8, [str(one) for one in found]


def test_an_image_without_cells_has_no_labels(composed: onnx.ModelProto) -> None:
    session = onnxruntime.InferenceSession(composed.SerializeToString(), providers=["CPUExecutionProvider"])
    (labels,) = session.run(None, {"image": np.full((1, 3, 512, 512), 3.0, np.float32)})
    assert labels.shape == (1, 1, 512, 512)
    with Segmenter(backend="cpu") as segmenter:
        blank = segmenter(np.full((512, 512, 3), 3.0), config=view_settings(segmenter.manifest))
    np.testing.assert_array_equal(labels[0, 0], blank.labels)


def test_other_engines_are_rejected(small_engines: Path) -> None:
    with pytest.raises(ExportError, match="Other engines run in the package itself"):
        compose(small_engines)
    with pytest.raises(ExportError, match="channels is 4"):
        compose(builtin_engine(), channels=4)
    with pytest.raises(ExportError, match="trained on images of one channel"):
        compose(builtin_engine(), channels=2)
