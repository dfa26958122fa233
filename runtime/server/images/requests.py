"""The image of a request: an uploaded body, or JSON that names a file below the root."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runtime.config import SegmentConfig
from runtime.files.image_results import FileOptions
from runtime.server.images.settings import reading_of, settings_of, split_query
from runtime.server.images.uploads import below, receive, upload_file
from runtime.server.options import ServerOptions

IMAGE_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            **{
                kind: {"schema": {"type": "string", "format": "binary"}}
                for kind in ("image/png", "image/jpeg", "image/tiff", "application/x-npy", "application/octet-stream")
            },
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["path"],
                    "properties": {
                        "path": {"type": "string", "description": "Image below the root of the server."},
                        "settings": {"type": "object", "description": "Fields of SegmentConfig."},
                        "read": {"type": "object", "description": "Choice of channels and plane."},
                    },
                },
                "example": {"path": "plate1/a01.tif", "settings": {"diameter_px": 24}, "read": {"nuclear": "DAPI"}},
            },
        },
    }
}
"""OpenAPI description of the body of a request with an image."""


class NamedImage(BaseModel):
    """An image below the root of the server."""

    model_config = ConfigDict(extra="forbid", strict=True)

    path: str = Field(min_length=1, max_length=4096)
    settings: dict[str, Any] = {}
    read: dict[str, Any] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageRequest:
    """An image of a request, on disk and not yet read."""

    path: Path
    config: SegmentConfig
    files: FileOptions
    inside: Path
    """Directory that the image may not leave."""


@asynccontextmanager
async def image_request(
    request: Request, options: ServerOptions, base: SegmentConfig, own: Sequence[str] = ("format",)
) -> AsyncIterator[ImageRequest]:
    """Take the image of a request, for as long as it is needed.

    Args:
        request: its body is the file, and its query has settings; or its body is JSON, see ``NamedImage``.
        options: root and limits.
        base: settings that the request does not change.
        own: parameters of the query that belong to the route.

    Raises:
        InputError: the image is missing or of another type.
        ConfigError: a setting is unknown or outside its range.
        RequestValidationError: the JSON has another form.
    """
    settings, reading = split_query(request.query_params.multi_items(), own)
    largest = options.limits.pixels
    if request.headers.get("content-type", "").split(";")[0].strip().lower() == "application/json":
        named = await _named(request)
        config = settings_of({**settings, **named.settings}, base)
        files = reading_of({**reading, **named.read}, largest)
        path = below(options.root, named.path)
        assert options.root is not None, "otherwise 'below' raises"
        yield ImageRequest(path=path, config=config, files=files, inside=options.root)
        return
    config, files = settings_of(settings, base), reading_of(reading, largest)
    with upload_file() as place:
        path = await receive(request.stream(), place)
        yield ImageRequest(path=path, config=config, files=files, inside=path.parent)


async def _named(request: Request) -> NamedImage:
    try:
        return NamedImage.model_validate_json(await request.body())
    except ValidationError as error:
        raise RequestValidationError(
            error.errors(include_url=False, include_context=False, include_input=False)
        ) from error
