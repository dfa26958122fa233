"""Routes for the pixels of an image, as a Deep Zoom pyramid."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from runtime.server.images.deep_zoom import descriptor, png, tile_extent
from runtime.server.images.rendering import parse_look, render
from runtime.server.work.projects import ServedProject

XML = "application/xml"

_KEPT = {"Cache-Control": "private, max-age=600"}
"""Pixels of an image do not change while a project is open."""


def pixel_router(served: ServedProject) -> APIRouter:
    """Build the routes."""
    router = APIRouter(prefix="/api/project/images/{key}", tags=["pixels"])
    picture: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {}}}}

    @router.get("/image.dzi", response_class=Response, responses={200: {"content": {XML: {}}}})
    def image_descriptor(key: str) -> Response:
        """Describe the pyramid. A query with ``channels``, ``colours`` and ``contrast`` goes on to the tiles."""
        size_hw = served.project.status(served.name(key)).size_hw
        return Response(descriptor(size_hw), headers=_KEPT, media_type=XML)

    @router.get("/image_files/{level}/{column}_{row}.png", response_class=Response, responses=picture)
    def image_tile(
        key: str,
        level: int,
        column: int,
        row: int,
        channels: str | None = None,
        colours: str | None = None,
        contrast: str | None = None,
    ) -> Response:
        """Show a tile: chosen channels, a colour RRGGBB for each, and a range low:high or auto for each."""
        name = served.name(key)
        size_hw = served.project.status(name).size_hw
        halved, (top, left, bottom, right) = tile_extent(size_hw, level, column, row)
        look = parse_look(channels, colours, contrast, len(served.pixels.info(name).channels))
        pyramids = served.pixels.pyramids(name, look.channels)
        planes = [pyramid.level(halved)[top:bottom, left:right] for pyramid in pyramids]
        shown = render(planes, look, [pyramid.contrast for pyramid in pyramids])
        return Response(png(shown), headers=_KEPT, media_type="image/png")

    @router.get("/contrast")
    def contrast(key: str) -> dict[str, Any]:
        """Measure the contrast of each channel: the range that ``auto`` shows, and that of all values."""
        name = served.name(key)
        names = served.pixels.info(name).channels
        found = []
        for number, channel in enumerate(names):
            (pyramid,) = served.pixels.pyramids(name, [number])
            measured = pyramid.contrast
            found.append(
                {
                    "name": channel,
                    "low": measured.low,
                    "high": measured.high,
                    "min": measured.least,
                    "max": measured.most,
                }
            )
        return {"channels": found}

    return router
