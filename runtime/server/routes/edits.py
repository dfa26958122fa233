"""Routes that change the cells of an image: edits, box prompts, undo, redo and marks."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from runtime.correction.edits.parse import parse_edit
from runtime.correction.journal import State
from runtime.server.work.projects import AUTHOR, ServedProject
from runtime.server.work.service import result_of


class Change(BaseModel):
    """A change of the labels that the caller shows."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"revision": 3}]})

    revision: int = Field(ge=0, le=2**53, description="Revision that the caller shows; another one gives status 409.")


class EditChange(Change):
    """An edit."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"revision": 3, "edit": {"operation": "merge", "labels": [4, 7]}}]},
    )

    edit: dict[str, Any] = Field(description="Operation and its fields.")


class BoxChange(Change):
    """A box prompt."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"revision": 3, "box": [10.5, 12, 34, 36]}]}
    )

    box: tuple[float, float, float, float] = Field(description="x0, y0, x1, y1, image pixels.")
    replace: int | None = Field(default=None, description="Label of the cell that takes the new shape.")


class MarkChange(Change):
    """A mark."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"revision": 3, "state": "done"}]})

    state: State


class Nothing(BaseModel):
    """An empty body."""

    model_config = ConfigDict(extra="forbid")


def edit_router(served: ServedProject) -> APIRouter:
    """Build the routes."""
    router = APIRouter(prefix="/api/project/images/{key}", tags=["edits"])
    project, queue = served.project, served.service.queue

    @router.post("/edits")
    def edit(key: str, body: EditChange) -> dict[str, Any]:
        """Make an edit."""
        name, made = served.name(key), parse_edit(body.edit)
        return served.change(name, lambda: project.apply(name, made, author=AUTHOR, expected_revision=body.revision))

    @router.post("/undo")
    def undo(key: str, body: Change) -> dict[str, Any]:
        """Undo the last edit that has not been undone."""
        name = served.name(key)
        return served.change(name, lambda: project.undo(name, author=AUTHOR, expected_revision=body.revision))

    @router.post("/redo")
    def redo(key: str, body: Change) -> dict[str, Any]:
        """Redo the last edit that was undone."""
        name = served.name(key)
        return served.change(name, lambda: project.redo(name, author=AUTHOR, expected_revision=body.revision))

    @router.post("/state")
    def mark(key: str, body: MarkChange) -> dict[str, Any]:
        """Set the state of an image."""
        name = served.name(key)
        return served.change(
            name, lambda: project.mark(name, body.state, author=AUTHOR, expected_revision=body.revision)
        )

    @router.post("/prompts")
    async def prompt(key: str, body: BoxChange) -> dict[str, Any]:
        """Add the cell in a box, or outline a cell again. The first box in an image also encodes it."""
        name = served.name(key)
        status = await run_in_threadpool(served.check_revision, name, body.revision)
        boxes = served.service.check_boxes([body.box], status.size_hw)
        with queue.slot():
            embedding = await result_of(served.encode(name))
            result = await result_of(served.service.decode(embedding, boxes))
            return await run_in_threadpool(served.add_cell, name, result, body.revision, body.replace)

    @router.post("/prompts/warm")
    async def warm(key: str, _: Nothing) -> dict[str, Any]:
        """Encode an image, so that its first box does not have to wait."""
        name = served.name(key)
        cached = served.is_encoded(name)
        with queue.slot():
            await result_of(served.encode(name))
        return {"cached": cached}

    return router
