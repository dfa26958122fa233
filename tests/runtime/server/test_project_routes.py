"""Tests of correcting a project over HTTP: revisions, edits, box prompts, jobs, events and export."""

from __future__ import annotations

import io
import json
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from fastapi.testclient import TestClient

from runtime.correction.project import Project
from runtime.files.plain import read_image
from runtime.results import Segmentation
from runtime.segmenter import Segmenter
from runtime.server.app import create_app
from runtime.server.client import Client
from runtime.server.options import ServerOptions
from runtime.server.work.events import Events
from tests.runtime.server.conftest import ENGINES, LOCAL

IMAGES = "/api/project/images"
KEY = "1"
"""Id of part.tif."""

CORNERS = [[100, 60], [120, 60], [120, 80], [100, 80]]
SQUARE = {"operation": "add", "shape": {"polygon": CORNERS}, "overlap": "overwrite"}


@pytest.fixture
def segmented(project: Path, found: Segmentation) -> Iterator[TestClient]:
    """Return a client of a project whose second image is segmented, at revision 1."""
    with Project.open(project) as opened:
        opened.store_segmentation("part.tif", found)
    with TestClient(create_app(ServerOptions(engines=ENGINES, project=project)), base_url=LOCAL) as client:
        yield client


def post(client: TestClient, path: str, body: dict[str, Any], status: int = 200) -> Any:
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def edit(client: TestClient, revision: int, made: dict[str, Any], status: int = 200) -> Any:
    return post(client, f"{IMAGES}/{KEY}/edits", {"revision": revision, "edit": made}, status)


def labels_of(client: TestClient) -> np.ndarray:
    return tifffile.imread(io.BytesIO(client.get(f"{IMAGES}/{KEY}/export?format=tiff").content))


def test_images_are_listed_with_their_state(segmented: TestClient, found: Segmentation) -> None:
    cells = len(found)
    listed = segmented.get(IMAGES).json()
    assert listed["total"] == 2
    assert [one["name"] for one in listed["images"]] == ["fluorescence_img.png", "part.tif"]
    one = segmented.get(f"{IMAGES}/{KEY}").json()
    assert {**listed["images"][1], "channels": ["0"], "dtype": "uint8", "pixel_size_um": None} == one
    assert (one["state"], one["cells"], one["revision"], one["size_hw"]) == ("segmented", cells, 1, [120, 160])
    assert [one["id"] for one in segmented.get(f"{IMAGES}?state=new").json()["images"]] == ["0"]
    assert segmented.get(f"{IMAGES}?offset=1&limit=1").json()["images"] == [listed["images"][1]]
    about = segmented.get("/api/project").json()
    assert (about["images"], about["cells"], about["states"]) == (2, cells, {"new": 1, "segmented": 1})
    assert {"add", "merge", "split_at_seeds"} <= set(about["operations"])


def test_edits_undo_and_redo_change_the_labels_and_the_revision(segmented: TestClient) -> None:
    before = labels_of(segmented)
    new = int(before.max()) + 1
    made = edit(segmented, 1, SQUARE)
    assert (made["revision"], made["state"], made["created"]) == (2, "corrected", [new])
    assert made["bbox"] == [100, 60, 120, 80]
    assert (labels_of(segmented)[60:80, 100:120] == new).all()
    assert (made["can_undo"], made["can_redo"]) == (True, False)

    undone = post(segmented, f"{IMAGES}/{KEY}/undo", {"revision": 2})
    assert (undone["revision"], undone["state"], undone["gone"], undone["can_redo"]) == (3, "segmented", [new], True)
    np.testing.assert_array_equal(labels_of(segmented), before)

    redone = post(segmented, f"{IMAGES}/{KEY}/redo", {"revision": 3})
    assert (redone["revision"], redone["created"]) == (4, [new])
    marked = post(segmented, f"{IMAGES}/{KEY}/state", {"revision": 4, "state": "done"})
    assert (marked["revision"], marked["state"], marked["bbox"]) == (5, "done", None)


@pytest.mark.parametrize("what", ["edits", "undo", "redo", "state", "prompts", "segment"])
def test_a_stale_revision_is_a_conflict(segmented: TestClient, what: str) -> None:
    edit(segmented, 1, SQUARE)
    more = {"edits": {"edit": SQUARE}, "state": {"state": "done"}, "prompts": {"box": [10, 10, 40, 40]}}.get(what, {})
    answer = post(segmented, f"{IMAGES}/{KEY}/{what}", {"revision": 1, **more}, status=409)
    assert (answer["revision"], answer["error"]["kind"]) == (2, "conflict")
    assert segmented.get(f"{IMAGES}/{KEY}").json()["revision"] == 2


