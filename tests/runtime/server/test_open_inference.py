"""Tests of the Open Inference Protocol: requests as the specification writes them, in JSON and binary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.files.plain import read_image
from runtime.results import Segmentation
from runtime.segmenter import Segmenter
from runtime.server.protocols.tensors import DTYPES, InferRequest, datatype_of, parse_request, write_response

INFER = "/v2/models/nano/infer"
HEADER = "Inference-Header-Content-Length"
LIMITS = {"json_limit": 1 << 20, "values_limit": 1 << 20}


def described(name: str, array: NDArray[Any], *, binary: bool = False) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": datatype_of(array.dtype)}
    return {**entry, **({"parameters": {"binary_data_size": array.nbytes}} if binary else {"data": array.tolist()})}


@pytest.fixture(scope="module")
def image(images: Path) -> NDArray[Any]:
    return read_image(images / "part.tif")


def test_server_and_model_are_described(client: TestClient) -> None:
    for path in ("/v2", "/v2/"):
        found = client.get(path).json()
        assert found["name"] == "cellsam-engine"
        assert "binary_tensor_data" in found["extensions"]
    assert client.get("/v2/health/live").json()["live"] is True
    assert client.get("/v2/health/ready").status_code == 200
    for path in ("/v2/models/nano", "/v2/models/nano/versions/1"):
        model = client.get(path).json()
        assert (model["name"], model["versions"]) == ("nano", ["1"])
        assert [one["name"] for one in model["inputs"]] == ["image", "boxes"]
        assert {"name": "labels", "datatype": "INT32", "shape": [-1, -1]} in model["outputs"]
        assert client.get(f"{path}/ready").json() == {"name": "nano", "ready": True}


def test_errors_are_strings(client: TestClient) -> None:
    for answer in (
        client.get("/v2/models/other"),
        client.get("/v2/models/nano/versions/2"),
        client.get("/v2/nowhere"),
        client.post("/v2/models/other/infer", json={}),
        client.post(INFER, content=b"{"),
        client.get(INFER),
    ):
        assert 400 <= answer.status_code < 500
        assert isinstance(answer.json()["error"], str)


def test_json_tensors_give_the_labels_of_the_segmenter(
    client: TestClient, image: NDArray[Any], found: Segmentation
) -> None:
    body = {"id": "42", "inputs": [described("image", image)], "outputs": [{"name": "labels"}, {"name": "scores"}]}
    answer = client.post(INFER, json=body).json()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("42", "nano", "1")
    labels, scores = answer["outputs"]
    assert (labels["datatype"], labels["shape"]) == ("INT32", list(found.labels.shape))
    np.testing.assert_array_equal(np.reshape(labels["data"], labels["shape"]), found.labels)
    np.testing.assert_allclose(scores["data"], found.scores, rtol=1e-6)


def test_binary_tensors_give_all_outputs_in_order(client: TestClient, image: NDArray[Any], found: Segmentation) -> None:
    body = {"inputs": [described("image", image, binary=True)], "parameters": {"binary_data_output": True}}
    head = json.dumps(body).encode()
    answer = client.post(INFER, content=head + image.tobytes(), headers={HEADER: str(len(head))})
    assert answer.headers["content-type"] == "application/octet-stream"
    length = int(answer.headers[HEADER])
    outputs, rest = json.loads(answer.content[:length])["outputs"], answer.content[length:]
    read = {}
    for one in outputs:
        size = one["parameters"]["binary_data_size"]
        read[one["name"]] = np.frombuffer(rest[:size], DTYPES[one["datatype"]]).reshape(one["shape"])
        rest = rest[size:]
    assert rest == b""
    np.testing.assert_array_equal(read["labels"], found.labels)
    np.testing.assert_array_equal(read["iou_predictions"], found.iou_predictions)
    assert read["boxes"].shape == (len(found), 4)


def test_boxes_are_decoded_as_the_segmenter_does(client: TestClient, image: NDArray[Any], segmenter: Segmenter) -> None:
    boxes = np.array([[10, 10, 40, 40], [60, 20, 90, 50]], np.float32)
    expected = segmenter(image, boxes=boxes)
    body = {"inputs": [described("image", image), described("boxes", boxes)]}
    outputs = {one["name"]: one for one in client.post(INFER, json=body).json()["outputs"]}
    np.testing.assert_array_equal(np.reshape(outputs["labels"]["data"], image.shape), expected.labels)
    assert outputs["scores"]["data"] == [None] * len(expected), "JSON knows no NaN"


def test_parameters_are_settings(client: TestClient, image: NDArray[Any]) -> None:
    body = {"inputs": [described("image", image)], "outputs": [{"name": "scores"}]}
    few = client.post(INFER, json={**body, "parameters": {"min_area_px": 300, "priority": 1, "timeout": 5}})
    assert few.json()["outputs"][0]["shape"][0] < client.post(INFER, json=body).json()["outputs"][0]["shape"][0]
    for parameters in ({"unknown": 1}, {"min_area_px": -1}, {"sequence_id": 7, "sequence_start": True}):
        assert client.post(INFER, json={**body, "parameters": parameters}).status_code == 400


IMAGE = {"name": "image", "shape": [2, 2], "datatype": "UINT8", "data": [1, 2, 3, 4]}


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"inputs": []},
        {"inputs": [IMAGE, IMAGE]},
        {"inputs": [{**IMAGE, "name": "picture"}]},
        {"inputs": [{**IMAGE, "data": [1, 2, 3]}]},
        {"inputs": [{**IMAGE, "data": [1, 2, 3, 256]}]},
        {"inputs": [{**IMAGE, "data": [1, 2, 3, 1.5]}]},
        {"inputs": [{**IMAGE, "data": [[1, 2], [3]]}]},
        {"inputs": [{**IMAGE, "data": ["a", "b", "c", "d"]}]},
        {"inputs": [{**IMAGE, "data": [10**400, 1, 1, 1]}]},
        {"inputs": [{**IMAGE, "datatype": "UINT64", "data": [0.5, 2**63 + 1, 1, 1]}]},
        {"inputs": [{**IMAGE, "datatype": "UINT64", "data": [-1, 2**63 + 1, 1, 1]}]},
        {"inputs": [{**IMAGE, "datatype": "BYTES"}]},
        {"inputs": [{**IMAGE, "datatype": 8}]},
        {"inputs": [{**IMAGE, "shape": [-2, -2]}]},
        {"inputs": [{**IMAGE, "shape": [2.0, 2]}]},
        {"inputs": [{**IMAGE, "shape": [True, 4]}]},
        {"inputs": [{**IMAGE, "shape": [1 << 39, 1 << 39]}]},
        {"inputs": [{**IMAGE, "shape": [4], "data": [1, 2, 3, 4]}]},
        {"inputs": [{**IMAGE, "parameters": {"binary_data_size": 4}}]},
        {"inputs": [IMAGE], "outputs": [{"name": "masks"}]},
        {"inputs": [IMAGE], "outputs": [{"name": "labels", "parameters": {"classification": 2}}]},
        {"inputs": [IMAGE], "outputs": "labels"},
        {"inputs": [IMAGE], "id": 42},
        {"inputs": [IMAGE], "parameters": [1]},
    ],
)
def test_unusable_requests_are_rejected(client: TestClient, body: Any) -> None:
    answer = client.post(INFER, json=body)
    assert answer.status_code in (400, 413), answer.text
    assert answer.json()["error"]


@pytest.mark.parametrize("length", ["", "-1", "10", "99999999999999999999", "a", "2"])
def test_unusable_header_lengths_are_rejected(client: TestClient, length: str) -> None:
    answer = client.post(INFER, content=b"{}", headers={HEADER: length})
    assert answer.status_code == 400


def test_compressed_bodies_are_rejected(client: TestClient) -> None:
    answer = client.post(INFER, content=b"{}", headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 415


def test_requests_within_limits() -> None:
    body = json.dumps({"inputs": [IMAGE]}).encode()
    assert parse_request(body, None, **LIMITS).inputs["image"].tolist() == [[1, 2], [3, 4]]
    for limits in ({"json_limit": 5}, {"values_limit": 3}):
        with pytest.raises(InputError) as caught:
            parse_request(body, None, **{**LIMITS, **limits})
        assert caught.value.kind == "too_large"


@given(
    array=st.sampled_from(sorted(DTYPES)).flatmap(
        lambda name: arrays.arrays(DTYPES[name], arrays.array_shapes(min_side=0, max_dims=3, max_side=4))
    ),
    binary=st.booleans(),
)
def test_tensors_survive_a_round_trip(array: NDArray[Any], binary: bool) -> None:
    asked = InferRequest({}, binary_output=binary)
    body, length = write_response({"image": array}, asked, model="m", version="1")
    content = json.loads(body[:length])
    tensor = content["outputs"][0]
    if not binary and array.dtype.kind == "f":
        tensor["data"] = [0.0 if value is None else value for value in tensor["data"]]
        array = np.where(np.isfinite(array), array, 0).astype(array.dtype)
    head = json.dumps({"inputs": [tensor]}).encode()
    rest = body[length:] if length is not None else b""
    read = parse_request(head + rest, str(len(head)), **LIMITS).inputs["image"]
    np.testing.assert_array_equal(read, array)
    assert read.dtype == array.dtype
