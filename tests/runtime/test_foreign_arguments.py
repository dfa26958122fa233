"""Unsuitable arguments of any kind raise an error of this library."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from runtime import ConfigError, InputError, SegmentConfig, Segmenter, SegmenterError
from runtime.ops.boxes import check_boxes
from runtime.ops.preprocess import check_image, equalized_plane, normalize_contrast
from runtime.pipeline.pipeline import BoxPrompts


class Failing:
    """An object whose own methods fail."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        raise self.error

    def __repr__(self) -> str:
        raise self.error


def foreign() -> dict[str, Any]:
    plane = torch.ones(4, 4)
    masked = np.ma.masked_less(np.arange(16.0).reshape(4, 4), 3)
    return {
        "needs a gradient": plane.clone().requires_grad_(),
        "bfloat16": plane.to(torch.bfloat16),
        "sparse": plane.to_sparse(),
        "without data": plane.to("meta"),
        "fails": Failing(KeyError("lost")),
        "fails otherwise": Failing(AttributeError("lost")),
        "no memory": Failing(MemoryError()),
        "masked": masked,
        "complex": np.ones((4, 4), complex),
        "texts": [["1", "2", "3", "4"]],
        "dates": np.zeros((4, 4), "M8[s]"),
        "structured": np.zeros((4, 4), [("a", "f4")]),
        "a dict": {},
        "a generator": (row for row in range(3)),
        "None": None,
        "huge": [[0, 0, 10**400, 10**400]],
        "ragged": [[1, 2], [3]],
    }


@pytest.fixture(scope="module")
def idle() -> Segmenter:
    """Create a segmenter whose engines are never called."""
    manifest = SimpleNamespace(trained_channels=())
    pipeline: Any = SimpleNamespace(images_per_call=1, manifest=manifest, equalized_plane=equalized_plane)
    return Segmenter.from_pipeline(pipeline, SegmentConfig())


@pytest.mark.parametrize("name", foreign())
def test_foreign_arrays(name: str, idle: Segmenter) -> None:
    value = foreign()[name]
    size_hw = (50, 50)
    calls = (lambda: check_image(value), lambda: check_boxes(value, size_hw), lambda: idle(value))
    for call in calls:
        with pytest.raises(InputError):
            call()
    if value is not None:
        with pytest.raises(InputError):
            BoxPrompts.of_caller([[0, 0, 9, 9]], size_hw, value)


def test_what_to_do_with_a_tensor() -> None:
    tensor = torch.rand(4, 4).requires_grad_()
    with pytest.raises(InputError, match=r"image cannot be read as an array \(Tensor; RuntimeError: .*tensor\.detach"):
        normalize_contrast(tensor)
    assert check_image(tensor.detach()).shape == (4, 4, 1)


def test_masked_boxes_are_rejected_and_filled_ones_accepted() -> None:
    boxes = np.ma.array([[1.0, 1, 5, 5], [2, 2, 7, 7]], mask=[[0, 0, 0, 0], [0, 1, 0, 0]])
    with pytest.raises(InputError, match=r"boxes has 1 masked of 8 values.*boxes\.filled\(0\)"):
        check_boxes(boxes, (9, 9))
    np.testing.assert_array_equal(check_boxes(boxes.filled(0), (9, 9))[1], [2, 0, 7, 7])


NOT_NUMBERS = (10**400, -(10**5000), np.array([1.0, 2.0]), np.complex64(1), "1", float("nan"), [], Failing(KeyError()))


@pytest.mark.parametrize("name", ["iou_threshold", "box_threshold", "whole_view_diameter_px", "view_diameter_px"])
@pytest.mark.parametrize("value", NOT_NUMBERS, ids=lambda value: type(value).__name__)
def test_settings_that_are_not_numbers(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} is .{{0,200}}; expected a"):
        SegmentConfig(**{name: value})


@pytest.mark.parametrize("value", [10**5000, 2**60, -1, 1.5, np.arange(3), Failing(KeyError())], ids=type)
def test_counts_that_are_not_whole_numbers(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^min_area_px is .* expected a whole number"):
        SegmentConfig(min_area_px=value)


@pytest.mark.parametrize("value", [np.array(["box"]), ["box"], 3, None])
def test_unknown_choices(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^mask_window is .*expected one of 'box', 'full'"):
        SegmentConfig(mask_window=value)


WRONG_CALLS: dict[str, tuple[Any, str]] = {
    "config": (lambda s: s(np.ones((9, 9)), config={}), "config is {}, of type dict; expected a SegmentConfig"),
    "config of batch": (lambda s: s.batch([], config=0), "config is 0, of type int"),
    "generator": (lambda s: s.batch(image for image in ()), r"images is of type generator.*batch\(list\(images\)\)"),
    "dict": (lambda s: s.batch({"a": np.ones((9, 9))}), "images is of type dict"),
    "boxes": (lambda s: s.batch([], boxes=iter(())), r"boxes is of type .*iterator.*boxes=list\(boxes\)"),
    "stream": (lambda s: s.stream(3), "images is of type int; expected an iterable of images"),
    "detect": (lambda s: s.detect(None), r"views is of type NoneType.*segmenter\.encode\(image\)"),
    "decode": (lambda s: s.decode([], []), "views is of type list"),
    "directory": (lambda _: Segmenter(5), "engine_dir is 5, of type int"),  # type: ignore[arg-type]
    "backend": (lambda _: Segmenter(backend=None), "backend is None, of type NoneType"),  # type: ignore[arg-type]
    "options": (lambda _: Segmenter(options={}), "options is {}, of type dict"),  # type: ignore[arg-type]
    "sha256": (lambda _: Segmenter(sha256=b"00"), "sha256 is b'00', of type bytes"),  # type: ignore[arg-type]
    "settings": (lambda _: Segmenter(config={}), "config is {}"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", WRONG_CALLS)
def test_arguments_of_wrong_types(name: str, idle: Segmenter) -> None:
    call, message = WRONG_CALLS[name]
    with pytest.raises(SegmenterError, match=message):
        call(idle)
