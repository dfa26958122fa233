"""Routes for work in the background, and the stream of events."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from runtime.config import SegmentConfig
from runtime.errors import InputError
from runtime.server.images.settings import settings_of
from runtime.server.routes.edits import Change
from runtime.server.work.events import Events
from runtime.server.work.jobs import Jobs
from runtime.server.work.projects import ServedProject


class SegmentImage(Change):
    """One image to segment."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"revision": 0, "settings": {"diameter_px": 24}}]}
    )

    settings: dict[str, Any] = Field(default={}, description="Fields of SegmentConfig.")


class SegmentImages(BaseModel):
    """Several images to segment: by id, by state, or all."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"state": "new", "settings": {"diameter_px": 24}}]}
    )

    images: list[str] | None = Field(default=None, max_length=100_000)
    all: bool = False
    state: str | None = None
    settings: dict[str, Any] = Field(default={}, description="Fields of SegmentConfig.")


def job_router(served: ServedProject, jobs: Jobs, events: Events, base: SegmentConfig) -> APIRouter:
    """Build the routes.

    Args:
        served: the project.
        jobs: run the work.
        events: the events to stream.
        base: settings that a request does not change.
    """
    router = APIRouter(prefix="/api", tags=["jobs"])

    @router.post("/project/images/{key}/segment", status_code=202)
    def segment_one(key: str, body: SegmentImage) -> dict[str, Any]:
        """Segment an image in the background; its cells are replaced, which can be undone."""
        name = served.name(key)
        served.check_revision(name, body.revision)
        return jobs.add([name], settings_of(body.settings, base))

    @router.post("/project/segment", status_code=202)
    def segment_many(body: SegmentImages) -> dict[str, Any]:
        """Segment several images in the background."""
        config = settings_of(body.settings, base)
        return jobs.add(_chosen(served, body), config)

    @router.get("/jobs")
    def all_jobs() -> dict[str, Any]:
        """List the jobs of this run of the server."""
        return {"jobs": jobs.all()}

    @router.get("/jobs/{key}")
    def job(key: str) -> dict[str, Any]:
        """Describe a job."""
        return jobs.get(key)

    @router.delete("/jobs/{key}")
    def cancel(key: str) -> dict[str, Any]:
        """Stop a job after the image in work."""
        return jobs.cancel(key)

    @router.get("/events", response_class=StreamingResponse, responses={200: {"content": {"text/event-stream": {}}}})
    async def stream() -> StreamingResponse:
        """Stream events: ``job`` with a job, ``image`` with an image that changed."""
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(events.listen(), headers=headers, media_type="text/event-stream")

    return router


def _chosen(served: ServedProject, body: SegmentImages) -> list[str]:
    """Return the names of the images that a request chooses.

    Raises:
        InputError: there is no choice, or several.
    """
    given = [body.images is not None, body.all, body.state is not None]
    if given.count(True) != 1:
        raise InputError(
            f"{given.count(True)} of images, all and state are given; expected one. Choose the images in one way.",
            kind="conflict" if any(given) else "missing",
            field="images",
        )
    if body.images is not None:
        return list(dict.fromkeys(served.name(key) for key in body.images))
    return [status.name for status in served.project.statuses() if body.state in (None, status.state)]
