"""Arguments with which the engines of a slide are loaded, and what identifies the engines of a job."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from runtime import BackendOptions
from runtime.jobs import segmenter_spec as engine_spec
from runtime.jobs.slides import EngineSpec


@pytest.mark.parametrize(("backend", "images", "boxes"), [("cpu", 1, 16), ("openvino", 1, 16), ("cuda", 4, 64)])
def test_calls_are_as_large_as_suits_the_backend(
    monkeypatch: pytest.MonkeyPatch, backend: str, images: int, boxes: int
) -> None:
    monkeypatch.setattr(engine_spec, "resolve_backend", lambda asked, directory, device: asked)
    loaded: list[dict[str, Any]] = []
    monkeypatch.setattr(
        engine_spec, "Segmenter", lambda directory, **given: loaded.append(given) or SimpleNamespace(pipeline=None)
    )
    engine_spec.forget_loaded()
    spec = EngineSpec(backend=backend)
    spec.load()
    assert (loaded[0]["images_per_call"], loaded[0]["boxes_per_call"]) == (None, None), "left to the segmenter"
    identity = spec.identity()
    assert (identity["images_per_call"], identity["boxes_per_call"]) == (str(images), str(boxes))

    same = EngineSpec(backend=backend, images_per_call=images, boxes_per_call=boxes)
    assert same.identity() == identity, "explicit or by default, it is the same job"
    other = EngineSpec(backend=backend, boxes_per_call=5)
    other.load()
    assert loaded[1]["boxes_per_call"] == 5
    assert other.identity() == {**identity, "boxes_per_call": "5"}
    graphs = EngineSpec(backend=backend, options=BackendOptions(cuda_graphs=True))
    assert graphs.identity() == {**identity, "cuda_graphs": "True"}, "a different number of boxes per call"
    engine_spec.forget_loaded()
