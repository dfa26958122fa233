"""Routes that describe the server itself."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Response

from runtime.server.options import ServerOptions
from runtime.server.work.service import Service


def status_router(service: Service, options: ServerOptions, model: str) -> APIRouter:
    """Build the routes.

    Args:
        service: does the work.
        options: options of the server.
        model: name of the model.
    """
    router = APIRouter(tags=["server"])
    manifest = service.segmenter.manifest

    @router.get("/health")
    def health() -> dict[str, Any]:
        """Describe the server: its model, its queue and its cache."""
        return {
            "status": "ok",
            "version": version("cellsam-engine"),
            "model": model,
            "backend": service.segmenter.backend,
            "image_size": manifest.image_size,
            "has_detector": manifest.has_detector,
            "project": options.project is not None,
            "queue": {"waiting": service.queue.taken, "limit": service.queue.limit},
            "embeddings": {
                "count": len(service.embeddings),
                "bytes": service.embeddings.size_bytes,
                "limit_bytes": service.embeddings.limit_bytes,
            },
        }

    @router.get("/metrics", response_class=Response)
    def metrics() -> Response:
        """Return counters in the text format of Prometheus."""
        return Response(service.metrics.text(), media_type=service.metrics.media_type)

    return router
