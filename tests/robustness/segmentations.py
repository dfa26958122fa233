"""Complete calls of the built-in model with any images, boxes and settings."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from runtime import Segmenter
from runtime.ops.preprocess import check_image
from tests.robustness.arrays import arrays, box_values, made_array, settings
from tests.robustness.base import Case, InputClass


@lru_cache(maxsize=1)
def _segmenter() -> Segmenter:
    return Segmenter(backend="cpu")


def _segmentations() -> SearchStrategy[Case]:
    boxes = st.none() | st.lists(st.lists(st.integers(-9, 49), min_size=4, max_size=4), max_size=3) | box_values()
    return st.fixed_dictionaries({"array": arrays(), "boxes": boxes, "settings": settings()})


def _check_segmentation(case: Case) -> None:
    segmenter = _segmenter()
    image = made_array(case["array"])
    config = replace(segmenter.config, **case["settings"])
    found = segmenter(image, boxes=case["boxes"], config=config)
    labels = found.labels
    assert labels.dtype == np.int32
    assert labels.shape == check_image(image).shape[:2]
    np.testing.assert_array_equal(np.unique(labels[labels > 0]), np.arange(1, len(found) + 1))
    assert np.isfinite(found.boxes).all()
    assert len(found.boxes) == len(found.scores) == len(found)


CLASSES = (InputClass("segmentations", _segmentations, _check_segmentation),)
