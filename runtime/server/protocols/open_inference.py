"""The Open Inference Protocol, version 2, over HTTP: the API of Triton, KServe and other inference servers.

The model takes an ``image`` and, optionally, ``boxes``; it returns ``labels``, and ``boxes``, ``scores`` and
``iou_predictions`` of the cells. Settings are parameters of the request.

Source: kserve/open-inference-protocol ``specification/protocol/inference_rest.md`` and ``open_inference_rest.yaml``;
triton-inference-server/server ``docs/protocol``.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray
from starlette.concurrency import run_in_threadpool

from runtime.errors import ImageTooLargeError, InputError
from runtime.ops.boxes import clip_boxes
from runtime.results import Segmentation
from runtime.server.http.failures import RequestError
from runtime.server.images.settings import settings_of
from runtime.server.protocols.tensors import InferRequest, parse_request, write_response
from runtime.server.work.service import Service, array_reader, result_of

MODEL_VERSION = "1"

EXTENSIONS = ("binary_tensor_data", "parameters")
"""Extensions of Triton that this server knows, by the names under which Triton reports them."""

_FOR_SCHEDULERS = ("priority", "timeout")
"""Parameters that Triton's client may send and that change no result."""

_HEADER = "Inference-Header-Content-Length"

INPUTS: tuple[dict[str, Any], ...] = (
    {"name": "image", "datatype": "FP32", "shape": [-1, -1, -1]},
    {"name": "boxes", "datatype": "FP32", "shape": [-1, 4], "parameters": {"optional": True}},
)
"""Inputs: (H, W, C) or (H, W), of any numeric type; box prompts x0, y0, x1, y1 in image pixels."""

OUTPUTS: tuple[dict[str, Any], ...] = (
    {"name": "labels", "datatype": "INT32", "shape": [-1, -1]},
    {"name": "boxes", "datatype": "FP32", "shape": [-1, 4]},
    {"name": "scores", "datatype": "FP32", "shape": [-1]},
    {"name": "iou_predictions", "datatype": "FP32", "shape": [-1]},
)
"""Outputs: label map, 0 background; a row for each cell, in the order of the labels. NaN for scores of given boxes."""


def open_inference_router(service: Service, model: str) -> APIRouter:
    """Build the routes.

    Args:
        service: does the work.
        model: name of the model.
    """
    router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])

    @router.get("")
    @router.get("/", include_in_schema=False)
    def server() -> dict[str, Any]:
        """Describe the server."""
        return {"name": "cellsam-engine", "version": version("cellsam-engine"), "extensions": list(EXTENSIONS)}

    @router.get("/health/live")
    def live() -> dict[str, bool]:
        """Report that the server answers."""
        return {"live": True}

    @router.get("/health/ready")
    def ready() -> dict[str, bool]:
        """Report that the model is loaded."""
        return {"live": True, "ready": True}

    @router.get("/models/{name}")
    @router.get("/models/{name}/versions/{number}", include_in_schema=False)
    def describe(name: str, number: str = MODEL_VERSION) -> dict[str, Any]:
        """Describe the model: its inputs and outputs."""
        _check_model(name, number, model)
        platform = f"cellsam_engine_{service.segmenter.backend}"
        return {
            "name": model,
            "versions": [MODEL_VERSION],
            "platform": platform,
            "inputs": list(INPUTS),
            "outputs": list(OUTPUTS),
        }

    @router.get("/models/{name}/ready")
    @router.get("/models/{name}/versions/{number}/ready", include_in_schema=False)
    def model_ready(name: str, number: str = MODEL_VERSION) -> dict[str, Any]:
        """Report that the model is loaded."""
        _check_model(name, number, model)
        return {"name": model, "ready": True}

    @router.post("/models/{name}/infer", response_class=Response, openapi_extra=_BODY)
    @router.post("/models/{name}/versions/{number}/infer", response_class=Response, include_in_schema=False)
    async def infer(name: str, request: Request, number: str = MODEL_VERSION) -> Response:
        """Segment an image tensor, or decode boxes in it."""
        _check_model(name, number, model)
        _check_encoding(request)
        with service.queue.slot():
            body = await request.body()
            asked = await run_in_threadpool(_parse, body, request.headers.get(_HEADER), service)
            config = settings_of(_settings(asked), service.segmenter.config)
            image = _check_image(asked, service.limits.pixels)
            answer = await result_of(service.segment(array_reader(image), config, asked.inputs.get("boxes")))
            return await run_in_threadpool(_answer, answer.result, asked, model)

    return router


