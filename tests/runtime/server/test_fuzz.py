"""Malformed requests give 4xx, never 5xx, and leave the server working."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from runtime.correction.project import Project
from runtime.server.app import create_app
from runtime.server.options import Limits, ServerOptions
from tests.runtime.server.conftest import ENGINES, LOCAL

SHORT = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([10**400, -1, "../..", "\ud800", "a\0b", [[0, 0, 9, 9]], [1, 2, 3, 4], {"path": "part.tif"}]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)

FIELDS = (
    *("path", "settings", "read", "boxes", "revision", "edit", "box", "state", "images", "all", "operation", "labels"),
    *("shape", "inputs", "outputs", "id", "parameters", "type", "bbox", "b64img", "point_coords", "point_labels"),
)

BODIES = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=5)

ROUTES = (
    "/api/segment",
    "/api/embeddings",
    "/api/embeddings/{cached}/boxes",
    "/api/project/images/0/edits",
    "/api/project/images/0/undo",
    "/api/project/images/0/state",
    "/api/project/images/0/prompts",
    "/api/project/images/0/segment",
    "/v2/models/nano/infer",
    "/sam/",
    "/sam/automask/",
    "/sam/weights/",
)

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Return a client of a server with small images, so that a valid request among the others is fast."""
    folder = tmp_path_factory.mktemp("fuzzed")
    Image.fromarray(np.random.default_rng(0).integers(0, 99, (24, 24), np.uint8)).save(folder / "part.tif")
    Project.create(folder / "project", [folder / "part.tif"]).close()
    options = ServerOptions(
        engines=ENGINES, root=folder, project=folder / "project", limits=Limits(pixels=4096, upload_bytes=1 << 20)
    )
    with TestClient(create_app(options), base_url=LOCAL, raise_server_exceptions=False) as client:
        yield client
        assert client.get("/health").json()["queue"]["waiting"] == 0
        assert client.post("/api/segment", json={"path": "part.tif"}).status_code == 200


@pytest.fixture(scope="module")
def cached(fuzzed: TestClient) -> str:
    return str(fuzzed.post("/api/embeddings", json={"path": "part.tif"}).json()["id"])


def text_of(body: Any) -> bytes:
    return json.dumps(body).encode("utf-8", "surrogatepass")


@SHORT
@given(route=st.sampled_from(ROUTES), body=BODIES)
def test_json_of_any_form(fuzzed: TestClient, cached: str, route: str, body: dict[str, Any]) -> None:
    answer = fuzzed.post(route.format(cached=cached), content=text_of(body), headers=JSON)
    assert answer.status_code < 500, (route, body, answer.text)
    if answer.status_code >= 400:
        error = answer.json()["error"]
        assert error if route.startswith("/v2") else error["message"]


@SHORT
@given(
    route=st.sampled_from(ROUTES), body=st.binary(max_size=64) | st.sampled_from([b"[" * 100_000, b'{"a":' * 20_000])
)
def test_bytes_in_place_of_json(fuzzed: TestClient, cached: str, route: str, body: bytes) -> None:
    answer = fuzzed.post(route.format(cached=cached), content=body, headers=JSON)
    assert answer.status_code < 500, (route, body[:80], answer.text)


def seeds() -> list[bytes]:
    pixels = np.arange(400, dtype=np.uint8).reshape(20, 20)
    found = []
    for kind in ("PNG", "JPEG", "TIFF"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format=kind)
        found.append(buffer.getvalue())
    buffer = io.BytesIO()
    np.save(buffer, pixels)
    return [*found, buffer.getvalue()]


@SHORT
@given(data=st.data(), seed=st.sampled_from(seeds()))
def test_damaged_files(fuzzed: TestClient, data: st.DataObject, seed: bytes) -> None:
    content = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    for body in (bytes(content), bytes(content[:cut])):
        answer = fuzzed.post("/api/embeddings", content=body, headers={"Content-Type": "application/octet-stream"})
        assert answer.status_code < 500, answer.text


OUTLINED = "/api/project/images/0"
READ = (
    *("/api/segment", "/api/project/images", "/api/project/export"),
    *(f"{OUTLINED}/{name}" for name in ("outlines", "at", "counts", "image_files/5/0_0.png")),
)
PARAMETERS = (
    *("x", "y", "x0", "x1", "tolerance", "limit", "since", "channels", "contrast", "colours", "bins", "state"),
    *("format", "diameter_px", "min_area_px", "z", "rgb", "normalize", "overlap"),
)
TEXTS = st.text(max_size=12) | st.floats().map(str) | st.integers().map(str)


@SHORT
@given(path=st.sampled_from(READ), query=st.dictionaries(st.sampled_from(PARAMETERS), TEXTS, max_size=4))
def test_queries_of_any_form(fuzzed: TestClient, path: str, query: dict[str, str]) -> None:
    sent = {name: value.encode("utf-8", "replace").decode() for name, value in query.items()}
    if path == "/api/segment":
        answer = fuzzed.post(path, params=sent, content=seeds()[0], headers={"Content-Type": "image/png"})
    else:
        answer = fuzzed.get(path, params=sent)
    assert answer.status_code < 500, (path, query, answer.text)
