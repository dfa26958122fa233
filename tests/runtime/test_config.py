"""Settings are validated when they are created."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from runtime import BackendOptions, ConfigError, InputError, SegmentConfig, SegmenterError
from runtime.config import read_settings, with_overrides


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"box_threshold": 1.6}, r"box_threshold is 1.6; expected a value in \[0, 1.5\]"),
        ({"box_threshold": 1.1, "box_threshold_mode": "fixed"}, r"\[0, 1.0\]"),
        ({"box_threshold": -0.1}, "box_threshold is -0.1"),
        ({"box_threshold": float("nan")}, "box_threshold is nan"),
        ({"box_threshold_mode": "auto"}, "expected one of 'adaptive', 'fixed'"),
        ({"mask_threshold": 1.0}, r"\(0, 1\)"),
        ({"nms_iou": 1.1}, r"nms_iou is 1.1; expected a value in \[0, 1\]"),
        ({"view_diameter_px": 0.0}, "view_diameter_px is 0.0; expected a number above 0, or None"),
        ({"view_diameter_px": 30, "diameter_px": -2}, "diameter_px is -2; expected a number above 0"),
        ({"view_diameter_px": 30, "whole_view_diameter_px": float("nan")}, "finite"),
        ({"diameter_px": 20.0}, "images are shown whole without view_diameter_px; expected both or neither"),
        ({"diameter_um": 9.0}, "diameter_um is 9.0, but images are shown whole without view_diameter_px"),
        ({"view_diameter_px": 30, "diameter_um": 0}, "diameter_um is 0; expected a number above 0"),
        (
            {"view_diameter_px": 30, "diameter_um": 9, "diameter_px": 20},
            "diameter_px is 20 and diameter_um 9; expected",
        ),
        ({"iou_threshold": float("inf")}, "finite"),
        ({"mask_window": "tile"}, "expected one of 'box', 'full'"),
        ({"overlap": "first"}, "expected one of 'argmax', 'last'"),
        ({"min_area_px": -1}, "min_area_px is -1"),
        ({"min_area_px": 2.5}, "whole number"),
        ({"min_area_px": True}, "whole number"),
        ({"min_area_px": "a"}, "min_area_px is 'a'"),
        ({"min_area_px": float("inf")}, "whole number"),
        ({"box_threshold": "0.4"}, "box_threshold is '0.4'; expected a finite number"),
        ({"iou_threshold": None}, "iou_threshold is None"),
        ({"fill_holes": "no"}, "fill_holes is 'no'; expected True or False"),
        ({"normalize": 1}, "normalize is 1"),
    ],
)
def test_values_out_of_range_are_rejected(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SegmentConfig(**values)


def test_default_thresholds_are_those_of_the_released_code() -> None:
    config = SegmentConfig()
    assert (config.box_threshold, config.iou_threshold, config.mask_threshold) == (0.4, 0.5, 0.4)
    assert config.min_area_px == 25
    assert config.mask_threshold_logit == pytest.approx(-0.405465, abs=1e-6)


def test_a_diameter_in_micrometres_follows_the_pixel_size() -> None:
    config = SegmentConfig(view_diameter_px=40, diameter_um=12)
    assert config.at_pixel_size(0.5, "a.tif") == SegmentConfig(view_diameter_px=40, diameter_px=24)
    with pytest.raises(InputError, match=r"the pixel size of a\.tif is unknown.*micrometres \(12\)"):
        config.at_pixel_size(None, "a.tif")
    assert SegmentConfig().at_pixel_size(None, "a.tif") == SegmentConfig()


def test_a_diameter_that_is_given_takes_the_place_of_the_settings_own() -> None:
    of_um = SegmentConfig(view_diameter_px=40, diameter_um=12)
    of_px = SegmentConfig(view_diameter_px=40, diameter_px=24)
    none_given = {"diameter_px": None, "diameter_um": None, "view_diameter_px": None}
    assert with_overrides(of_um, none_given) == of_um
    assert with_overrides(of_um, {**none_given, "diameter_px": 24}) == of_px
    assert with_overrides(of_px, {**none_given, "diameter_um": 12}) == of_um
    assert with_overrides(of_um, {**none_given, "diameter_um": 9}) == SegmentConfig(view_diameter_px=40, diameter_um=9)
    for settings in (of_um, of_px):
        assert with_overrides(settings, {**none_given, "view_diameter_px": 0}) == SegmentConfig(), "shown whole"
        with pytest.raises(ConfigError, match=r"expected one\. Leave one out"):
            with_overrides(settings, {**none_given, "diameter_um": 12, "diameter_px": 24})
    with pytest.raises(ConfigError, match="images are shown whole"):
        with_overrides(of_um, {**none_given, "diameter_px": 24, "view_diameter_px": 0})


def test_threads() -> None:
    for threads in (0, 1.5, "2"):
        with pytest.raises(ConfigError, match=f"threads is {threads!r}; expected a whole number, 1 or more"):
            BackendOptions(threads=threads)  # type: ignore[arg-type]


def test_every_error_is_a_segmenter_error() -> None:
    assert issubclass(ConfigError, SegmenterError)


def test_settings_come_back_from_json(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text('{"box_threshold": 0.3}')
    assert read_settings(path) == SegmentConfig(box_threshold=0.3)
    path.write_text(json.dumps(asdict(SegmentConfig(overlap="last", min_area_px=3))))
    assert read_settings(path) == SegmentConfig(overlap="last", min_area_px=3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "expected an object"),
        ('{"treshold": 1}', "has treshold; expected an object with some of normalize, invert, box_threshold"),
        ('{"box_threshold": 7}', "box_threshold is 7"),
    ],
)
def test_wrong_settings_files_are_rejected(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_settings(path)
    with pytest.raises(ConfigError, match="No such file"):
        read_settings(tmp_path / "none.json")
