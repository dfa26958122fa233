"""Tests of segmenting over HTTP: results equal those of ``Segmenter``, and what is too large or wrong is rejected."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from fastapi.testclient import TestClient
from PIL import Image

from runtime.engines.builtin import sample_images
from runtime.errors import InputError
from runtime.files.plain import read_image
from runtime.provenance import METADATA_KEY, distinct, to_jsonable
from runtime.results import Segmentation
from runtime.segmenter import Segmenter
from runtime.server.app import create_app
from runtime.server.images.uploads import below
from runtime.server.options import Limits, ServerOptions
from tests.runtime.server.conftest import ENGINES, LOCAL

NAME = "fluorescence_img.png"
PNG = {"Content-Type": "image/png"}


def bytes_of(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, image)
    return buffer.getvalue()


def test_labels_equal_those_of_the_segmenter(client: TestClient, segmenter: Segmenter, images: Path) -> None:
    expected = segmenter(read_image(images / NAME))
    uploaded = client.post("/api/segment?format=tiff", content=(images / NAME).read_bytes(), headers=PNG)
    named = client.post("/api/segment?format=png", json={"path": NAME})

    assert uploaded.headers["x-cells"] == str(len(expected))
    assert uploaded.headers["x-size"] == "256x256"
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(uploaded.content)), expected.labels)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(named.content))), expected.labels)


def test_table_and_outlines_describe_the_same_cells(client: TestClient, found: Segmentation) -> None:
    expected = found
    table = client.post("/api/segment", json={"path": "part.tif"}).json()
    outlines = client.post("/api/segment?format=geojson", json={"path": "part.tif"}).json()

    places = {name: place for place, name in enumerate(table["columns"])}
    assert table["size_hw"] == [120, 160]
    assert [row[places["label"]] for row in table["rows"]] == list(range(1, len(expected) + 1))
    np.testing.assert_allclose([row[places["score"]] for row in table["rows"]], expected.scores)
    areas = [row[places["label_area_px"]] for row in table["rows"]]
    assert areas == np.bincount(expected.labels.ravel())[1:].tolist()
    assert [one["properties"]["measurements"]["label_area_px"] for one in outlines["features"]] == areas
    assert table["appearance"]["diameter_px"] == expected.appearance.diameter_px
    assert table["made_by"] == outlines[METADATA_KEY] == to_jsonable(distinct([expected.provenance]))


def test_settings_come_from_the_query_or_the_body(client: TestClient, segmenter: Segmenter, images: Path) -> None:
    from dataclasses import replace

    image = read_image(images / NAME)
    expected = len(segmenter(image, config=replace(segmenter.config, min_area_px=200, diameter_px=20.0)))
    settings = {"min_area_px": 200, "diameter_px": 20.0}
    by_query = client.post(
        "/api/segment", params=settings, content=bytes_of(image), headers={"Content-Type": "application/x-npy"}
    )
    by_body = client.post("/api/segment", json={"path": NAME, "settings": settings})

    assert by_query.json()["cells"] == by_body.json()["cells"] == expected < len(segmenter(image))


def test_boxes_are_decoded_in_a_cached_embedding(client: TestClient, segmenter: Segmenter, images: Path) -> None:
    boxes = [[10, 10, 40, 40], [50, 50, 80, 80]]
    expected = segmenter.decode(segmenter.encode(read_image(images / NAME), detector=False), boxes=boxes)
    made = client.post("/api/embeddings", json={"path": NAME})
    again = client.post("/api/embeddings", content=(images / NAME).read_bytes(), headers=PNG)
    assert made.status_code == 201
    assert made.json()["id"] == again.json()["id"], "an embedding belongs to the content of a file"

    address = f"/api/embeddings/{made.json()['id']}"
    answer = client.post(f"{address}/boxes?format=tiff", json={"boxes": boxes})
    np.testing.assert_array_equal(tifffile.imread(io.BytesIO(answer.content)), expected.labels)
    table = client.post(f"{address}/boxes", json={"boxes": boxes}).json()
    assert [row[table["columns"].index("prompt")] for row in table["rows"]] == expected.prompts.tolist()
    assert {row[table["columns"].index("score")] for row in table["rows"]} == {None}, "given boxes have no score"

    assert client.delete(address, headers={"Content-Type": "application/json"}).status_code == 204
    gone = client.post(f"{address}/boxes", json={"boxes": boxes})
    assert (gone.status_code, gone.json()["error"]["kind"]) == (404, "not_found")


def test_errors_have_three_parts_a_kind_and_a_field(client: TestClient) -> None:
    error = client.post("/api/segment", json={"path": NAME, "settings": {"diameter_px": -1}}).json()["error"]

    assert error["message"] == "diameter_px is -1; expected a number above 0, or None."
    assert (error["came"], error["expected"]) == ("diameter_px is -1", "expected a number above 0, or None")
    assert (error["kind"], error["field"]) == ("out_of_range", "diameter_px")


@pytest.mark.parametrize(
    ("content", "status", "kind"),
    [
        (b"", 400, "unsupported"),
        (b"GIF89a and more", 400, "unsupported"),
        (b"\x89PNG\r\n\x1a\n damaged", 400, "damaged"),
        (b"\x93NUMPY\x01\x00", 400, "damaged"),
        (b"\xff\xd8\xff\xe0 damaged", 400, "damaged"),
        (b"II*\x00\x08\x00\x00\x00", 400, "damaged"),
    ],
)
def test_damaged_files_are_rejected(client: TestClient, content: bytes, status: int, kind: str) -> None:
    answer = client.post("/api/segment", content=content, headers={"Content-Type": "application/octet-stream"})
    assert (answer.status_code, answer.json()["error"]["kind"]) == (status, kind)


def test_pickled_arrays_are_not_loaded(client: TestClient) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    answer = client.post("/api/segment", content=buffer.getvalue(), headers={"Content-Type": "application/x-npy"})
    assert answer.status_code == 400
    assert answer.json()["error"]["kind"] == "damaged"


def large_png(side: int) -> bytes:
    """Return a valid PNG of side x side black pixels, in few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = zlib.compress(bytes((side // 8 + 1) * side), 9)
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def narrow(images: Path) -> Iterator[TestClient]:
    """Return a client of a server with low limits."""
    limits = Limits(upload_bytes=40_000, json_bytes=2_000, pixels=65_536, boxes=3)
    with TestClient(create_app(ServerOptions(engines=ENGINES, root=images, limits=limits)), base_url=LOCAL) as client:
        yield client


def test_large_images_are_rejected_before_they_are_decoded(
    narrow: TestClient, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("runtime.files.formats.pictures.read_picture", decode)
    answer = narrow.post("/api/segment", content=large_png(4000), headers=PNG)
    assert (answer.status_code, answer.json()["error"]["kind"]) == (413, "too_large")
    assert "4000 x 4000 pixels; expected at most 0.065536 million" in answer.json()["error"]["message"]


def test_large_bodies_are_rejected(narrow: TestClient) -> None:
    declared = narrow.post("/api/segment", content=bytes(40_001), headers=PNG)
    assert (declared.status_code, declared.json()["error"]["kind"]) == (413, "too_large")
    sent = narrow.post("/api/segment", content=iter([bytes(30_000)] * 2), headers=PNG)  # without a length
    assert (sent.status_code, sent.json()["error"]["kind"]) == (413, "too_large")
    in_json = narrow.post("/api/segment", json={"path": "a" * 3000})
    assert in_json.status_code == 413


def test_too_many_boxes_are_rejected(narrow: TestClient) -> None:
    key = narrow.post("/api/embeddings", json={"path": NAME}).json()["id"]
    answer = narrow.post(f"/api/embeddings/{key}/boxes", json={"boxes": [[0, 0, 9, 9]] * 4})
    assert (answer.status_code, answer.json()["error"]["field"]) == (413, "boxes")


def test_a_full_queue_rejects_requests(images: Path) -> None:
    app = create_app(ServerOptions(engines=ENGINES, root=images, limits=Limits(queue=1)))
    with TestClient(app, base_url=LOCAL) as client, app.state.service.queue.slot():
        answer = client.post("/api/segment", json={"path": NAME})
    assert (answer.status_code, answer.json()["error"]["kind"]) == (429, "busy")
    assert answer.headers["retry-after"] == "1"


def test_bodies_of_all_requests_together_are_limited(images: Path) -> None:
    limits = Limits(held_bytes=20_000)
    with TestClient(create_app(ServerOptions(engines=ENGINES, root=images, limits=limits)), base_url=LOCAL) as client:
        answer = client.post("/api/segment", content=bytes(20_001), headers=PNG)
        assert (answer.status_code, answer.json()["error"]["kind"]) == (429, "busy")
        assert answer.headers["retry-after"] == "1"
        for _ in range(3):
            assert client.post("/api/segment", content=bytes(15_000), headers=PNG).status_code == 400, "given back"


@pytest.mark.parametrize(
    "path", ["../secret.png", "/etc/passwd", "sub/../../secret.png", "link.png", "folder/secret.png", ".", "", "a\0b"]
)
def test_paths_that_leave_the_root_are_not_found(tmp_path: Path, path: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "secret.png")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "folder").symlink_to(tmp_path)
    with pytest.raises(InputError) as caught:
        below(root, path)
    assert caught.value.kind == "not_found"


def test_links_inside_the_root_are_followed(tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(b"")
    (tmp_path / "link.png").symlink_to("image.png")
    assert below(tmp_path, "link.png") == tmp_path.resolve() / "image.png"


def test_zarr_directories_with_links_out_are_not_found(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    root = tmp_path / "root"
    array = zarr.create_array(str(root / "image.zarr" / "0"), shape=(8, 8), chunks=(8, 8), dtype="u1", zarr_format=2)
    array[:] = 1
    zarr.open_group(str(root / "image.zarr"), mode="a", zarr_format=2).attrs["multiscales"] = [
        {
            "version": "0.4",
            "axes": [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}],
            "datasets": [{"path": "0"}],
        }
    ]
    assert below(root, "image.zarr") == (root / "image.zarr").resolve()
    (tmp_path / "outside").write_bytes(b"")
    (root / "image.zarr" / "0" / "0.1").symlink_to(tmp_path / "outside")
    with pytest.raises(InputError, match="leads out of the root"):
        below(root, "image.zarr")


def test_tiffs_may_not_name_other_files(client: TestClient, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "other.ome.tif", np.full((16, 16), 7, np.uint8))
    description = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="16" SizeY="16" SizeC="1" SizeZ="1" SizeT="1">'
        f'<TiffData IFD="0" PlaneCount="1"><UUID FileName="../../..{tmp_path}/other.ome.tif">urn:uuid:1</UUID>'
        "</TiffData></Pixels></Image></OME>"
    )
    tifffile.imwrite(tmp_path / "named.tif", np.zeros((16, 16), np.uint8), description=description, metadata=None)
    answer = client.post(
        "/api/segment", content=(tmp_path / "named.tif").read_bytes(), headers={"Content-Type": "image/tiff"}
    )
    assert answer.status_code == 400
    assert "refers to the file" in answer.json()["error"]["message"]


def test_the_description_has_examples_for_every_body(correcting: TestClient) -> None:
    description = correcting.get("/openapi.json").json()
    assert description["info"]["title"] == "cellsam-engine"
    for path, methods in description["paths"].items():
        body = methods.get("post", {}).get("requestBody")
        if body is None:
            continue
        content = body["content"]["application/json"]
        name = content.get("schema", {}).get("$ref", "").rsplit("/", 1)[-1]
        schema = description["components"]["schemas"].get(name, {})
        fields = schema.get("properties", {})
        assert "example" in content or schema.get("examples") or not fields, f"{path} has no example"


def test_health_and_metrics_count_what_was_done(images: Path) -> None:
    with TestClient(create_app(ServerOptions(engines=ENGINES, root=images)), base_url=LOCAL) as client:
        cells = client.post("/api/segment", json={"path": "part.tif"}).json()["cells"]
        client.post("/api/embeddings", json={"path": "part.tif"})
        health, metrics = client.get("/health").json(), client.get("/metrics").text
    assert (health["model"], health["backend"], health["project"]) == ("nano", "cpu", False)
    assert health["embeddings"]["count"] == 1
    assert health["embeddings"]["bytes"] == 384 * 32 * 32 * 4
    for line in (
        "cellsam_images_total 1.0",
        f"cellsam_cells_total {cells}.0",
        "cellsam_encoded_images_total 1.0",
        "cellsam_embeddings 1.0",
        "cellsam_queue 0.0",
        'cellsam_requests_total{method="POST",route="/api/segment",status="200"} 1.0',
    ):
        assert line in metrics.splitlines()


def test_samples_in_colour_give_the_results_of_the_command_line(client: TestClient, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from runtime.commands.app import app as command

    sample = next(path for path in sample_images() if path.name.startswith("histology"))
    run = CliRunner().invoke(command, ["segment", str(sample), "--out", str(tmp_path), "--backend", "cpu", "--json"])
    assert run.exit_code == 0, run.output
    answer = client.post("/api/segment?format=tiff", content=sample.read_bytes(), headers=PNG)
    np.testing.assert_array_equal(
        tifffile.imread(io.BytesIO(answer.content)), tifffile.imread(tmp_path / "histology_img_labels.tif")
    )
    assert json.loads(run.stdout.splitlines()[0])["cells"] == int(answer.headers["x-cells"])
