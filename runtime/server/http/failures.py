"""Errors as HTTP answers: a status and a JSON object."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from runtime.correction.journal import ProjectError
from runtime.correction.outcomes import ConflictError
from runtime.errors import (
    BackendError,
    ConfigError,
    ErrorKind,
    InputError,
    SegmenterError,
    kind_of,
    reason_of,
)

_log = logging.getLogger(__name__)

_STATUS_OF_KIND: dict[ErrorKind, int] = {"too_large": 413, "not_found": 404}
"""Statuses of bad input other than 400."""

_STATUS_OF_PROJECT: dict[ErrorKind, int] = {"not_found": 404, "conflict": 409, "exists": 409, "busy": 409}
"""Statuses of errors of a project other than 500."""

_KIND_OF_STATUS: dict[int, ErrorKind] = {
    400: "invalid",
    401: "missing",
    403: "invalid",
    404: "not_found",
    405: "unsupported",
    413: "too_large",
    415: "unsupported",
    429: "busy",
}

RETRY_AFTER = {"Retry-After": "1"}
"""Header of answers to requests that may be sent again, in seconds."""

_ADVICE = {
    404: "Check the path; /openapi.json lists all routes.",
    405: "Use another method; /openapi.json lists all routes.",
}


class RequestError(SegmenterError):
    """A request that the server rejects for a reason of its own."""

    usual_kind: ClassVar[ErrorKind] = "invalid"

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: ErrorKind | None = None,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Create the error.

        Args:
            message: the message.
            status: status of the answer.
            kind: kind of error.
            field: field of the request at fault.
            headers: further headers of the answer.
        """
        super().__init__(message, kind=kind, field=field)
        self.status = status
        self.headers = dict(headers or {})


def status_of(error: BaseException) -> int:
    """Return the status of an answer to an error: 4xx for bad requests, 5xx for failures of the server."""
    if isinstance(error, RequestError):
        return error.status
    if isinstance(error, InputError | ConfigError):
        return _STATUS_OF_KIND.get(error.kind, 400)
    if isinstance(error, BackendError | MemoryError):
        return 503
    if isinstance(error, ProjectError):
        return _STATUS_OF_PROJECT.get(error.kind, 500)
    return 507 if kind_of(error) == "disk_full" else 500


def error_body(error: BaseException) -> dict[str, Any]:
    """Describe an error: its message, the three parts of the message, its kind and its field."""
    message = reason_of(error)
    return describe_error(message, kind_of(error), getattr(error, "field", None))


def describe_error(message: str, kind: str, field: str | None = None) -> dict[str, Any]:
    """Build the JSON object of an error.

    Args:
        message: the whole message: what came; what was expected. What to do.
        kind: kind of error.
        field: field at fault.
    """
    came, _, rest = message.partition("; ")
    expected, _, advice = rest.partition(". ")
    return {
        "message": message,
        "came": came,
        "expected": expected.removesuffix("."),
        "advice": advice,
        "kind": kind,
        "field": field,
    }


def error_answer(error: BaseException, path: str) -> Response:
    """Answer an error of a request to a path."""
    body = _shaped(error_body(error), path)
    if isinstance(error, ConflictError):
        body["revision"] = error.revision
    return json_answer(body, status=status_of(error), headers=getattr(error, "headers", None))


def _shaped(described: dict[str, Any], path: str) -> dict[str, Any]:
    """Return the body of an answer; in the Open Inference Protocol, an error is its message alone."""
    return {"error": described["message"] if path.split("/")[1:2] == ["v2"] else described}


def json_answer(body: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with JSON in ASCII, so that no text of a request can make an answer that cannot be encoded."""
    content = json.dumps(body, allow_nan=False, separators=(",", ":"))
    return Response(content, status, dict(headers or {}), media_type="application/json")


def answer_errors(app: FastAPI) -> None:
    """Make an application answer all errors as this module describes."""
    for kind in (SegmenterError, OSError, MemoryError):
        app.add_exception_handler(kind, _answer_own)
    app.add_exception_handler(RequestValidationError, _answer_validation)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(Exception, _answer_unexpected)


async def _answer_own(request: Request, error: Exception) -> Response:
    if status_of(error) >= 500:
        _log.error("%s", error, exc_info=error)
    return error_answer(error, request.url.path)


async def _answer_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError), "registered for this class"
    problems: Sequence[Any] = error.errors()
    places = [".".join(str(part) for part in one.get("loc", ())) for one in problems]
    found = "; ".join(f"{place}: {one.get('msg', 'invalid')}" for place, one in zip(places, problems, strict=True))
    message = f"the request has another form ({found}); expected that of /openapi.json. Correct these fields."
    body = describe_error(message, "invalid", places[0] if places else None)
    return json_answer(_shaped(body, request.url.path), status=422)


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "registered for this class"
    kind = _KIND_OF_STATUS.get(error.status_code, "failed")
    message = f"{error.detail}. {_ADVICE.get(error.status_code, '')}".strip()
    body = _shaped(describe_error(message, kind), request.url.path)
    return json_answer(body, status=error.status_code, headers=error.headers)


async def _answer_unexpected(request: Request, error: Exception) -> Response:
    return error_answer(error, request.url.path)  # the server's log has the traceback
