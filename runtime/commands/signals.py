"""What happens when the command is told to stop, by Ctrl-C (SIGINT) or SIGTERM. Needs nothing but the standard library.

The exit codes are 130 and 143.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)

_NOTHING_BEGUN = "interrupted; nothing was begun"
_AT_ONCE = "stopped at once; hidden files that end in .partial may be left, the next run removes them"


class Stopped(BaseException):
    """The process was told to stop. No ``KeyboardInterrupt``, to which other packages give exit codes of their own."""

    def __init__(self, number: int) -> None:
        """Create it. Args: number: of the signal."""
        super().__init__(number)
        self.exit_code = 128 + number


def leave_at_once() -> None:
    """End the process when a signal comes: nothing is begun that would have to be cleaned up."""
    _handle(_leave)


def stop_in_order() -> None:
    """Raise ``Stopped`` in the main thread when a signal comes, so that it cleans up; a second one does not wait."""
    _handle(_stop)


def _handle(handler: object) -> None:
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell has it for what runs in the background
            signal.signal(number, handler)  # type: ignore[arg-type]


_OWN = os.getpid()


def _leave(number: int, _: FrameType | None, words: str = _NOTHING_BEGUN) -> NoReturn:
    """End the process at once."""
    if os.getpid() == _OWN:
        os.write(2, f"{words}\n".encode())
    os._exit(128 + number)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    if os.getpid() != _OWN:  # a child, which inherits the handler
        _leave(number, frame)
    _handle(lambda again, at: _leave(again, at, _AT_ONCE))
    raise Stopped(number)
