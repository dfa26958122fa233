"""A server in a process of its own, and a browser that shows its page."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
"""An installed Chromium, since Playwright's own would have to be downloaded; None if there is none."""

STOPPING_S = 30
"""Longest time from Ctrl-C to the end of the server."""


class ServerProcess:
    """``cellsam-engine serve`` or ``cellsam-engine label`` with the interpreter of this process."""

    address: str
    """Address without a slash at its end, such as ``http://127.0.0.1:8000``."""
    port: int
    pid: int

    def __init__(self, *arguments: str) -> None:
        """Prepare a server.

        Args:
            arguments: the command line after ``cellsam-engine``, without ``--port``.
        """
        self._arguments = arguments

    def start(self, port: int = 0) -> ServerProcess:
        """Start the server, and wait until it answers; return it.

        Args:
            port: its port; 0 takes a free one.

        Raises:
            RuntimeError: it ended instead.
        """
        command = [sys.executable, "-m", "runtime", *self._arguments, "--port", str(port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None, "it is a pipe"
        for line in self._process.stdout:
            if found := re.search(r"ready at (http://[\d.]+:(\d+))/", line):
                self.address, self.port, self.pid = found[1], int(found[2]), self._process.pid
                return self
        code = self._process.wait()
        raise RuntimeError(f"the server ended with exit code {code} before it answered. Run: {' '.join(command)}")

    def stop(self) -> None:
        """Stop the server as Ctrl-C does."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(STOPPING_S)

    def __enter__(self) -> ServerProcess:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


@contextmanager
def browser() -> Iterator[Browser]:
    """Run the installed Chromium without a window.

    Raises:
        RuntimeError: there is none.
    """
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        raise RuntimeError("no Chromium was found on PATH; expected chromium, chromium-browser or google-chrome.")
    options = ["--no-sandbox"] if os.name == "posix" and os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield running
        running.close()