@pytest.mark.parametrize(
    ("made", "field"),
    [
        ({"operation": "paint"}, "operation"),
        ({}, "operation"),
        ({"operation": "merge", "labels": "all"}, "labels"),
        ({"operation": "grow", "label": 1, "pixels": "two"}, "pixels"),
        ({"operation": "delete", "labels": [99999]}, "label"),
        ({"operation": "add", "shape": {"polygon": [[1, "nan"]]}}, "shape"),
    ],
)
def test_unusable_edits_are_rejected(segmented: TestClient, made: dict[str, Any], field: str) -> None:
    answer = segmented.post(f"{IMAGES}/{KEY}/edits", json={"revision": 1, "edit": made})
    assert 400 <= answer.status_code < 500
    assert answer.json()["error"]["field"].startswith(field)
    assert segmented.get(f"{IMAGES}/{KEY}").json()["revision"] == 1


def test_there_is_nothing_to_undo_in_a_new_image(segmented: TestClient) -> None:
    error = post(segmented, f"{IMAGES}/0/undo", {"revision": 0}, status=404)["error"]
    assert "undo" in error["message"]


@pytest.mark.parametrize("key", ["2", "-1", "01x", "part.tif", "9" * 30, "%2e%2e"])
def test_unknown_images_are_not_found(segmented: TestClient, key: str) -> None:
    for path in ("", "/outlines", "/image.dzi", "/cells"):
        assert segmented.get(f"{IMAGES}/{key}{path}").status_code == 404


def test_a_box_makes_a_cell_where_no_other_one_is(segmented: TestClient, segmenter: Segmenter, images: Path) -> None:
    present = int(labels_of(segmented)[:30, :40].max())
    cells = segmented.get(f"{IMAGES}/{KEY}/cells").json()
    row = cells["rows"][min(4, present)]
    label, *box = row[:5]
    revision = edit(segmented, 1, {"operation": "delete", "labels": [label]})["revision"]
    warm = post(segmented, f"{IMAGES}/{KEY}/prompts/warm", {})
    made = post(segmented, f"{IMAGES}/{KEY}/prompts", {"revision": revision, "box": box})
    again = post(segmented, f"{IMAGES}/{KEY}/prompts/warm", {})
    assert (warm["cached"], again["cached"]) == (False, True)
    assert made["revision"] == revision + 1

    views = segmenter.encode(read_image(images / "part.tif"), detector=False)
    expected = segmenter.decode(views, boxes=[box])
    assert made["iou_prediction"] == pytest.approx(float(expected.iou_predictions[0]), abs=1e-3)
    found = labels_of(segmented)
    others = (found > 0) & (found != made["label"])
    np.testing.assert_array_equal(found == made["label"], (expected.labels == 1) & ~others)


