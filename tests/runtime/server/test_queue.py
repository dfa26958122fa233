"""Tests of the queue in front of the engines and of the cache of embeddings."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import InputError
from runtime.files.plain import read_image
from runtime.pipeline.encoded import EncodedViews
from runtime.results import Segmentation
from runtime.segmenter import Segmenter
from runtime.server.client import Client, ServerError
from runtime.server.http.failures import RequestError
from runtime.server.http.metrics import Metrics
from runtime.server.work.embeddings import Embedding, EmbeddingCache
from runtime.server.work.engine_queue import EngineQueue


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def queue(segmenter: Segmenter, metrics: Metrics) -> Iterator[EngineQueue]:
    queue = EngineQueue(segmenter, 4, metrics)
    yield queue
    queue.close()


@pytest.fixture(scope="module")
def views(segmenter: Segmenter, images: Path) -> list[EncodedViews]:
    """Return two encoded images."""
    return [
        segmenter.encode(read_image(images / name), detector=False) for name in ("fluorescence_img.png", "part.tif")
    ]


def made_boxes(count: int, seed: int, size_hw: tuple[int, int]) -> np.ndarray:
    random = np.random.default_rng(seed)
    corner = random.uniform(0, 0.6, (count, 2)) * size_hw[::-1]
    return np.hstack((corner, corner + random.uniform(15, 40, (count, 2))))


def assert_same(one: Segmentation, other: Segmentation) -> None:
    np.testing.assert_array_equal(one.labels, other.labels)
    # The size of a decoder call changes the order of sums, and thus the last bits.
    np.testing.assert_allclose(one.iou_predictions, other.iou_predictions, rtol=1e-5)
    np.testing.assert_array_equal(one.prompts, other.prompts)


def test_images_decoded_together_have_the_results_of_single_calls(
    segmenter: Segmenter, views: list[EncodedViews]
) -> None:
    shown = [views[0], views[1], views[0]]
    boxes = [made_boxes(5, 1, views[0].size_hw), made_boxes(3, 2, views[1].size_hw), np.zeros((0, 4))]
    for one, result, given in zip(shown, segmenter.decode_batch(shown, boxes), boxes, strict=True):
        assert_same(result, segmenter.decode(one, boxes=given))


def test_decode_batch_checks_its_arguments(segmenter: Segmenter, views: list[EncodedViews]) -> None:
    with pytest.raises(InputError, match="boxes has 0 entries for 1 images"):
        segmenter.decode_batch(views[:1], [])
    with pytest.raises(InputError, match="views is of type EncodedViews; expected a list"):
        segmenter.decode_batch(views[0], [[]])  # type: ignore[arg-type]


def test_boxes_that_wait_share_decoder_calls(
    queue: EngineQueue, segmenter: Segmenter, metrics: Metrics, views: list[EncodedViews]
) -> None:
    busy, go = threading.Event(), threading.Event()

    def hold() -> None:
        busy.set()
        go.wait(30)

    held = queue.run_prompt(hold)
    assert busy.wait(30)
    other = replace(segmenter.config, mask_threshold=0.6)
    tasks: list[tuple[Future[Segmentation], Segmentation]] = []
    for seed in range(6):
        shown, config = views[seed % 2], other if seed == 5 else segmenter.config
        boxes = made_boxes(seed + 1, seed, shown.size_hw)
        tasks.append((queue.decode(shown, boxes, config), segmenter.decode(shown, boxes=boxes, config=config)))
    go.set()
    held.result(30)
    for future, expected in tasks:
        assert_same(future.result(30), expected)
    lines = metrics.text().decode().splitlines()
    assert "cellsam_boxes_total 21.0" in lines
    assert "cellsam_box_batches_total 2.0" in lines, "one for each configuration"


def test_one_failure_does_not_fail_the_others(
    queue: EngineQueue, segmenter: Segmenter, views: list[EncodedViews], monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = segmenter.decode_batch

    def fail_for_three(shown: list[EncodedViews], boxes: list[np.ndarray], **settings: object) -> list[Segmentation]:
        if any(len(given) == 3 for given in boxes):
            raise InputError("three boxes")
        return decode(shown, boxes, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(segmenter, "decode_batch", fail_for_three)
    boxes = [made_boxes(count, count, views[0].size_hw) for count in (2, 3, 4)]
    futures = [queue.decode(views[0], given, segmenter.config) for given in boxes]
    assert isinstance(futures[1].exception(30), InputError)
    monkeypatch.undo()
    for future, given in ((futures[0], boxes[0]), (futures[2], boxes[2])):
        assert_same(future.result(30), segmenter.decode(views[0], boxes=given))


def test_slots_are_limited_and_given_back(queue: EngineQueue) -> None:
    with queue.slot(), queue.slot(), queue.slot(), queue.slot():
        with pytest.raises(RequestError) as caught, queue.slot():
            pass
        assert (caught.value.status, caught.value.kind) == (429, "busy")
    assert queue.taken == 0


def test_an_image_in_work_does_not_hold_up_boxes(
    queue: EngineQueue, segmenter: Segmenter, views: list[EncodedViews]
) -> None:
    go = threading.Event()
    image = queue.run_image(lambda: go.wait(30))
    boxes = made_boxes(2, 3, views[0].size_hw)
    assert_same(queue.decode(views[0], boxes, segmenter.config).result(30), segmenter.decode(views[0], boxes=boxes))
    assert not image.done()
    go.set()
    assert image.result(30)


def test_closing_cancels_what_waits(segmenter: Segmenter, metrics: Metrics) -> None:
    queue, busy, go = EngineQueue(segmenter, 4, metrics), threading.Event(), threading.Event()

    def hold() -> str:
        busy.set()
        go.wait(30)
        return "done"

    working, waiting = queue.run_image(hold), queue.run_image(lambda: "never")
    assert busy.wait(30)
    closing = threading.Thread(target=queue.close)
    closing.start()
    go.set()
    closing.join(30)
    assert working.result(30) == "done"
    with pytest.raises(CancelledError):
        waiting.result(30)
    assert queue.run_image(lambda: "late").cancelled()


def embedding(views: EncodedViews, segmenter: Segmenter, size_bytes: int) -> Embedding:
    return replace(Embedding.of(views, segmenter.config), size_bytes=size_bytes)


def test_the_least_recently_used_embeddings_are_dropped(segmenter: Segmenter, views: list[EncodedViews]) -> None:
    cache = EmbeddingCache(100)
    for name in "abc":
        cache.put(name, embedding(views[0], segmenter, 30))
    assert cache.get("a") is not None
    cache.put("d", embedding(views[0], segmenter, 30))
    assert [name for name in "abcd" if cache.get(name)] == ["a", "c", "d"]
    assert (len(cache), cache.size_bytes) == (3, 90)
    cache.put("a", embedding(views[0], segmenter, 50))
    assert cache.size_bytes <= 100
    cache.put("large", embedding(views[0], segmenter, 500))
    assert (len(cache), cache.size_bytes) == (1, 500), "the newest one is kept"
    assert cache.drop("large")
    assert (len(cache), cache.size_bytes) == (0, 0)
    assert not cache.drop("large")


def test_sixteen_users_at_once_get_the_results_of_one(
    live: Client, segmenter: Segmenter, images: Path, found: Segmentation
) -> None:
    shown = segmenter.encode(read_image(images / "part.tif"), detector=False)

    def use(seed: int) -> None:
        boxes = made_boxes(1 + seed % 4, seed, shown.size_hw)
        alone = segmenter.decode(shown, boxes=boxes)
        for _ in range(3):
            cells = live.boxes(live.encode(images / "part.tif"), boxes)
            assert cells.column("prompt") == alone.prompts.tolist()
            np.testing.assert_allclose(cells.column("iou_prediction"), alone.iou_predictions, rtol=1e-5)
            assert cells.column("label_area_px") == np.bincount(alone.labels.ravel())[1:].tolist()
        if seed % 4 == 0:
            np.testing.assert_array_equal(live.labels(images / "part.tif"), found.labels)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(use, range(16)))
    assert live.health()["queue"]["waiting"] == 0


def test_client_names_the_errors_of_the_server(live: Client, images: Path) -> None:
    with pytest.raises(ServerError) as caught:
        live.labels(images / "part.tif", diameter_px=-5)
    assert (caught.value.status, caught.value.kind, caught.value.field) == (400, "out_of_range", "diameter_px")
    with pytest.raises(ServerError) as caught:
        live.images()
    assert caught.value.status == 404


def test_client_sends_files_bytes_and_arrays(live: Client, images: Path, found: Segmentation) -> None:
    path = images / "part.tif"
    np.testing.assert_array_equal(live.labels(str(path)), found.labels)
    assert len(live.cells(path.read_bytes())) == len(found)
    assert len(live.geojson(read_image(path))["features"]) == len(found)
