"""Checks of every request before a route sees it: host, origin, token, content type and size.

A page of another site that the user's browser shows can reach a server on the loopback address. It can send simple
requests without asking, and, if its own host name suddenly resolves to 127.0.0.1, it can also read the answers.
Therefore the Host header must name this machine, and the Origin header, if sent, must be this server. A request that
changes something needs a content type that a page may not send to another site without CORS, which is off.

Source: Fetch standard, "CORS-safelisted request-header" and "Origin header"; Fetch Metadata Request Headers (W3C).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from fastapi import Response
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.server.http.failures import RETRY_AFTER, RequestError, error_answer
from runtime.server.options import Limits

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")

_READING = ("GET", "HEAD", "OPTIONS")

_SIMPLE_TYPES = ("", "application/x-www-form-urlencoded", "multipart/form-data", "text/plain")
"""Content types that a page of another site may send."""

_PROBES = ("/v2/health/live", "/v2/health/ready")
"""Paths for the probes of a cluster, which know no token and learn nothing."""

_INFER = ("/v2/models/", "/infer")
"""Beginning and end of the path of inference requests, which change nothing and whose clients may send no type."""

PAGE_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'"
)
"""Content security policy of all answers: the page loads nothing from other hosts, and no other page can frame it."""

_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", PAGE_POLICY.encode()),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """Who may send what."""

    on_loopback: bool
    token: str | None
    cookie: str
    """Name of the cookie that may carry the token."""
    limits: Limits


class Guard:
    """ASGI middleware that checks requests and adds headers to all answers."""

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        """Wrap an application."""
        self._app = app
        self._rules = rules
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, then hand it to the application."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no WebSockets
            await send({"type": "websocket.close", "code": 1008})
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        headers = Headers(scope=scope)
        try:
            self._check(scope, headers)
            limit = self._limit(headers)
        except RequestError as error:
            await error_answer(error, scope["path"])(scope, receive, send_guarded)
            return
        if (answer := self._login(scope)) is not None:
            await answer(scope, receive, send_guarded)
            return
        body = _Body(receive, limit, self._room)
        try:
            await self._app(scope, body.receive, send_guarded)
        finally:
            self._held -= body.held

    def _room(self, more: int) -> None:
        """Make room for a part of a body.

        Raises:
            HTTPException: the bodies of all requests in progress would take too much memory or disk space.
        """
        if self._held + more > self._rules.limits.held_bytes:
            raise HTTPException(
                429,
                f"the bodies of all requests have {self._held + more} bytes; expected at most "
                f"{self._rules.limits.held_bytes}. Try again in a moment",
                headers=RETRY_AFTER,
            )
        self._held += more

    def _check(self, scope: Scope, headers: Headers) -> None:
        if self._rules.on_loopback:
            _check_host(headers)
        _check_origin(headers)
        self._check_token(scope, headers)
        if scope["method"] not in _READING:
            _check_content_type(scope["path"], headers)

    def _check_token(self, scope: Scope, headers: Headers) -> None:
        token = self._rules.token
        if token is None or scope["path"] in _PROBES:
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        candidates = [given.strip()] if kind.lower() == "bearer" else []
        candidates += [_cookie(headers, self._rules.cookie), _token_of_page(scope)]
        # Every candidate is compared in full, in time that does not depend on how much of it is right.
        matches = [hmac.compare_digest(one.encode(), token.encode()) for one in candidates]
        if True not in matches:
            raise RequestError(
                "the request has no valid token; expected the header 'Authorization: Bearer TOKEN'. In a browser, open "
                "/?token=TOKEN once.",
                status=401,
                kind="missing",
                field="token",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _login(self, scope: Scope) -> Response | None:
        """Answer the page that a user opens with the token in its address: keep it in a cookie, and hide it."""
        if self._rules.token is None or not _token_of_page(scope):
            return None
        answer = Response(status_code=303, headers={"Location": "/", "Cache-Control": "no-store"})
        answer.set_cookie(self._rules.cookie, self._rules.token, httponly=True, samesite="strict", path="/")
        return answer

    def _limit(self, headers: Headers) -> int:
        """Return how many bytes the body may have.

        Raises:
            RequestError: it declares more.
        """
        limits = self._rules.limits
        is_json = _content_type(headers) == "application/json"
        limit = limits.json_bytes if is_json else limits.upload_bytes
        declared = headers.get("content-length", "")
        if declared.isascii() and declared.isdigit() and (len(declared) > 18 or int(declared) > limit):
            raise RequestError(_too_large(f"{declared[:18]} bytes", limit), status=413, kind="too_large")
        return limit


def _check_host(headers: Headers) -> None:
    try:
        name = urlsplit(f"//{headers.get('host', '')}").hostname
    except ValueError:
        name = None
    if name not in _LOOPBACK_NAMES:
        raise RequestError(
            f"the Host header is {headers.get('host', '')!r}; expected localhost or 127.0.0.1. Open the server under "
            "one of these names.",
            status=403,
            field="host",
        )


def _check_origin(headers: Headers) -> None:
    """Reject requests of pages of other sites."""
    origin = headers.get("origin")
    foreign = origin is not None and _netloc(origin) != headers.get("host", "").lower()
    embedded = headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate"
    if foreign or embedded:
        raise RequestError(
            f"the request comes from a page of {origin or 'another site'}; expected one of this server. Call the "
            "server from a program, or from its own page.",
            status=403,
            field="origin",
        )


def _netloc(address: str) -> str:
    """Return host and port of an address in lower case; empty if it has none."""
    try:
        return urlsplit(address).netloc.lower()
    except ValueError:
        return ""


def _check_content_type(path: str, headers: Headers) -> None:
    kind = _content_type(headers)
    if kind not in _SIMPLE_TYPES or (path.startswith(_INFER[0]) and path.endswith(_INFER[1])):
        return
    raise RequestError(
        f"the content type is {kind or 'missing'}; expected application/json, or that of an image. Send the header "
        "Content-Type, for a request without a body with the body {}.",
        status=415,
        kind="unsupported",
        field="content-type",
    )


def _content_type(headers: Headers) -> str:
    return headers.get("content-type", "").split(";")[0].strip().lower()


def _cookie(headers: Headers, name: str) -> str:
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return "" if morsel is None else str(morsel.value)


def _token_of_page(scope: Scope) -> str:
    if scope["path"] != "/" or scope["method"] != "GET":
        return ""
    try:
        given: list[str] = parse_qs(scope["query_string"].decode("latin-1"), max_num_fields=10).get("token", [""])
        return given[0]
    except ValueError:  # more fields
        return ""


class _Body:
    """Body of a request, whose bytes are counted as they arrive."""

    def __init__(self, receive: Receive, limit: int, room: Callable[[int], None]) -> None:
        self._receive, self._limit, self._room = receive, limit, room
        self.held = 0

    async def receive(self) -> Message:
        """Receive the next part.

        Raises:
            HTTPException: the body is larger than the limit, or there is no room for it.
        """
        message = await self._receive()
        more = len(message.get("body", b""))
        if self.held + more > self._limit:
            too_large = _too_large(f"more than {self._limit} bytes", self._limit)
            raise HTTPException(413, too_large.removesuffix("."))
        self._room(more)
        self.held += more
        return message


def _too_large(came: str, limit: int) -> str:
    return f"the body has {came}; expected at most {limit}. Send a smaller image, or raise the limit of the server."
