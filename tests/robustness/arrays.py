"""Images, boxes and settings that a program might pass."""

from __future__ import annotations

import json
import math
import tempfile
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from numpy.typing import NDArray

from runtime import SegmentConfig
from runtime.config import read_settings, with_overrides
from runtime.ops.boxes import check_boxes
from runtime.ops.preprocess import check_image, normalize_contrast
from tests.robustness.base import Case, InputClass
from tests.robustness.mutations import edited, edits, values

DTYPES = (
    "|b1",
    "|u1",
    "|i1",
    "<u2",
    ">u2",
    "<i4",
    "<u8",
    "<i8",
    "<f2",
    "<f4",
    ">f4",
    "<f8",
    "<c8",
    "|O",
    "<U3",
    "<M8[s]",
)
FILLS = ("zeros", "ones", "noise", "ramp", "negative", "largest", "smallest", "nan", "infinite", "mixed", "cells")
FORMS = ("array", "fortran", "strided", "reversed", "read only", "masked", "list", "matrix", "subclass")


def arrays(longest: int = 40) -> SearchStrategy[Case]:
    """Draw descriptions of arrays of any type, shape, content and form."""
    side = st.integers(0, longest) | st.integers(1, 4)
    shapes = (
        st.lists(side, max_size=4)
        | st.tuples(side, side).map(list)
        | st.tuples(side, side, st.integers(1, 3)).map(list)
    )
    return st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(DTYPES),
            "shape": shapes,
            "fill": st.sampled_from(FILLS),
            "form": st.sampled_from(FORMS),
            "seed": st.integers(0, 99),
        }
    )


class _Subclass(np.ndarray):
    """A subclass of NumPy's array."""


def made_array(case: Case) -> Any:
    """Make the array of a description."""
    rng, kind, shape = np.random.default_rng(case["seed"]), np.dtype(case["dtype"]), tuple(case["shape"])
    number = np.prod(shape, dtype=int)
    with np.errstate(all="ignore"):
        content = _numbers(case["fill"], number, kind, rng)
        array: NDArray[Any] = content.astype(kind).reshape(shape) if kind.kind != "M" else np.zeros(shape, kind)
    return _in_form(case["form"], array)


def _numbers(fill: str, count: int, kind: np.dtype[Any], rng: np.random.Generator) -> NDArray[Any]:
    noise = rng.random(count) * 200
    if fill in ("largest", "smallest", "mixed"):
        ends: Any = np.finfo(kind) if kind.kind == "f" else np.iinfo(kind if kind.kind in "iu" else np.int64)
        if fill == "mixed":
            return np.where(noise > 100, ends.max, ends.min)
        return np.full(count, ends.max if fill == "largest" else ends.min)
    y = np.arange(count) % 40
    return {
        "zeros": np.zeros(count),
        "ones": np.ones(count),
        "noise": noise,
        "ramp": np.arange(count, dtype=float),
        "negative": -noise,
        "nan": np.where(noise > 190, np.nan, noise),
        "infinite": np.where(noise > 190, np.inf, noise),
        "cells": (y > 10) * (y < 25) * 100 + noise / 10,
    }[fill]


def _in_form(form: str, array: NDArray[Any]) -> Any:
    if form == "fortran":
        return np.asfortranarray(array)
    if form == "strided" and array.ndim:
        return np.repeat(array, 2, axis=0)[::2]
    if form == "reversed" and array.ndim:
        return array[::-1]
    if form == "read only":
        array.flags.writeable = False
    if form == "masked":
        return np.ma.masked_array(array, mask=np.arange(array.size).reshape(array.shape) % 7 == 3)
    if form == "list":
        return array.tolist()
    if form == "matrix" and array.ndim == 2:
        return np.asmatrix(array)
    return array.view(_Subclass) if form == "subclass" else array


def _check_array(case: Case) -> None:
    array = made_array(case)
    checked = check_image(array)
    assert checked.ndim == 3, checked.shape
    assert checked.size, "an image has pixels"
    assert np.isfinite(checked.astype(float)).all()
    found = normalize_contrast(array)
    assert found.dtype == np.float32
    assert found.shape == (*checked.shape[:2], 3)
    assert ((found >= 0) & (found <= 1)).all(), "the contrast is normalised"


def box_values() -> SearchStrategy[Any]:
    """Draw lists that resemble boxes, and other values."""
    edge = (
        st.integers(-50, 150) | st.floats(-50, 150) | st.floats() | st.integers() | st.sampled_from((10**400, -(2**63)))
    )
    return st.lists(st.lists(edge, min_size=4, max_size=4) | st.lists(edge, max_size=5), max_size=5) | values()


def _check_boxes(case: Case) -> None:
    height, width = case["size_hw"]
    found = check_boxes(case["boxes"], (height, width))
    assert found.ndim == 2, found.shape
    assert found.shape[1] == 4, found.shape
    assert np.isfinite(found).all()
    x0, y0, x1, y1 = found.T
    assert ((x0 < x1) & (y0 < y1) & (x0 < width) & (y0 < height) & (x1 > 0) & (y1 > 0)).all(), "boxes lie on the image"


NAMES = tuple(one.name for one in fields(SegmentConfig))


def settings() -> SearchStrategy[dict[str, Any]]:
    """Draw values for some settings, including valid ones."""
    words = st.sampled_from(("adaptive", "fixed", "box", "full", "argmax", "last", "auto"))
    value = values() | words | st.floats(0, 1.5) | st.integers(0, 100) | st.booleans() | st.sampled_from((10**400,))
    return st.dictionaries(st.sampled_from(NAMES), value, max_size=4)


def _check_settings(case: Case) -> None:
    config = SegmentConfig(**case["settings"])
    _check_whole(config)
    _check_whole(with_overrides(config, {"diameter_px": 10.0, "view_diameter_px": case["view"]}))
    _check_whole(config.at_pixel_size(0.5, "image"))


def _check_whole(config: SegmentConfig) -> None:
    assert math.isfinite(config.mask_threshold_logit)
    assert replace(config) == config
    assert SegmentConfig(**asdict(config.of_views)) == config.of_views


def _check_settings_file(case: Case) -> None:
    content = json.dumps(case["settings"]).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "settings.json"
        path.write_bytes(edited(content, case["edits"]))
        _check_whole(read_settings(path))


CLASSES = (
    InputClass("arrays", lambda: arrays(), _check_array),
    InputClass(
        "boxes",
        lambda: st.fixed_dictionaries(
            {"boxes": box_values(), "size_hw": st.tuples(st.integers(1, 99), st.integers(1, 99)).map(list)}
        ),
        _check_boxes,
    ),
    InputClass(
        "settings",
        lambda: st.fixed_dictionaries(
            {"settings": settings(), "view": st.none() | st.sampled_from((0, 30.0, -1, 1e308))}
        ),
        _check_settings,
    ),
    InputClass(
        "settings files",
        lambda: st.fixed_dictionaries({"settings": settings(), "edits": st.just([]) | edits(2)}),
        _check_settings_file,
    ),
)
