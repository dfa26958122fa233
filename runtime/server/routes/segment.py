"""Routes that segment an image, and decode boxes in an encoded one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from runtime.server.images.answers import Answer, ResultFormat, result_answer
from runtime.server.images.requests import IMAGE_BODY, image_request
from runtime.server.images.settings import settings_of
from runtime.server.options import ServerOptions
from runtime.server.work.embeddings import Embedding
from runtime.server.work.service import Service, file_reader, key_of, result_of

RESULT: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The cells, in the format asked for.",
        "content": {
            "application/json": {
                "example": {
                    "size_hw": [512, 512],
                    "cells": 1,
                    "appearance": {"diameter_px": 24.5, "inverted": False, "doubtful": False},
                    "made_by": [{"version": "0.1.0", "model": "nano", "backend": "cpu"}],
                    "columns": ["label", "x0", "y0", "x1", "y1", "score"],
                    "rows": [[1, 10.0, 12.0, 34.0, 36.5, 0.93]],
                }
            },
            "application/geo+json": {"schema": {"type": "object"}},
            "image/tiff": {"schema": {"type": "string", "format": "binary"}},
            "image/png": {"schema": {"type": "string", "format": "binary"}},
        },
    },
    400: {"description": "The image or a setting cannot be used."},
    413: {"description": "The image is too large."},
    429: {"description": "The queue is full."},
}


class Boxes(BaseModel):
    """Box prompts."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"boxes": [[10, 12, 34, 36]], "settings": {}}]}
    )

    boxes: list[list[float]] = Field(description="x0, y0, x1, y1 each, image pixels.")
    settings: dict[str, Any] = Field(default={}, description="Fields of SegmentConfig: thresholds of masks.")


class EncodedImage(BaseModel):
    """An image that is encoded for box prompts."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"id": "b1946ac9", "size_hw": [512, 512], "views": 1, "bytes": 1572864, "seconds": 0.21}]
        }
    )

    id: str
    size_hw: tuple[int, int]
    views: int = Field(description="Views in which the image was encoded.")
    bytes: int = Field(description="Memory of the embedding.")
    seconds: float = Field(description="Time to read and encode; close to 0 if it was cached.")


def segment_router(service: Service, options: ServerOptions) -> APIRouter:
    """Build the routes.

    Args:
        service: does the work.
        options: root and limits.
    """
    router = APIRouter(prefix="/api", tags=["segment"])
    base = service.segmenter.config

    @router.post("/segment", responses=RESULT, openapi_extra=IMAGE_BODY, response_class=Response)
    async def segment(request: Request, format: ResultFormat = "json") -> Response:
        """Segment an image. Further parameters are settings: fields of SegmentConfig, or how to read the file."""
        with service.queue.slot():
            async with image_request(request, options, base) as image:
                read = file_reader(image.path, image.files, image.inside)
                answer = await result_of(service.segment(read, image.config))
            return await run_in_threadpool(result_answer, answer, format)

    @router.post("/embeddings", status_code=201, openapi_extra=IMAGE_BODY)
    async def encode(request: Request) -> EncodedImage:
        """Encode an image for box prompts, and keep the embedding for a while."""
        start = time.perf_counter()
        with service.queue.slot():
            async with image_request(request, options, base, own=()) as image:
                key = await run_in_threadpool(key_of, image.path, image.config, image.files)
                read = file_reader(image.path, image.files, image.inside)
                embedding = await result_of(service.encode(key, read, image.config))
        return _described(key, embedding, lambda: time.perf_counter() - start)

    @router.post("/embeddings/{key}/boxes", responses=RESULT, response_class=Response)
    async def decode(key: str, body: Boxes, format: ResultFormat = "json") -> Response:
        """Decode one mask per box in an encoded image. Boxes of all users share decoder calls."""
        embedding = service.embedding(key)
        config = settings_of(body.settings, embedding.config)
        with service.queue.slot():
            result = await result_of(service.decode(embedding, body.boxes, config))
            return await run_in_threadpool(result_answer, Answer(result, of_boxes=True), format)

    @router.delete("/embeddings/{key}", status_code=204)
    def drop(key: str) -> None:
        """Remove an embedding from the cache."""
        service.embedding(key)
        service.embeddings.drop(key)

    return router


def _described(key: str, embedding: Embedding, seconds: Callable[[], float]) -> EncodedImage:
    return EncodedImage(
        id=key,
        size_hw=embedding.views.size_hw,
        views=len(embedding.views),
        bytes=embedding.size_bytes,
        seconds=round(seconds(), 4),
    )
