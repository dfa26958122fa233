"""A thin client of the server, for Python.

>>> from runtime.server.client import Client
>>> with Client("http://127.0.0.1:8000") as client:
...     labels = client.labels("cells.png", diameter_px=24)
...     embedding = client.encode("cells.png")
...     cells = client.boxes(embedding, [[10, 12, 34, 36]])
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

import httpx
import numpy as np
from numpy.typing import ArrayLike

from runtime.errors import ErrorKind, SegmenterError
from runtime.types import I32

TIMEOUT_S = 600.0
"""Seconds to wait for an answer: a large image on a CPU takes minutes."""

_Client = TypeVar("_Client", bound="Client")

ImageSource = str | Path | bytes | ArrayLike
"""A path of a file on this machine, the bytes of a file, or pixels (H, W) or (H, W, C <= 3)."""


class ServerError(SegmenterError):
    """An error that the server answered. ``kind`` and ``field`` are those of the server."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 500,
        revision: int | None = None,
        kind: ErrorKind | None = None,
        field: str | None = None,
    ) -> None:
        """Create the error.

        Args:
            message: message of the server.
            status: status of the answer.
            revision: present revision of the image, if the request named another one.
            kind: kind of error.
            field: field at fault.
        """
        super().__init__(message, kind=kind, field=field)
        self.status, self.revision = status, revision


@dataclass(frozen=True, slots=True)
class Cells:
    """The table of cells of a result."""

    size_hw: tuple[int, int]
    columns: tuple[str, ...]
    rows: tuple[tuple[float | None, ...], ...]
    appearance: Mapping[str, Any]
    """How the model saw the image."""
    made_by: tuple[Mapping[str, Any], ...]
    """Origin of the result: the fields of ``Provenance``; empty if unknown."""

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: str) -> list[float | None]:
        """Return a column by name."""
        place = self.columns.index(name)
        return [row[place] for row in self.rows]


@dataclass(frozen=True, slots=True)
class Embedding:
    """An image that the server keeps encoded for a while."""

    id: str
    size_hw: tuple[int, int]


@dataclass(frozen=True, slots=True)
class ImageState:
    """An image of the served project."""

    id: str
    name: str
    state: str
    size_hw: tuple[int, int]
    cells: int
    revision: int
    can_undo: bool
    can_redo: bool
    problem: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """Effect of a change of an image's cells."""

    revision: int
    state: str
    cells: int
    labels: tuple[int, ...]
    created: tuple[int, ...]
    gone: tuple[int, ...]
    label: int | None = None
    """Label of the cell that a box prompt added."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event of the server."""

    name: Literal["image", "job"]
    data: Mapping[str, Any]


