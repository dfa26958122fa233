"""Tests of the choice of thresholds on images with true labels."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from typer.testing import CliRunner

from runtime import InputError, SegmentConfig, Segmenter
from runtime.config import read_settings
from runtime.engines.manifest import read_manifest
from tests.training.evaluation.made import discs, row_of_squares, write_pair
from training.commands.evaluate import evaluate_app
from training.evaluation.dataset import find_samples, read_sample
from training.evaluation.engine_tuning import tune_settings


class Pretender:
    """Segmenter that finds more true cells the closer it is to a box threshold of 0.3 and an area of 40."""

    def __init__(self, truth: Any, lost_whole: int = 0) -> None:
        self.truth, self.lost_whole, self.encodings = truth, lost_whole, 0

    def encode(self, image: Any, *, config: SegmentConfig) -> float | None:
        self.encodings += 1
        return config.view_diameter_px

    def detect(self, views: float | None, *, config: SegmentConfig) -> str:
        assert views == config.view_diameter_px
        return f"of {views}"

    def decode(self, views: float | None, found: str, *, config: SegmentConfig) -> Any:
        assert found == f"of {config.view_diameter_px}"
        return self._found(config, self.lost_whole if views is None else round(abs(views - 32.0)) + 1)

    def _found(self, config: SegmentConfig, lost: int) -> Any:
        lost += round(20 * abs(config.box_threshold - 0.3)) + (config.min_area_px != 40)
        return SimpleNamespace(labels=np.where(self.truth > lost, self.truth, 0))


def test_the_best_settings_are_found_and_images_encoded_once(tmp_path: Path) -> None:
    for name in "ab":
        write_pair(tmp_path / "test" / "made", name, discs())
    samples = find_samples(tmp_path / "test")
    pretender = Pretender(read_sample(samples[0])[1])
    start = SegmentConfig(box_threshold_mode="fixed", box_threshold=0.5)
    seen: list[str] = []
    tuned = tune_settings(cast(Segmenter, pretender), samples, start, on_image=lambda sample: seen.append(sample.id))
    assert (tuned.config.box_threshold, tuned.config.min_area_px) == (0.3, 40)
    assert tuned.config.iou_threshold == start.iou_threshold  # no other value was better
    assert tuned.f1 == {samples[0].subset: 1.0}
    assert pretender.encodings == len(seen) == 2


@pytest.mark.parametrize(("lost", "best"), [(0, None), (2, 32.0)])
def test_the_best_way_to_show_an_image_is_chosen(tmp_path: Path, lost: int, best: float | None) -> None:
    """Choose the way with the best thresholds; a way that finds one cell less is not chosen."""
    write_pair(tmp_path / "test" / "made", "a", discs())
    samples = find_samples(tmp_path / "test")

    pretender = Pretender(read_sample(samples[0])[1], lost_whole=lost)
    start = SegmentConfig(box_threshold_mode="fixed", box_threshold=0.5, min_area_px=40)
    views = [{"view_diameter_px": 40.0}, {"view_diameter_px": 32.0}, {"view_diameter_px": 36.0}]
    tuned = tune_settings(cast(Segmenter, pretender), samples, start, views=views)
    assert tuned.config.view_diameter_px == best
    assert tuned.config.box_threshold == 0.3
    assert pretender.encodings == 4


def test_no_images_are_refused() -> None:
    with pytest.raises(InputError, match="no images to choose settings on"):
        tune_settings(cast(Segmenter, None), [], SegmentConfig())


def test_the_command_writes_settings_that_the_export_takes(small_engines: Path, tmp_path: Path) -> None:
    write_pair(tmp_path / "images" / "made", "a", discs())
    out = tmp_path / "settings.json"
    command = ["tune", "--model", str(small_engines), "--data", str(tmp_path / "images"), "--out", str(out)]
    result = CliRunner().invoke(evaluate_app, command)
    assert result.exit_code == 0, result.output
    assert "settings tried on 1 images" in result.stdout
    settings = read_settings(out)
    own = read_manifest(small_engines).config
    assert settings.box_threshold_mode in ("adaptive", "fixed")
    assert (settings.normalize, settings.overlap, settings.mask_window) == (True, own.overlap, own.mask_window)
    assert json.loads(out.read_text())["overlap"] == "argmax"


def test_the_search_begins_with_the_models_own_settings(small_engines: Path, tmp_path: Path) -> None:
    """Keep the thresholds if no change helps, as on images that fail for all thresholds."""
    engines = tmp_path / "engines"
    shutil.copytree(small_engines, engines)
    manifest = read_manifest(engines)
    own = replace(manifest.config, box_threshold=0.33, iou_threshold=0.45, min_area_px=31, invert=True)
    replace(manifest, config=own).write(engines)
    write_pair(tmp_path / "images" / "made", "a", row_of_squares(1, side=2), np.zeros((6, 6), np.uint8))
    out = tmp_path / "settings.json"
    command = ["tune", "--model", str(engines), "--data", str(tmp_path / "images"), "--out", str(out)]
    result = CliRunner().invoke(evaluate_app, command)
    assert result.exit_code == 0, result.output
    assert read_settings(out) == own
