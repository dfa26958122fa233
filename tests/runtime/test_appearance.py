"""Polarity, diameter and channels, as measured and chosen by the built-in model."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime import SegmentConfig, Segmenter
from runtime.engines.builtin import sample_images
from runtime.engines.manifest import Manifest
from runtime.files.plain import read_image
from runtime.pipeline.pipeline import Pipeline
from runtime.pipeline.prepare import prepare
from runtime.results import Segmentation


@pytest.fixture(scope="module")
def nano() -> Segmenter:
    return Segmenter(backend="cpu")


@pytest.fixture(scope="module")
def nuclei() -> NDArray[np.generic]:
    return read_image(next(path for path in sample_images() if path.name.startswith("u2os")))[:256, :256]


def overlap(one: Segmentation, other: Segmentation) -> float:
    """Compute the IoU of the pixels of all cells."""
    both = (one.labels > 0) & (other.labels > 0)
    return float(both.sum() / ((one.labels > 0) | (other.labels > 0)).sum())


def test_dark_cells_are_found_automatically(nano: Segmenter, nuclei: NDArray[np.generic]) -> None:
    config = replace(nano.config, invert="auto")
    plain = nano(nuclei, config=config)
    assert not plain.appearance.inverted
    negative = nano(255 - nuclei, config=config)
    assert negative.appearance.inverted
    assert negative.appearance.invert_margin is not None
    assert negative.appearance.invert_margin > 0.05
    assert overlap(plain, negative) > 0.95
    inverted = nano(255 - nuclei, config=replace(nano.config, invert=True))
    np.testing.assert_array_equal(inverted.labels, negative.labels)
    assert inverted.appearance.invert_margin is None


@pytest.mark.parametrize("view", [None, 52.0])
def test_polarity_at_a_scale_that_is_given(nano: Segmenter, nuclei: NDArray[np.generic], view: float | None) -> None:
    diameter = None if view is None else 30.0
    config = replace(nano.config, invert="auto", view_diameter_px=view, diameter_px=diameter)
    result = nano(255 - nuclei, config=config)
    assert result.appearance.inverted
    assert result.appearance.diameter_px == diameter
    assert result.appearance.diameter_confidence is None


def test_the_other_polarity_is_not_looked_at_if_the_first_is_sure(
    nano: Segmenter, nuclei: NDArray[np.generic], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    encode = Pipeline.encode

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return encode(*arguments, **options)

    monkeypatch.setattr(Pipeline, "encode", counted)
    nano(nuclei, config=replace(nano.config, invert=False))
    expected, calls = calls, 0
    result = nano(nuclei, config=replace(nano.config, invert="auto"))
    assert calls == expected
    assert result.appearance.invert_margin is None


def test_the_measured_diameter_is_in_the_result(nano: Segmenter, nuclei: NDArray[np.generic]) -> None:
    result = nano(nuclei)
    areas = np.bincount(result.labels.ravel())[1:]
    measured = float(np.median(2 * np.sqrt(areas / np.pi)))
    assert result.appearance.diameter_px == pytest.approx(measured, rel=0.2)
    assert result.appearance.diameter_confidence is not None
    assert 0.6 < result.appearance.diameter_confidence < 1
    assert not result.appearance.doubtful
    assert result[:2].appearance == result.appearance
    encoded = nano.encode(nuclei)
    assert encoded.appearance == result.appearance
    assert nano.decode(encoded, nano.detect(encoded)).appearance == result.appearance


def test_a_doubtful_diameter_causes_a_warning(
    nano: Segmenter, nuclei: NDArray[np.generic], caplog: pytest.LogCaptureFixture
) -> None:
    """A single cell gives an uncertain measurement."""
    (first,) = nano(nuclei)[:1].boxes.astype(int)
    x0, y0, x1, y1 = np.maximum(first, 0)
    dark = np.full_like(nuclei, nuclei.min())
    dark[y0:y1, x0:x1] = nuclei[y0:y1, x0:x1]
    with caplog.at_level(logging.WARNING):
        one, sure = nano.batch([dark, nuclei])
    assert len(one) == 1
    assert one.appearance.doubtful
    assert not sure.appearance.doubtful
    (record,) = (record for record in caplog.records if "diameter_px" in record.getMessage())
    assert record.image_of_call == 0  # type: ignore[attr-defined]


def test_weights_of_one_channel_see_the_nuclei_alone(
    nano: Segmenter, nuclei: NDArray[np.generic], caplog: pytest.LogCaptureFixture
) -> None:
    pair = np.stack([nuclei, np.roll(nuclei, 40, axis=0)], axis=-1)
    manifest: Manifest = replace(nano.manifest, trained_channels=(1, 3))
    single = Segmenter.from_pipeline(Pipeline(nano.pipeline.engines, manifest), nano.config)
    with caplog.at_level(logging.WARNING):
        result = single(pair)
    assert result.appearance.nuclear_alone
    np.testing.assert_array_equal(result.labels, single(nuclei).labels)
    assert "only the nuclear channel is used" in caplog.text
    both = Segmenter.from_pipeline(
        Pipeline(nano.pipeline.engines, replace(manifest, trained_channels=(1, 2, 3))), nano.config
    )
    assert not both(pair).appearance.nuclear_alone


@pytest.mark.parametrize("trained", [(), (1, 2), (2,)])
def test_channels_that_weights_may_know_are_kept(trained: tuple[int, ...]) -> None:
    pair = np.random.default_rng(0).integers(0, 255, (40, 30, 2), np.uint8)
    prepared = prepare(pair, SegmentConfig(), trained)
    assert not prepared.nuclear_alone
    assert (prepared.values[..., 1:].max(axis=(0, 1)) > 0).all()


def test_boxes_of_small_cells_are_decoded_at_their_scale(nano: Segmenter, nuclei: NDArray[np.generic]) -> None:
    """One view of a large field would show the cells a few pixels wide, but masks are as good as in the small field."""
    alone = nano(nuclei)
    field = np.full((2000, 2000), nuclei.min())
    field[700:956, 900:1156] = nuclei
    boxes = np.add(alone.boxes, (900, 700, 900, 700))
    placed = nano(field, boxes=boxes)
    assert len(placed) > 0.9 * len(alone)
    there = placed.labels[700:956, 900:1156] > 0
    assert (there & (alone.labels > 0)).sum() / (there | (alone.labels > 0)).sum() > 0.9
