"""Metrics in the text format of Prometheus, in a registry of each application's own."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper limits of the buckets of times."""


_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Metrics:
    """Counters of one server."""

    media_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        """Create all counters at zero."""
        self._registry = registry = CollectorRegistry(auto_describe=True)
        self.requests = Counter(
            "cellsam_requests",
            "Requests by route, method and status.",
            ["route", "method", "status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "cellsam_request_seconds", "Time to the end of the answer.", ["route"], buckets=_SECONDS, registry=registry
        )
        self.images = Counter("cellsam_images", "Images segmented.", registry=registry)
        self.cells = Counter("cellsam_cells", "Cells found.", registry=registry)
        self.encoded = Counter("cellsam_encoded_images", "Images encoded for box prompts.", registry=registry)
        self.boxes = Counter("cellsam_boxes", "Box prompts decoded.", registry=registry)
        self.box_batches = Counter(
            "cellsam_box_batches", "Groups of requests that shared decoder calls.", registry=registry
        )
        self.rejected = Counter("cellsam_rejected", "Requests rejected because the queue was full.", registry=registry)

    def watch(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a gauge that is read when the metrics are."""
        Gauge(name, text, registry=self._registry).set_function(read)

    def text(self) -> bytes:
        """Return all metrics."""
        return generate_latest(self._registry)


class Measured:
    """ASGI middleware that counts and times requests by route."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Wrap an application."""
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, then count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, start = 500, time.perf_counter()

        async def send_seen(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_seen)
        finally:
            # The template of the path, of which there are few; paths themselves are without number.
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.requests.labels(route, method, str(status)).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - start)