def test_a_box_without_a_mask_changes_nothing(segmented: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    made = post(segmented, f"{IMAGES}/{KEY}/prompts", {"revision": 1, "box": [0, 0, 3, 3]})
    assert (made["revision"], made["label"], made["bbox"]) == (1, None, None)


@pytest.mark.parametrize("box", [[1, 2, 3], [5, 5, 1, 1], [float("nan")] * 4, [1e30, 0, 2e30, 5], "box", None])
def test_unusable_boxes_are_rejected(segmented: TestClient, box: Any) -> None:
    body = json.dumps({"revision": 1, "box": box})
    answer = segmented.post(f"{IMAGES}/{KEY}/prompts", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 422)


def wait_for(client: TestClient, key: str) -> dict[str, Any]:
    for _ in range(600):
        job: dict[str, Any] = client.get(f"/api/jobs/{key}").json()
        if job["state"] not in ("waiting", "running"):
            return job
        time.sleep(0.05)
    raise AssertionError("the job takes too long")


def test_jobs_segment_as_the_segmenter_does(correcting: TestClient, found: Segmentation) -> None:
    job = post(correcting, "/api/project/segment", {"images": [KEY]}, status=202)
    done = wait_for(correcting, job["id"])
    assert (done["state"], done["done"], done["total"], done["failures"]) == ("done", 1, 1, [])
    np.testing.assert_array_equal(labels_of(correcting), found.labels)
    assert correcting.get("/api/jobs").json()["jobs"] == [done]


def test_a_failed_image_does_not_stop_a_job(correcting: TestClient, project: Path, images: Path) -> None:
    name = images / "fluorescence_img.png"
    content = name.read_bytes()
    name.write_bytes(content + b"altered")
    try:
        job = post(correcting, "/api/project/segment", {"all": True}, status=202)
        done = wait_for(correcting, job["id"])
    finally:
        name.write_bytes(content)
    assert (done["state"], done["done"]) == ("done", 2)
    assert [(one["image"], one["error"]["kind"]) for one in done["failures"]] == [("0", "mismatch")]


def test_jobs_can_be_cancelled(correcting: TestClient) -> None:
    first = post(correcting, "/api/project/segment", {"all": True}, status=202)
    second = post(correcting, "/api/project/segment", {"all": True}, status=202)
    for job in (second, first):
        cancelled = correcting.request("DELETE", f"/api/jobs/{job['id']}", headers={"Content-Type": "application/json"})
        assert cancelled.status_code == 200
    assert wait_for(correcting, second["id"])["state"] == "cancelled"
    assert wait_for(correcting, first["id"])["done"] <= 1
    assert correcting.get("/api/jobs/99").status_code == 404


@pytest.mark.parametrize(
    "chosen", [{}, {"all": True, "state": "new"}, {"images": ["7"]}, {"all": True, "settings": {"x": 1}}]
)
def test_unusable_jobs_are_rejected(correcting: TestClient, chosen: dict[str, Any]) -> None:
    assert 400 <= correcting.post("/api/project/segment", json=chosen).status_code < 500
    assert correcting.get("/api/jobs").json()["jobs"] == []


def test_counts_sum_up_sizes(segmented: TestClient) -> None:
    areas = np.bincount(labels_of(segmented).ravel())[1:]
    found = segmented.get(f"{IMAGES}/{KEY}/counts?bins=5").json()
    assert (found["cells"], found["area_px"]["median"]) == (len(areas), np.median(areas))
    assert (sum(found["histogram"]["counts"]), len(found["histogram"]["edges"])) == (len(areas), 6)
    assert segmented.get(f"{IMAGES}/0/counts").json()["area_px"] is None
    project = segmented.get("/api/project/counts").json()
    assert [one["cells"] for one in project["images"]] == [0, len(areas)]


def test_exports_are_files_and_archives(segmented: TestClient) -> None:
    labels = labels_of(segmented)
    png = segmented.get(f"{IMAGES}/{KEY}/export?format=png")
    from PIL import Image

    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png.content))), labels)
    outlines = segmented.get(f"{IMAGES}/{KEY}/export?format=geojson")
    assert len(outlines.json()["features"]) == labels.max()
    assert "part_cells.geojson" in outlines.headers["content-disposition"]
    archive = segmented.get("/api/project/export?format=tiff,geojson")
    with zipfile.ZipFile(io.BytesIO(archive.content)) as file:
        assert sorted(file.namelist()) == ["part_cells.geojson", "part_labels.tif"]
    assert segmented.get("/api/project/export?format=exe").status_code == 400
    assert segmented.get("/api/project/export?state=done").status_code == 404


def test_events_tell_of_changes() -> None:
    import asyncio

    async def listen() -> list[str]:
        events, found = Events(), []
        stream = events.listen(alive_s=0.05)
        found.append(await anext(stream))
        threading.Thread(target=events.send, args=("image", {"id": "1"})).start()
        found.append(await anext(stream))
        found.append(await anext(stream))
        assert len(events) == 1
        events.close()
        found += [text async for text in stream]
        assert len(events) == 0
        return found

    assert asyncio.run(listen()) == ["retry: 2000\n\n", 'event: image\ndata: {"id":"1"}\n\n', ": alive\n\n"]


def test_a_listener_that_falls_behind_is_disconnected() -> None:
    import asyncio

    async def listen() -> None:
        events = Events()
        stream = events.listen(alive_s=5)
        await anext(stream)
        for number in range(1001):
            events.send("image", {"id": str(number)})
        assert [text async for text in stream] == []

    asyncio.run(listen())


def test_the_python_client_corrects(segmented: TestClient) -> None:
    client = Client(http=segmented)
    (image,) = client.images("segmented")
    assert (image.name, image.revision) == ("part.tif", 1)
    change = client.edit(image.id, 1, SQUARE)
    assert client.project_labels(image.id)[70, 110] == change.created[0]
    assert client.undo(image.id, 2).gone == change.created
    assert client.redo(image.id, 3).created == change.created
    assert client.mark(image.id, 4, "done").state == client.image(image.id).state == "done"
    assert client.prompt(image.id, 5, [0, 0, 3, 3]).label is None
    key = client.segment_project(state="new", min_area_px=10)
    assert wait_for(segmented, key)["state"] == client.job(key)["state"] == "done"