_BODY: dict[str, Any] = {
    "requestBody": {
        "content": {
            "application/json": {
                "schema": {"type": "object"},
                "example": {
                    "id": "42",
                    "inputs": [{"name": "image", "shape": [2, 2], "datatype": "UINT8", "data": [0, 255, 255, 0]}],
                    "outputs": [{"name": "labels"}],
                    "parameters": {"diameter_px": 24},
                },
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        }
    }
}


def outputs_of(result: Segmentation) -> dict[str, NDArray[Any]]:
    """Return the outputs of the model for a result; see ``OUTPUTS``."""
    height, width = result.labels.shape
    return {
        "labels": result.labels,
        "boxes": clip_boxes(result.boxes, (height, width)).astype(np.float32),
        "scores": result.scores.astype(np.float32),
        "iou_predictions": result.iou_predictions.astype(np.float32),
    }


def _parse(body: bytes, header_length: str | None, service: Service) -> InferRequest:
    limits = service.limits
    asked = parse_request(body, header_length, json_limit=limits.json_bytes, values_limit=4 * limits.pixels)
    unknown = sorted(set(asked.inputs) - {one["name"] for one in INPUTS})
    if unknown or "image" not in asked.inputs:
        raise InputError(
            f"the inputs are {', '.join(asked.inputs)[:200] or 'none'}; expected image and optionally boxes. See the "
            "metadata of the model.",
            kind="missing" if not unknown else "invalid",
            field="inputs",
        )
    return asked


def _settings(asked: InferRequest) -> dict[str, Any]:
    """Return the parameters that are settings; sequences are rejected, as the model has no state."""
    given = {name: value for name, value in asked.parameters.items() if name not in _FOR_SCHEDULERS}
    for name in ("sequence_start", "sequence_end"):
        if given.get(name) is False:
            del given[name]
    return given


def _check_image(asked: InferRequest, most: int) -> NDArray[Any]:
    """Return the image in the machine's byte order.

    Raises:
        InputError: it has another shape, or too many pixels.
    """
    image = asked.inputs["image"]
    if image.ndim == 4 and image.shape[0] == 1:
        image = image[0]
    if image.ndim not in (2, 3):
        raise InputError(
            f"image has shape {image.shape}; expected (H, W) or (H, W, C) with C <= 3. Send one image.",
            kind="wrong_shape",
            field="image",
        )
    if image.shape[0] * image.shape[1] > most:
        raise ImageTooLargeError(
            f"the image has {image.shape[1]} x {image.shape[0]} pixels; expected at most {most / 1e6:g} million. Send "
            "parts of it, or raise the limit of the server.",
            field="image",
        )
    return image.astype(image.dtype.newbyteorder("="), copy=False)


def _answer(result: Segmentation, asked: InferRequest, model: str) -> Response:
    content, length = write_response(outputs_of(result), asked, model=model, version=MODEL_VERSION)
    if length is None:
        return Response(content, media_type="application/json")
    return Response(content, headers={_HEADER: str(length)}, media_type="application/octet-stream")


def _check_model(name: str, number: str, model: str) -> None:
    if name != model or number != MODEL_VERSION:
        raise RequestError(
            f"model {name[:80]!r}, version {number[:20]!r}, is not served; expected {model!r}, version "
            f"{MODEL_VERSION!r}. Ask for that one.",
            status=404,
            kind="not_found",
            field="model",
        )


def _check_encoding(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise RequestError(
            f"the body is compressed ({encoding[:40]}); expected a plain one. Send it without compression.",
            status=415,
            kind="unsupported",
            field="content-encoding",
        )
