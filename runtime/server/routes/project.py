"""Routes that describe a project and its images."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query

from runtime.correction.edits.parse import EDITS
from runtime.server.work.projects import ServedProject

Bins = Annotated[int, Query(ge=1, le=200)]


def project_router(served: ServedProject) -> APIRouter:
    """Build the routes."""
    router = APIRouter(prefix="/api/project", tags=["project"])

    @router.get("")
    def describe() -> dict[str, Any]:
        """Describe the project: its images by state, its cells, its settings and the edits that it knows."""
        statuses = served.project.statuses()
        return {
            "name": served.project.directory.resolve().name,
            "images": len(statuses),
            "states": dict(Counter(status.state for status in statuses)),
            "cells": sum(status.cells for status in statuses),
            "settings": served.project.settings,
            "operations": list(EDITS),
        }

    @router.get("/images")
    def images(
        state: str | None = None,
        offset: Annotated[int, Query(ge=0)] = 0,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 200,
    ) -> dict[str, Any]:
        """List the images."""
        found = [one for one in served.describe_all() if state in (None, one["state"])]
        return {"total": len(found), "images": found[offset : offset + limit]}

    @router.get("/images/{key}")
    def image(key: str) -> dict[str, Any]:
        """Describe an image, with its channels, type and pixel size."""
        name = served.name(key)
        info = served.pixels.info(name)
        return {
            **served.describe(name),
            "channels": list(info.channels),
            "dtype": info.dtype,
            "pixel_size_um": info.pixel_size_um,
        }

    @router.get("/counts")
    def counts() -> dict[str, Any]:
        """Count the cells of all images, and give the median size of each."""
        rows = []
        for place, status in enumerate(served.project.statuses()):
            areas = list(served.project.areas(status.name).values()) if status.cells else []
            rows.append(
                {
                    "id": str(place),
                    "name": status.name,
                    "state": status.state,
                    "cells": len(areas),
                    "median_area_px": float(np.median(areas)) if areas else None,
                }
            )
        return {"images": rows, "cells": sum(row["cells"] for row in rows)}

    @router.get("/images/{key}/counts")
    def sizes(key: str, bins: Bins = 20) -> dict[str, Any]:
        """Count the cells of an image by size."""
        name = served.name(key)
        revision = served.project.status(name).revision
        areas = np.array(list(served.project.areas(name).values()))
        counted, edges = np.histogram(areas, bins) if areas.size else (np.zeros(0), np.zeros(0))
        summary = (
            {kind: float(getattr(np, kind)(areas)) for kind in ("median", "mean", "min", "max")} if areas.size else None
        )
        return {
            "revision": revision,
            "cells": len(areas),
            "area_px": summary,
            "histogram": {"edges": edges.tolist(), "counts": counted.astype(int).tolist()},
        }

    return router