class Client:
    """Calls a server. Threads may share it; a ``with`` block closes its connections."""

    def __init__(
        self,
        address: str = "http://127.0.0.1:8000",
        *,
        token: str | None = None,
        timeout_s: float = TIMEOUT_S,
        http: httpx.Client | None = None,
    ) -> None:
        """Prepare connections; none is opened yet.

        Args:
            address: address of the server.
            token: its token, if it has one.
            timeout_s: seconds to wait for an answer.
            http: client to use in place of a new one.
        """
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._http = http or httpx.Client(base_url=address, headers=headers, timeout=timeout_s)

    def health(self) -> Mapping[str, Any]:
        """Describe the server."""
        found: Mapping[str, Any] = self._json("GET", "/health")
        return found

    def labels(self, image: ImageSource, **settings: Any) -> I32:
        """Segment an image; return its label map (H, W) int32, 0 background.

        Args:
            image: the image.
            settings: fields of ``SegmentConfig``, or choices in reading such as ``nuclear``.

        Raises:
            ServerError: the server rejected the image or a setting.
        """
        import tifffile

        answer = self._send_image("/api/segment", image, {**settings, "format": "tiff"})
        return np.asarray(tifffile.imread(io.BytesIO(answer.content))).astype(np.int32)

    def cells(self, image: ImageSource, **settings: Any) -> Cells:
        """Segment an image; return the table of its cells. See ``labels``."""
        return _cells(self._send_image("/api/segment", image, settings).json())

    def geojson(self, image: ImageSource, **settings: Any) -> Mapping[str, Any]:
        """Segment an image; return the outlines of its cells, for QuPath. See ``labels``."""
        found: Mapping[str, Any] = self._send_image("/api/segment", image, {**settings, "format": "geojson"}).json()
        return found

    def encode(self, image: ImageSource, **settings: Any) -> Embedding:
        """Encode an image for box prompts. See ``labels``."""
        found = self._send_image("/api/embeddings", image, settings).json()
        return Embedding(found["id"], tuple(found["size_hw"]))

    def boxes(self, embedding: Embedding, boxes: ArrayLike, **settings: Any) -> Cells:
        """Decode one cell per box in an encoded image.

        Args:
            embedding: the image.
            boxes: (K, 4) xyxy, image pixels.
            settings: thresholds of masks, fields of ``SegmentConfig``.

        Raises:
            ServerError: the boxes cannot be used, or the embedding was dropped.
        """
        body = {"boxes": np.asarray(boxes, np.float64).tolist(), "settings": settings}
        return _cells(self._json("POST", f"/api/embeddings/{embedding.id}/boxes", body))

    def images(self, state: str | None = None) -> list[ImageState]:
        """List the images of the served project."""
        chosen = {"limit": "10000"} if state is None else {"limit": "10000", "state": state}
        found = self._json("GET", f"/api/project/images?{httpx.QueryParams(chosen)}")["images"]
        return [_image_state(one) for one in found]

    def image(self, key: str) -> ImageState:
        """Describe an image by its id."""
        return _image_state(self._json("GET", f"/api/project/images/{key}"))

    def project_labels(self, key: str) -> I32:
        """Return the present labels of an image, (H, W) int32."""
        import tifffile

        answer = self._send("GET", f"/api/project/images/{key}/export?format=tiff")
        return np.asarray(tifffile.imread(io.BytesIO(answer.content))).astype(np.int32)

    def edit(self, key: str, revision: int, edit: Mapping[str, Any]) -> Change:
        """Make an edit.

        Args:
            key: id of the image.
            revision: revision that the caller knows.
            edit: operation and its fields.

        Raises:
            ServerError: the edit cannot be made; status 409 if the image has another revision.
        """
        return self._change(key, "edits", {"revision": revision, "edit": dict(edit)})

    def prompt(self, key: str, revision: int, box: Sequence[float]) -> Change:
        """Add the cell in a box, x0, y0, x1, y1. See ``edit``."""
        return self._change(key, "prompts", {"revision": revision, "box": [float(side) for side in box]})

    def undo(self, key: str, revision: int) -> Change:
        """Undo the last edit. See ``edit``."""
        return self._change(key, "undo", {"revision": revision})

    def redo(self, key: str, revision: int) -> Change:
        """Redo the last edit that was undone. See ``edit``."""
        return self._change(key, "redo", {"revision": revision})

    def mark(self, key: str, revision: int, state: str) -> Change:
        """Set the state of an image. See ``edit``."""
        return self._change(key, "state", {"revision": revision, "state": state})

    def segment_project(self, *, state: str | None = None, **settings: Any) -> str:
        """Segment all images of the project, or those in a state, in the background; return the id of the job."""
        chosen: dict[str, Any] = {"all": True} if state is None else {"state": state}
        return str(self._json("POST", "/api/project/segment", {**chosen, "settings": settings})["id"])

    def job(self, key: str) -> Mapping[str, Any]:
        """Describe a job."""
        found: Mapping[str, Any] = self._json("GET", f"/api/jobs/{key}")
        return found

    def events(self) -> Iterator[Event]:
        """Yield events until the server or the caller stops."""
        with self._http.stream("GET", "/api/events", timeout=None) as answer:
            name = ""
            for line in answer.iter_lines():
                kind, _, value = line.partition(": ")
                if kind == "event":
                    name = value
                elif kind == "data":
                    yield Event(name, json.loads(value))  # type: ignore[arg-type]

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def __enter__(self: _Client) -> _Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _change(self, key: str, what: str, body: Mapping[str, Any]) -> Change:
        made = self._json("POST", f"/api/project/images/{key}/{what}", body)
        numbers = {name: tuple(made[name]) for name in ("labels", "created", "gone")}
        return Change(made["revision"], made["state"], made["cells"], **numbers, label=made.get("label"))

    def _send_image(self, path: str, image: ImageSource, settings: Mapping[str, Any]) -> httpx.Response:
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in settings.items()}
        headers = {"Content-Type": "application/octet-stream"}
        return self._checked(self._http.post(path, params=texts, content=_content(image), headers=headers))

    def _json(self, method: str, path: str, body: Any = None) -> Any:
        return self._send(method, path, body).json()

    def _send(self, method: str, path: str, body: Any = None) -> httpx.Response:
        return self._checked(self._http.request(method, path, json=body))

    @staticmethod
    def _checked(answer: httpx.Response) -> httpx.Response:
        """Return a good answer.

        Raises:
            ServerError: it is an error.
        """
        if answer.is_success:
            return answer
        try:
            body = answer.json()
            error = body["error"]
            message, kind, field = error["message"], error["kind"], error["field"]
        except (ValueError, KeyError, TypeError):
            raise ServerError(
                f"the server answered {answer.status_code} without an explanation; expected cellsam-engine. Check the "
                "address.",
                status=answer.status_code,
            ) from None
        raise ServerError(message, status=answer.status_code, revision=body.get("revision"), kind=kind, field=field)


def _content(image: ImageSource) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | Path):
        return Path(image).read_bytes()
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(image), allow_pickle=False)
    return buffer.getvalue()


def _cells(found: Mapping[str, Any]) -> Cells:
    rows = tuple(tuple(row) for row in found["rows"])
    height, width = found["size_hw"]
    return Cells((height, width), tuple(found["columns"]), rows, found["appearance"], tuple(found["made_by"]))


def _image_state(found: Mapping[str, Any]) -> ImageState:
    height, width = found["size_hw"]
    known = {
        name: found[name] for name in ("id", "name", "state", "cells", "revision", "can_undo", "can_redo", "problem")
    }
    return ImageState(size_hw=(height, width), **known)
