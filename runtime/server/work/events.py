"""Events for pages that show a project, as server-sent events (HTML standard, section 9.2)."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

ALIVE_S = 15.0
"""Seconds after which a silent stream sends a comment, so that proxies keep it open."""

WAITING = 1000
"""Events that a slow listener may be behind; then its stream ends, and the page connects and loads again."""


class Events:
    """Passes events of any thread to all listeners."""

    def __init__(self) -> None:
        """Create the broker, without listeners."""
        self._lock = threading.Lock()
        self._listeners: dict[asyncio.Queue[str | None], asyncio.AbstractEventLoop] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._listeners)

    def send(self, name: str, data: dict[str, Any]) -> None:
        """Send an event to all listeners; any thread may call this."""
        text = f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"
        self._pass(text)

    def close(self) -> None:
        """End all streams; any thread may call this."""
        with self._lock:
            self._closed = True
        self._pass(None)

    def _pass(self, text: str | None) -> None:
        with self._lock:
            listeners = list(self._listeners.items())
        for queue, loop in listeners:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_put, queue, text)

    async def listen(self, alive_s: float = ALIVE_S) -> AsyncIterator[str]:
        """Yield the text of the stream of one listener, until it is closed."""
        queue: asyncio.Queue[str | None] = asyncio.Queue(WAITING)
        with self._lock:
            if self._closed:
                return
            self._listeners[queue] = asyncio.get_running_loop()
        try:
            yield "retry: 2000\n\n"
            while True:
                try:
                    text = await asyncio.wait_for(queue.get(), alive_s)
                except TimeoutError:
                    yield ": alive\n\n"
                    continue
                if text is None:
                    return
                yield text
        finally:
            with self._lock:
                self._listeners.pop(queue, None)


def _put(queue: asyncio.Queue[str | None], text: str | None) -> None:
    if queue.full():
        while not queue.empty():
            queue.get_nowait()
        text = None  # the listener is too far behind
    queue.put_nowait(text)
