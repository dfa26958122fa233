"""Batches of engine calls: halving if memory runs out, tensors that stay on a device, streams of images."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime import InputError, Segmenter
from runtime.engines.backends.base import Engine
from runtime.errors import OutOfMemoryError
from runtime.ops.preprocess import normalize_contrast
from runtime.pipeline.engine_calls import DecodedMasks
from runtime.pipeline.ordered import in_order, worker_threads
from runtime.pipeline.pipeline import Pipeline
from runtime.types import Tensor, Tensors
from tests.runtime.test_segmenter import BOXES, OPEN, assert_same, every


class OnDevice:
    """A tensor that only engines of the same backend accept."""

    readable = False

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        self.shape = array.shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        assert self.readable, "this tensor has no business on the host"
        return self.array


class Small(Engine):
    """An engine with memory for at most ``most`` images or boxes, whose kept tensors stay on its device."""

    def __init__(self, engine: Engine, most: int, calls: list[int]) -> None:
        self.engine, self.limit, self.calls = engine, most, calls
        self.inputs, self.outputs = engine.inputs, engine.outputs

    def run(self, feeds: Mapping[str, Tensor], *, keep: Collection[str] = ()) -> Tensors:
        size = feeds.get("boxes_xyxy_model", feeds[self.inputs[0].name]).shape[0]
        self.calls.append(size)
        if size > self.limit:
            raise OutOfMemoryError(f"{size} do not fit")
        outputs = self.engine({n: t.array if isinstance(t, OnDevice) else t for n, t in feeds.items()})
        return {name: OnDevice(array) if name in keep else array for name, array in outputs.items()}


def on_device(segmenter: Segmenter, *, most: int, images_per_call: int, boxes_per_call: int) -> tuple[Segmenter, Any]:
    """Run the same engines on a device."""
    calls: dict[str, list[int]] = {name: [] for name in segmenter.pipeline.engines}
    engines = {name: Small(engine, most, calls[name]) for name, engine in segmenter.pipeline.engines.items()}
    pipeline = Pipeline(engines, segmenter.manifest, images_per_call=images_per_call, boxes_per_call=boxes_per_call)
    return Segmenter.from_pipeline(pipeline), calls


def test_tensors_stay_on_the_device(segmenter: Segmenter, image: Any) -> None:
    """Images encoded together share one detector call and decoder calls; no tensor is copied to the host."""
    images = [image, image[:300], image[100:, 50:]]
    device, calls = on_device(segmenter, most=100, images_per_call=3, boxes_per_call=64)
    for mine, expected in zip(device.batch(images, config=OPEN), segmenter.batch(images, config=OPEN), strict=True):
        # Scores of this model are nearly tied, so rounding decides their order.
        boxes = [np.sort(every(result).boxes, axis=0) for result in (mine, expected)]
        np.testing.assert_allclose(*boxes, rtol=1e-5, atol=1e-3)
        assert ((mine.labels > 0) == (expected.labels > 0)).mean() > 0.999
    assert calls["encoder"] == calls["cellfinder"] == [3]
    assert max(calls["mask_decoder"]) > 16


def test_the_detector_looks_once_at_a_large_call(segmenter: Segmenter, image: Any) -> None:
    """More images are encoded together than views are usually held."""
    device, calls = on_device(segmenter, most=100, images_per_call=10, boxes_per_call=64)
    assert len(device.batch([image[:300]] * 10, config=OPEN)) == 10
    assert calls["encoder"] == calls["cellfinder"] == [10]


def test_user_boxes_on_the_device(segmenter: Segmenter, image: Any) -> None:
    device, calls = on_device(segmenter, most=100, images_per_call=2, boxes_per_call=64)
    found = device.batch([image] * 3, boxes=[BOXES] * 3, config=OPEN)
    for result in found:
        assert_same(result, segmenter(image, boxes=BOXES, config=OPEN), exact=False)
    assert calls["encoder"] == [2, 1]
    assert calls["cellfinder"] == []


def test_whole_images_are_measured_together(segmenter: Segmenter, image: Any) -> None:
    images = [image, image[:300], image[100:, 50:]]
    config = replace(OPEN, view_diameter_px=1000.0)
    device, calls = on_device(segmenter, most=100, images_per_call=2, boxes_per_call=64)
    for mine, expected in zip(device.batch(images, config=config), segmenter.batch(images, config=config), strict=True):
        assert ((mine.labels > 0) == (expected.labels > 0)).mean() > 0.999
    assert calls["encoder"].count(2) == calls["cellfinder"].count(2) == 1
    assert calls["encoder"][0] == 2


def test_calls_are_halved_until_they_fit(segmenter: Segmenter, image: Any) -> None:
    device, calls = on_device(segmenter, most=2, images_per_call=4, boxes_per_call=16)
    expected = segmenter.batch([image] * 4, boxes=[BOXES] * 4, config=OPEN)
    for mine, other in zip(device.batch([image] * 4, boxes=[BOXES] * 4, config=OPEN), expected, strict=True):
        assert_same(mine, other, exact=False)
    assert calls["encoder"] == [4, 2, 2]
    assert set(calls["mask_decoder"]) & {1, 2}


def test_detection_is_halved_until_it_fits(segmenter: Segmenter, image: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    device, calls = on_device(segmenter, most=100, images_per_call=4, boxes_per_call=16)
    device.pipeline.engines["cellfinder"].limit = 2  # type: ignore[attr-defined]
    monkeypatch.setattr(OnDevice, "readable", True)
    images = [image[:300], image, image[100:]]
    apart = [view for one in images for view in device.encode(one, config=OPEN)]
    together = device.pipeline.encode([normalize_contrast(one) for one in images])
    found, expected = (device.pipeline.detect(views, OPEN) for views in (together, apart))
    for mine, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.sort(mine.scores), np.sort(other.scores), atol=1e-5)
    assert calls["cellfinder"] == [3, 1, 2, 1, 1, 1]


def test_one_box_that_does_not_fit_is_an_error(segmenter: Segmenter, image: Any) -> None:
    device, _ = on_device(segmenter, most=0, images_per_call=4, boxes_per_call=16)
    with pytest.raises(OutOfMemoryError, match="1 do not fit"):
        device(image, config=OPEN)


def test_a_stream_gives_what_single_calls_give(segmenter: Segmenter, image: Any) -> None:
    images = [image[:200], image, image[200:, :150], image[50:300], image[:, :100]]
    expected = [segmenter(one, boxes=None, config=OPEN) for one in images]
    sources = [images[0], lambda: images[1], *images[2:]]
    for result, other in zip(segmenter.stream(sources, config=OPEN, images_together=2), expected, strict=True):
        assert_same(result, other)


def test_a_stream_raises_at_the_group_that_fails(segmenter: Segmenter, image: Any) -> None:
    results = segmenter.stream([image[:100, :100], np.zeros((0, 5)), image], config=OPEN, images_together=1)
    assert next(results).labels.shape == (100, 100)
    with pytest.raises(InputError, match="image is empty"):
        next(results)


@pytest.mark.parametrize(("cores", "expected"), [(1, 2), (4, 4), (64, 8)])
def test_threads_follow_cores_and_backend(cores: int, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert worker_threads(on_gpu=True) == expected
    assert worker_threads(on_gpu=False) == 2


@given(count=st.integers(0, 40), together=st.integers(1, 5), workers=st.integers(1, 4))
def test_order_and_bound(count: int, together: int, workers: int) -> None:
    taken, given_back, most = 0, 0, 0
    lock = threading.Lock()

    def source() -> Any:
        nonlocal taken, most
        for number in range(count):
            with lock:
                taken += 1
                most = max(most, taken - given_back)
            yield number

    results = []
    for value in in_order(lambda group: [n * n for n in group], source(), together=together, workers=workers):
        given_back += 1
        results.append(value)
    assert results == [n * n for n in range(count)]
    assert most <= 2 * workers * together + together


def test_nothing_is_begun_after_the_caller_stops() -> None:
    begun = []
    results = in_order(lambda group: begun.append(group) or group, range(1000), together=1, workers=1)
    assert next(results) == 0
    results.close()  # type: ignore[attr-defined]
    assert len(begun) <= 3


def test_boxes_of_several_views_get_the_embeddings_of_their_views(segmenter: Segmenter, image: Any) -> None:
    """Calls need neighbouring views, views apart, or a single one; each box gets what it gets alone."""
    images = [image, image[::-1], image[:, ::-1], image[:300]]
    views = [view for one in images for view in segmenter.encode(one, detector=False, config=OPEN)]
    calls, boxes = segmenter.pipeline.calls, np.asarray(BOXES, np.float64)
    for counts in ((1, 1, 1, 1), (1, 0, 0, 2), (2, 0, 1, 0), (0, 0, 0, 2)):
        given = [boxes[:count] for count in counts]
        together = {(view, n): m for view, masks in calls.decode(views, given, full=True) for n, m in rows(masks)}
        for place, alone in enumerate(given):
            for _, masks in calls.decode([views[place]], [alone], full=True):
                for n, mask in rows(masks):
                    np.testing.assert_allclose(together[place, n], mask, atol=1e-4)
        assert len(together) == sum(len(one) for one in given)


def rows(masks: DecodedMasks) -> list[tuple[int, Any]]:
    """Return the index of each box and its logits."""
    return list(zip(masks.index.tolist(), masks.logits, strict=True))
