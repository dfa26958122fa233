"""Steps of a view through the engines, and the memory held along the way."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from runtime import Detections, InputError, SegmentConfig, Segmenter
from runtime.engines.backends.base import Engine
from runtime.errors import BackendError
from runtime.ops.preprocess import normalize_contrast
from runtime.pipeline.choose_views import choose_views, encode_tiles
from runtime.pipeline.encoded import EncodedView, without_features
from runtime.pipeline.pipeline import BoxPrompts, Pipeline
from runtime.pipeline.prepare import prepare
from runtime.pipeline.view_tasks import VIEWS_TOGETHER, ShownImage, ViewTask, segment_views
from runtime.types import Tensor, Tensors
from runtime.views.grid import cut_tile, grid_at_scale
from tests.runtime.test_segmenter import BOXES, OPEN, assert_identical

TILED = replace(OPEN, view_diameter_px=40.0, diameter_px=50.0)


class Watched(Engine):
    """An engine that records its calls and its closing."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.calls, self.closed = engine, 0, 0
        self.inputs, self.outputs = engine.inputs, engine.outputs

    def run(self, feeds: Mapping[str, Tensor], *, keep: Collection[str] = ()) -> Tensors:
        self.calls += 1
        return self.engine.run(feeds, keep=keep)

    def close(self) -> None:
        self.closed += 1


def watched(segmenter: Segmenter) -> tuple[Pipeline, dict[str, Watched]]:
    engines = {name: Watched(engine) for name, engine in segmenter.pipeline.engines.items()}
    return Pipeline(engines, segmenter.manifest), engines  # type: ignore[arg-type]


def test_batches_are_told_apart_by_identity(segmenter: Segmenter, image: Any) -> None:
    normalized = normalize_contrast(image)
    one, other = (segmenter.pipeline.encode([normalized])[0] for _ in range(2))
    assert one.batch != other.batch
    assert {one.batch: 1}.get(replace(one.batch)) is None
    again, same, apart = without_features([one, one, other])
    assert again.batch is same.batch
    assert again.batch is not apart.batch
    assert again.batch.patch_features is None
    assert again.batch.image_embedding is one.batch.image_embedding


def test_an_injected_pipeline_decides_what_is_found(segmenter: Segmenter, image: Any) -> None:
    class Finds(Pipeline):
        def detect(self, views: Sequence[EncodedView], config: SegmentConfig) -> list[Detections]:
            return [Detections(np.array(BOXES[:2], float), np.ones(2, np.float32), 0.5) for _ in views]

    base = segmenter.pipeline
    finds = Segmenter.from_pipeline(Finds(base.engines, base.manifest), OPEN)
    assert finds.config is OPEN
    assert finds.backend == "cpu"
    result, expected = finds(image), segmenter(image, boxes=BOXES[:2], config=OPEN)
    np.testing.assert_array_equal(result.labels, expected.labels)
    assert (result.prompts == -1).all()
    assert (result.scores == 1).all()


def test_what_measured_the_scale_is_not_run_again(segmenter: Segmenter, image: Any) -> None:
    """Other thresholds reuse the detections in the whole image."""
    pipeline, engines = watched(segmenter)
    counted = Segmenter.from_pipeline(pipeline, replace(OPEN, view_diameter_px=1000.0))
    views = counted.encode(image)
    assert [view.candidates is None for view in views] == [False]
    before = engines["encoder"].calls, engines["cellfinder"].calls
    for threshold in (0.4, 0.5, 0.6):
        config = replace(counted.config, box_threshold=threshold)
        assert_identical(
            counted.decode(views, counted.detect(views, config=config), config=config), segmenter(image, config=config)
        )
    assert (engines["encoder"].calls, engines["cellfinder"].calls) == before


def test_closing_reaches_every_engine(segmenter: Segmenter, image: Any) -> None:
    pipeline, engines = watched(segmenter)
    (view,) = pipeline.encode([normalize_contrast(image)])
    pipeline.close()
    assert [engine.closed for engine in engines.values()] == [1] * len(engines)
    prompts = BoxPrompts.of_caller([], view.size_hw)
    for call in (
        lambda: pipeline.encode([normalize_contrast(image)]),
        lambda: pipeline.detect([view], OPEN),
        lambda: pipeline.decode([view], [prompts], OPEN),
        lambda: pipeline.decode_logits(view, BOXES, OPEN),
        lambda: pipeline.cell_sizes(view, OPEN),
    ):
        with pytest.raises(BackendError, match="released by close"):
            call()


def test_features_are_freed_before_the_next_views_are_encoded(segmenter: Segmenter, image: Any) -> None:
    """While tiles are segmented, only the features of one group are held."""
    pipeline, normalized = segmenter.pipeline, normalize_contrast(image)
    grid = grid_at_scale(normalized.shape[:2], 20.0, pipeline.manifest.image_size, 40.0)
    assert len(grid) > 2 * VIEWS_TOGETHER
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def tasks() -> Iterator[ViewTask]:
        nonlocal most
        tiles = (cut_tile(normalized, origin, grid.side) for origin in grid.origins)
        for view in encode_tiles(pipeline, tiles):
            alive.append(weakref.ref(view.batch.patch_features))
            gc.collect()
            most = max(most, sum(one() is not None for one in alive))
            yield ViewTask(ShownImage(0, grid.size_hw, stitched=True), view)

    assert len(list(segment_views(pipeline, tasks(), OPEN))) == len(grid)
    assert most <= VIEWS_TOGETHER + 2


def test_views_come_with_their_places(segmenter: Segmenter, image: Any) -> None:
    images = [prepare(one, TILED, ()) for one in (image, image[:60, :50])]
    chosen = choose_views(segmenter.pipeline, images, TILED)
    places = [(place, view.origin_yx) for place, view, _ in chosen]
    assert [place for place, _ in places] == sorted(place for place, _ in places)
    assert [origin for place, origin in places if place == 1] == [(0, 0)]
    assert len(places) > 4


def test_given_boxes_are_checked() -> None:
    prompts = BoxPrompts.of_caller(BOXES, (519, 253))
    assert prompts.numbers.tolist() == [0, 1, 2, 3, 4]
    assert np.isnan(prompts.scores).all()
    with pytest.raises(InputError, match=r"scores have shape \(1,\); expected \(5,\)"):
        BoxPrompts.of_caller(BOXES, (519, 253), [1])
