"""Settings are checked when they are made."""

from __future__ import annotations

from typing import Any

import pytest

from runtime import BackendOptions, ConfigError, SegmentConfig, SegmenterError


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"box_threshold": 1.6}, r"box_threshold is 1.6; expected a value in \[0, 1.5\]"),
        ({"box_threshold": 1.1, "box_threshold_mode": "fixed"}, r"\[0, 1.0\]"),
        ({"box_threshold": -0.1}, "box_threshold is -0.1"),
        ({"box_threshold": float("nan")}, "box_threshold is nan"),
        ({"box_threshold_mode": "auto"}, "expected one of 'adaptive', 'fixed'"),
        ({"mask_threshold": 1.0}, r"\(0, 1\)"),
        ({"iou_threshold": float("inf")}, "finite"),
        ({"mask_window": "tile"}, "expected one of 'box', 'full'"),
        ({"overlap": "first"}, "expected one of 'argmax', 'last'"),
        ({"min_area_px": -1}, "min_area_px is -1"),
        ({"min_area_px": 2.5}, "whole number"),
        ({"min_area_px": True}, "whole number"),
    ],
)
def test_values_out_of_range(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SegmentConfig(**values)


def test_defaults_are_those_of_the_released_model() -> None:
    config = SegmentConfig()
    assert (config.box_threshold, config.iou_threshold, config.mask_threshold) == (0.4, 0.5, 0.4)
    assert config.min_area_px == 25
    assert config.mask_threshold_logit == pytest.approx(-0.405465, abs=1e-6)


def test_threads() -> None:
    with pytest.raises(ConfigError, match="threads is 0"):
        BackendOptions(threads=0)


def test_every_error_is_a_segmenter_error() -> None:
    assert issubclass(ConfigError, SegmenterError)
