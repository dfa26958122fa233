"""NVIDIA's Triton client speaks to the server: the Open Inference Protocol, checked by an independent program."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import uvicorn

from runtime.engines.builtin import sample_images
from runtime.files.plain import read_image
from runtime.jobs.segmenter_spec import SegmenterSpec, loaded_segmenter
from runtime.server.app import create_app
from runtime.server.options import ServerOptions

triton = pytest.importorskip("tritonclient.http")

ENGINES = SegmenterSpec(backend="cpu")


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    path = next(one for one in sample_images() if one.name.startswith("fluorescence"))
    return read_image(path)[:120, :160]


@pytest.fixture(scope="module")
def client() -> Iterator[object]:
    """Return Triton's client of a server in this process."""
    server = uvicorn.Server(uvicorn.Config(create_app(ServerOptions(engines=ENGINES)), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    client = triton.InferenceServerClient(f"127.0.0.1:{port}", network_timeout=120)
    yield client
    client.close()
    server.should_exit = True
    thread.join(30)


def tensor(name: str, array: np.ndarray, *, binary: bool = True) -> object:
    kinds = {"uint8": "UINT8", "uint16": "UINT16", "float32": "FP32"}
    made = triton.InferInput(name, list(array.shape), kinds[str(array.dtype)])
    made.set_data_from_numpy(np.ascontiguousarray(array), binary_data=binary)
    return made


def test_server_and_model_are_ready(client: object) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("nano")
    assert not client.is_model_ready("other")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    assert [one["name"] for one in client.get_model_metadata("nano")["outputs"]] == [
        *("labels", "boxes", "scores", "iou_predictions"),
    ]


@pytest.mark.parametrize("binary", [True, False])
def test_tensors_give_the_labels_of_the_segmenter(client: object, image: np.ndarray, binary: bool) -> None:
    expected = loaded_segmenter(ENGINES)(image)
    wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("labels", "boxes", "scores")]
    found = client.infer("nano", [tensor("image", image, binary=binary)], outputs=wanted, request_id="7")
    assert found.get_response()["id"] == "7"
    np.testing.assert_array_equal(found.as_numpy("labels"), expected.labels)
    np.testing.assert_allclose(found.as_numpy("scores"), expected.scores, rtol=1e-6)
    assert found.as_numpy("boxes").shape == (len(expected), 4)


def test_sixteen_bit_images_boxes_and_settings(client: object, image: np.ndarray) -> None:
    boxes = np.array([[10, 10, 40, 40]], np.float32)
    wide = image.astype(np.uint16) * 200
    expected = loaded_segmenter(ENGINES)(wide, boxes=boxes)
    found = client.infer("nano", [tensor("image", wide), tensor("boxes", boxes)], parameters={"fill_holes": True})
    np.testing.assert_array_equal(found.as_numpy("labels"), expected.labels)
    assert np.isnan(found.as_numpy("scores")).all()


def test_errors_arrive_with_their_message(client: object, image: np.ndarray) -> None:
    with pytest.raises(triton.InferenceServerException, match="diameter_px is -1; expected a number above 0"):
        client.infer("nano", [tensor("image", image)], parameters={"diameter_px": -1})
    with pytest.raises(triton.InferenceServerException, match="expected image and optionally boxes"):
        client.infer("nano", [tensor("boxes", np.zeros((1, 4), np.float32))])


def test_calls_in_parallel(client: object, image: np.ndarray) -> None:
    calls = [client.async_infer("nano", [tensor("image", image)]) for _ in range(3)]
    expected = loaded_segmenter(ENGINES)(image).labels
    for call in calls:
        np.testing.assert_array_equal(call.get_result().as_numpy("labels"), expected)
