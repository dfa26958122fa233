"""The model in the form that sopa, Harpy and LazySlide call, without these packages."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime import Segmenter
from runtime.config import with_overrides
from runtime.engines.builtin import sample_images
from runtime.errors import ConfigError, InputError
from runtime.files.plain import read_image
from runtime.jobs.segmenter_spec import SegmenterSpec, forget_loaded
from runtime.spatial.methods import HarpyModel, LazySlideModel, SopaMethod, SpatialMethod
from runtime.types import I32

SPEC = SegmenterSpec(backend="cpu")


def crop(name: str) -> NDArray[Any]:
    path = next(path for path in sample_images() if path.name.startswith(name))
    return np.asarray(read_image(path))[:110, :120]


@pytest.fixture(scope="module")
def expected() -> Iterator[Any]:
    """Labels by the segmenter itself."""
    with Segmenter(backend="cpu") as segmenter:

        def labels(image: NDArray[Any], **settings: Any) -> I32:
            return segmenter(image, config=with_overrides(segmenter.config, settings)).labels

        yield labels
    forget_loaded()


def test_sopa_method(expected: Any) -> None:
    nuclei = crop("u2os")
    method = pickle.loads(pickle.dumps(SopaMethod(spec=SPEC)))
    found = method(nuclei[None])
    assert found.max() > 2
    np.testing.assert_array_equal(found, expected(nuclei))
    two = np.stack([nuclei, nuclei.T[:110, :110].repeat(2, 1)[:, :120]])
    np.testing.assert_array_equal(method(two), expected(np.moveaxis(two, 0, -1)))


def test_sopa_method_uses_its_settings(expected: Any) -> None:
    nuclei = crop("u2os")
    with Segmenter(backend="cpu") as segmenter:
        config = with_overrides(segmenter.config, {"diameter_px": 25.0, "min_area_px": 200})
    found = SopaMethod(spec=SPEC, config=config)(nuclei[None])
    np.testing.assert_array_equal(found, expected(nuclei, diameter_px=25.0, min_area_px=200))


def test_harpy_model(expected: Any) -> None:
    nuclei, model = crop("u2os"), HarpyModel(spec=SPEC)
    found = model(nuclei[None, ..., None], diameter_px=25.0)
    assert (found.shape, found.dtype) == ((1, 110, 120, 1), np.uint32)
    np.testing.assert_array_equal(found[0, ..., 0], expected(nuclei, diameter_px=25.0))


class Tensor:
    """An array-like that is not an array, such as a tensor."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self._array


@pytest.fixture
def lazyslide_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module with LazySlide's result class."""
    module: Any = ModuleType("lazyslide_models.base")
    module.SegmentationOutput = SimpleNamespace
    monkeypatch.setitem(sys.modules, "lazyslide_models", ModuleType("lazyslide_models"))
    monkeypatch.setitem(sys.modules, "lazyslide_models.base", module)


@pytest.mark.usefixtures("lazyslide_models")
def test_lazyslide_model(expected: Any) -> None:
    colour = crop("histology")
    model = LazySlideModel(SpatialMethod(spec=SPEC))
    assert model.to("cuda") is model
    assert model.get_transform() is None
    batch = np.stack([colour, colour[::-1]])
    found = model.segment(Tensor(batch)).instance_map
    np.testing.assert_array_equal(found, np.stack([expected(colour), expected(colour[::-1])]))
    np.testing.assert_array_equal(model.segment(np.moveaxis(batch, -1, 1)).instance_map, found)


@pytest.mark.usefixtures("lazyslide_models")
@pytest.mark.parametrize(
    ("call", "shape"),
    [
        (SopaMethod(), (4, 9, 9)),
        (SopaMethod(), (9, 9)),
        (HarpyModel(), (2, 9, 9, 1)),
        (LazySlideModel().segment, (9, 9)),
    ],
)
def test_wrong_shapes_are_rejected(call: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="has shape"):
        call(np.zeros(shape, np.uint8))


def test_wrong_settings_are_rejected() -> None:
    with pytest.raises(ConfigError, match="box_threshold is 7"):
        HarpyModel(spec=SPEC)(np.zeros((1, 9, 9, 1), np.uint8), box_threshold=7)
    assert Path(SPEC.directory).name == "nano"
