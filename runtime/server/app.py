"""The application: guard, errors, metrics, and the routes of the API and the protocols."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool

from runtime.correction.project import Project
from runtime.engines.builtin import BUILTIN_NAME
from runtime.jobs.segmenter_spec import loaded_segmenter
from runtime.server.http.failures import answer_errors
from runtime.server.http.guard import Guard, Rules
from runtime.server.http.metrics import Measured
from runtime.server.options import ServerOptions
from runtime.server.protocols.open_inference import open_inference_router
from runtime.server.protocols.samapi import samapi_router
from runtime.server.routes.edits import edit_router
from runtime.server.routes.export import export_router
from runtime.server.routes.jobs import job_router
from runtime.server.routes.labels import label_router
from runtime.server.routes.pixels import pixel_router
from runtime.server.routes.project import project_router
from runtime.server.routes.segment import segment_router
from runtime.server.routes.status import status_router
from runtime.server.work.events import Events
from runtime.server.work.jobs import Jobs
from runtime.server.work.projects import ServedProject
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
    project = None if options.project is None else Project.open(options.project)
    service, events = Service(loaded_segmenter(options.engines), options.limits), Events()
    held = ExitStack()  # closed in reverse order
    if project is not None:
        held.callback(project.close)
    held.callback(service.close)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        events.close()
        await run_in_threadpool(held.close)

    app = FastAPI(
        title="cellsam-engine",
        version=version("cellsam-engine"),
        description=_ABOUT,
        docs_url=None,  # these pages load scripts from other hosts
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.events, app.state.service = events, service
    answer_errors(app)
    model = model_name(options)
    app.include_router(status_router(service, options, model))
    app.include_router(segment_router(service, options))
    app.include_router(open_inference_router(service, model))
    app.include_router(samapi_router(service, model))
    if project is not None:
        served = ServedProject(project, service, events, options)
        jobs = Jobs(served)
        held.callback(jobs.close)
        for router in (project_router, pixel_router, label_router, edit_router, export_router):
            app.include_router(router(served))
        app.include_router(job_router(served, jobs, events, service.segmenter.config))
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
    app.mount("/page", _PageFiles(directory=PAGE))

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers=_CHECKED)


_CHECKED = {"Cache-Control": "no-cache"}
"""Browsers ask whether a file changed, so that all files of the page are of one version."""


class _PageFiles(StaticFiles):
    """Files of the page."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        """Answer with a file."""
        answer = super().file_response(*args, **options)
        answer.headers.update(_CHECKED)
        return answer
