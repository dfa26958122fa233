"""The application: guard, errors, metrics, and the routes of the API and the protocols."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

from runtime.engines.builtin import BUILTIN_NAME
from runtime.jobs.segmenter_spec import loaded_segmenter
from runtime.server.http.failures import answer_errors
from runtime.server.http.guard import Guard, Rules
from runtime.server.http.metrics import Measured
from runtime.server.options import ServerOptions
from runtime.server.routes.segment import segment_router
from runtime.server.routes.status import status_router
from runtime.server.work.events import Events
from runtime.server.work.service import Service

PAGE = Path(__file__).parent / "page"
"""Files of the browser page."""

_ABOUT = """Segments microscope images and corrects the results.

Errors are JSON: `{"error": {"message", "came", "expected", "advice", "kind", "field"}}`. A request that changes
something needs a content type other than that of a form or text. With a token, send `Authorization: Bearer TOKEN`."""


def create_app(options: ServerOptions) -> FastAPI:
    """Build the application of a server; its lifespan releases what it holds.

    Args:
        options: what to serve. The engines are loaded now.

    Raises:
        EngineError, BackendError: the engines cannot be loaded.
        SegmenterError: the project cannot be opened.
    """
    service, events = Service(loaded_segmenter(options.engines), options.limits), Events()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        events.close()
        service.close()

    app = FastAPI(
        title="cellsam-engine",
        version=version("cellsam-engine"),
        description=_ABOUT,
        docs_url=None,  # these pages load scripts from other hosts
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.events = events
    answer_errors(app)
    model = model_name(options)
    app.include_router(status_router(service, options, model))
    app.include_router(segment_router(service, options))
    _serve_page(app)
    # The last one added is the first one called.
    app.add_middleware(Guard, rules=_rules(options))
    app.add_middleware(Measured, metrics=service.metrics)
    return app


def model_name(options: ServerOptions) -> str:
    """Return the name of the served model: that of its engine directory."""
    directory = options.engines.engine_dir
    return BUILTIN_NAME if directory is None else directory.resolve().name


def _rules(options: ServerOptions) -> Rules:
    return Rules(
        on_loopback=options.on_loopback,
        token=options.token,
        cookie=f"cellsam-engine-{options.port}",
        limits=options.limits,
    )


def _serve_page(app: FastAPI) -> None:
    """Serve the browser page, if it is installed."""
    if not (PAGE / "index.html").is_file():
        return
    app.mount("/page", StaticFiles(directory=PAGE))

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers={"Cache-Control": "no-cache"})
