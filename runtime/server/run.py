"""Running the server until a signal stops it."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from runtime.errors import ConfigError
from runtime.server.app import create_app
from runtime.server.options import ServerOptions

SHUTDOWN_S = 5
"""Seconds that requests in progress have to finish after a signal."""

_log = logging.getLogger(__name__)


class _Server(uvicorn.Server):
    """Uvicorn's server, which reports that it is ready, and ends event streams when a signal arrives."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None], on_exit: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready, self._on_exit = on_ready, on_exit

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen."""
        await super().startup(sockets)
        self._on_ready()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop after a signal; without their end, open streams would hold up the shutdown."""
        self._on_exit()
        super().handle_exit(sig, frame)


def serve(options: ServerOptions, on_ready: Callable[[str], None] = lambda _: None) -> None:
    """Serve until SIGINT or SIGTERM, then raise that signal again for the handler that was there before.

    Args:
        options: what to serve, and where.
        on_ready: called with the address once the server accepts connections.

    Raises:
        EngineError, BackendError: the engines cannot be loaded.
        ConfigError: the address is in use or not one of this machine.
    """
    listening = _listen(options)
    try:
        app = create_app(options)
        host = f"[{options.host}]" if ":" in options.host else options.host
        address = f"http://{host}:{listening.getsockname()[1]}/"
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=SHUTDOWN_S,
            lifespan="on",
        )
        _Server(config, lambda: on_ready(address), app.state.events.close).run([listening])
    finally:
        listening.close()


def _listen(options: ServerOptions) -> socket.socket:
    """Open the port before the engines are loaded, so that a wrong address fails at once."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    opened = socket.socket(family)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((options.host, options.port))
        opened.listen(128)
    except OSError as error:
        opened.close()
        raise ConfigError(
            f"the server cannot listen on {options.host}, port {options.port} ({error.strerror}); expected an address "
            "of this machine and a free port. Choose another port; 0 takes a free one.",
            kind="busy",
            field="port",
        ) from error
    return opened
