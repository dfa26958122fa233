"""Routes for the cells of an image: label tiles, outlines and measurements."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Response

from runtime.server.http.failures import json_answer
from runtime.server.images.deep_zoom import descriptor, png, tile_extent
from runtime.server.images.label_tiles import LabelColours, label_pixels
from runtime.server.images.outlines import describe, select
from runtime.server.routes.pixels import XML
from runtime.server.work.projects import ServedProject

COLUMNS = ("label", "x0", "y0", "x1", "y1", "centroid_x", "centroid_y", "area_px")

Limit = Annotated[int, Query(ge=1, le=100_000)]
Tolerance = Annotated[float, Query(ge=0, le=100)]


def label_router(served: ServedProject) -> APIRouter:
    """Build the routes."""
    router = APIRouter(prefix="/api/project/images/{key}", tags=["cells"])
    picture: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {}}}}

    @router.get("/labels.dzi", response_class=Response, responses={200: {"content": {XML: {}}}})
    def label_descriptor(key: str) -> Response:
        """Describe the pyramid of labels. Its query goes on to the tiles."""
        status = served.project.status(served.name(key))
        return Response(descriptor(status.size_hw), headers=_headers(status.revision), media_type=XML)

    @router.get("/labels_files/{level}/{column}_{row}.png", response_class=Response, responses=picture)
    def label_tile(key: str, level: int, column: int, row: int, colours: LabelColours = "random") -> Response:
        """Show a tile of labels in random colours, or as numbers: label = R + 256 G + 65536 B."""
        name = served.name(key)
        status = served.project.status(name)
        halved, box = tile_extent(status.size_hw, level, column, row)
        step = 1 << halved
        top, left, bottom, right = (length * step for length in box)
        height, width = status.size_hw
        labels = served.project.labels(name, (top, left, min(bottom, height), min(right, width)))[::step, ::step]
        shown = png(label_pixels(labels, colours))
        return Response(shown, headers=_headers(status.revision), media_type="image/png")

    @router.get("/outlines", response_class=Response)
    def outlines(
        key: str,
        x0: float = 0,
        y0: float = 0,
        x1: float | None = None,
        y1: float | None = None,
        tolerance: Tolerance = 0,
        limit: Limit = 5000,
        since: int | None = None,
    ) -> Response:
        """Outline the cells in a region, or those among them that changed after a revision."""
        name = served.name(key)
        traced = served.traced(name)
        height, width = served.project.status(name).size_hw
        region = (_floor(y0), _floor(x0), _ceil(y1, height), _ceil(x1, width))
        found = select(traced.cells, region)
        everything = since is None or since < traced.since or since > traced.revision
        gone: list[int] = []
        if since is not None and not everything:
            found = [cell for cell in found if traced.changed.get(cell.label, -1) > since]
            gone = [label for label, at in traced.changed.items() if at > since and label not in traced.cells]
        return json_answer(
            {
                "revision": traced.revision,
                "all": everything,
                "total": len(found),
                "gone": gone,
                "cells": [describe(cell, tolerance) for cell in found[:limit]],
            }
        )

    @router.get("/at")
    def label_at(key: str, x: float, y: float) -> dict[str, Any]:
        """Return the label of a pixel; 0 is background."""
        name = served.name(key)
        revision = served.project.status(name).revision
        return {"revision": revision, "label": served.project.label_at(name, _floor(y), _floor(x))}

    @router.get("/cells", response_class=Response)
    def cells(key: str) -> Response:
        """List the cells with box, centre and area."""
        traced = served.traced(served.name(key))
        rows = []
        for cell in traced.cells.values():
            top, left, bottom, right = cell.box
            ys, xs = np.nonzero(cell.crop.mask)
            centre = [round(left + float(xs.mean()) + 0.5, 2), round(top + float(ys.mean()) + 0.5, 2)]
            rows.append([cell.label, left, top, right, bottom, *centre, cell.area_px])
        return json_answer({"revision": traced.revision, "columns": COLUMNS, "rows": rows})

    return router


def _headers(revision: int) -> dict[str, str]:
    return {"Cache-Control": "no-cache", "X-Revision": str(revision)}


_FAR = 1 << 31


def _floor(value: float) -> int:
    return math.floor(min(max(value, -_FAR), _FAR)) if math.isfinite(value) else 0


def _ceil(value: float | None, default: int) -> int:
    return default if value is None or not math.isfinite(value) else math.ceil(min(max(value, -_FAR), _FAR))
