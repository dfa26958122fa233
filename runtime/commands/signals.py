"""Response of the command to Ctrl-C (SIGINT) and SIGTERM, with exit codes 130 and 143.

Imports only the standard library.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_NOTHING_BEGUN = "interrupted before work began"
_AT_ONCE = "stopped at once; hidden files that end in .partial may remain, the next run removes them"


class Stopped(BaseException):
    """A signal asked the process to stop. Not a ``KeyboardInterrupt``, for which other packages set exit codes."""

    def __init__(self, number: int) -> None:
        """Derive the exit code from the signal number."""
        super().__init__(number)
        self.exit_code = 128 + number


def leave_at_once() -> None:
    """From now on, end the process at once on a signal: there is nothing to clean up."""
    _handle(_leave)


def stop_in_order() -> None:
    """From now on, raise ``Stopped`` in the main thread on a signal, to clean up; a second one ends the process."""
    _handle(_stop)


def _handle(handler: object) -> None:
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # shells ignore signals for background processes
            signal.signal(number, handler)  # type: ignore[arg-type]


_OWN = os.getpid()


def _leave(number: int, _: FrameType | None, words: str = _NOTHING_BEGUN) -> NoReturn:
    """End the process at once."""
    if os.getpid() == _OWN:
        os.write(2, f"{words}\n".encode())
    os._exit(128 + number)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    if os.getpid() != _OWN:  # a child process, which inherited the handler
        _leave(number, frame)
    _handle(lambda again, at: _leave(again, at, _AT_ONCE))
    raise Stopped(number)
