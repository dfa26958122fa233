"""Tests of ``CellposeModel``, as scripts call it."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from runtime import ConfigError, EngineError, InputError, Segmenter
from runtime.cellpose import Cellpose, CellposeModel
from runtime.cellpose.settings import EvalSettings, chosen_channels
from runtime.config import SegmentConfig
from runtime.engines.builtin import sample_images
from runtime.files.plain import read_image

IMAGE = read_image(sample_images()[0])[:128, :128]
GRAY = IMAGE if IMAGE.ndim == 2 else IMAGE[..., 0]


@pytest.fixture(scope="module")
def model() -> CellposeModel:
    return CellposeModel(gpu=False)


def test_return_values(model: CellposeModel) -> None:
    masks, flows, styles = model.eval(GRAY, diameter=None, channels=[0, 0])
    np.testing.assert_array_equal(masks, Segmenter(backend=model._segmenter.backend)(GRAY).labels)
    assert masks.dtype == np.uint16
    assert masks.max() > 1
    assert [flow.shape for flow in flows] == [(128, 128, 3), (2, 128, 128), (128, 128)]
    assert styles.shape == (256,)
    assert model.gpu is False


def test_lists(model: CellposeModel) -> None:
    masks, flows, styles = model.eval([GRAY, GRAY[:64]], diameter=[20, 25], channels=[[0, 0]])
    assert [one.shape for one in masks] == [(128, 128), (64, 128)]
    assert len(flows) == len(styles) == 2
    np.testing.assert_array_equal(masks[1], model.eval(GRAY[:64], diameter=25)[0])
    assert model.eval([]) == ([], [], [])
    with pytest.raises(ConfigError, match="diameter has 3 entries for 2 images"):
        model.eval([GRAY, GRAY], diameter=[1, 2, 3])


def test_the_older_class_returns_diameters() -> None:
    masks, _, _, diameter = Cellpose(model_type="cyto3").eval(GRAY, diameter=22)
    assert diameter == 22
    assert masks.max() > 1
    _, _, _, measured = Cellpose().eval([GRAY])
    assert 5 < measured[0] < 60


def test_channels_are_found_and_chosen(model: CellposeModel) -> None:
    colour = np.stack([GRAY, np.zeros_like(GRAY), GRAY[::-1]], axis=-1)
    expected = model.eval(GRAY)[0]
    np.testing.assert_array_equal(model.eval(colour, channels=[1, 0])[0], expected)
    np.testing.assert_array_equal(model.eval(np.moveaxis(colour, -1, 0), channels=[1, 0])[0], expected)
    np.testing.assert_array_equal(model.eval(GRAY[None], channels=[3, 1], channel_axis=0)[0], expected)
    assert chosen_channels([2, 3], 3) == (2, 1)
    assert chosen_channels([2, 2], 3) == (1,)
    with pytest.raises(InputError, match=r"image has shape \(1, 1, 128, 128\)"):
        model.eval(GRAY[None, None])


def test_options_without_effect_are_named_and_unknown_ones_raise(model: CellposeModel, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        model.eval(GRAY[:64, :64], flow_threshold=0.4, batch_size=8, do_3D=False)
    assert "no effect here: batch_size, flow_threshold" in caplog.messages
    with pytest.raises(TypeError, match="no option flow_treshold"):
        model.eval(GRAY, flow_treshold=0.4)
    with pytest.raises(TypeError, match="no parameter modeltype"):
        CellposeModel(modeltype="cyto3")
    with pytest.raises(EngineError, match="my_weights does not exist"):
        CellposeModel(pretrained_model="my_weights")


def test_settings() -> None:
    defaults = SegmentConfig(view_diameter_px=40.0, mask_threshold=0.4)
    assert EvalSettings(diameter=0).config(defaults) == defaults
    changed = EvalSettings(diameter=30, min_size=-1, invert=True, cellprob_threshold=-1).config(defaults)
    assert (changed.diameter_px, changed.min_area_px, changed.invert) == (30.0, 0, True)
    assert changed.mask_threshold_logit == pytest.approx(defaults.mask_threshold_logit - 1)
    assert 0 < EvalSettings(cellprob_threshold=-999).config(defaults).mask_threshold < 1e-5
