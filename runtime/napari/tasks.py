"""Work of engines in a thread of napari, so that the window never waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from napari.qt.threading import create_worker
from napari.utils.notifications import notification_manager, show_error

from runtime.errors import RECOVERABLE_ERRORS, SegmenterError, reason_of
from runtime.napari.steps import CancelledError, Stale


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """Something to do in the thread, and what to do with the result in that of the window."""

    kind: str
    work: Callable[[Stale], Any]
    done: Callable[[Any], None]
    stale: threading.Event = field(default_factory=threading.Event)

    def run(self) -> Any:
        """Do the work; return an error instead of raising it, because napari would show a traceback."""
        try:
            return self.work(self.stale.is_set)
        except RECOVERABLE_ERRORS as error:
            return error


class Tasks:
    """Runs one task at a time. A new task replaces the one of its kind that waits or runs."""

    def __init__(self, changed: Callable[[str | None], None]) -> None:
        """Begin without tasks.

        Args:
            changed: called with the kind of each task that starts, and with None when all are done.
        """
        self._changed = changed
        self._waiting: dict[str, _Task] = {}
        self._running: _Task | None = None
        self._closed = False

    @property
    def busy(self) -> bool:
        """Return whether a task runs or waits."""
        return self._running is not None or bool(self._waiting)

    def submit(self, kind: str, work: Callable[[Stale], Any], done: Callable[[Any], None]) -> None:
        """Run a task after those that wait.

        Args:
            kind: what the task is for.
            work: called in a thread, with a function that returns whether the result is no longer wanted.
            done: called with the result in the thread of the window, unless the task was replaced or failed. An error
                is shown as a notification of napari.
        """
        self.cancel(kind)
        self._waiting[kind] = _Task(kind, work, done)
        self._start()

    def cancel(self, kind: str) -> None:
        """Drop the tasks of a kind."""
        self._waiting.pop(kind, None)
        if self._running is not None and self._running.kind == kind:
            self._running.stale.set()

    def close(self) -> None:
        """Drop all tasks; a task that runs ends after its step, without effect."""
        self._closed = True
        self._waiting.clear()
        if self._running is not None:
            self._running.stale.set()

    def _start(self) -> None:
        if self._running is not None or self._closed or not self._waiting:
            return
        self._running = task = self._waiting.pop(next(iter(self._waiting)))
        self._changed(task.kind)
        create_worker(_run, task, _connect={"returned": self._finish})

    def _finish(self, wrapped: tuple[Any]) -> None:
        (result,) = wrapped
        task, self._running = self._running, None
        if self._closed or task is None:
            return
        try:
            if isinstance(result, Exception):
                notify(result)
            elif not task.stale.is_set():
                task.done(result)
        except SegmenterError as error:
            notify(error)
        finally:
            self._start()
            if not self.busy:
                self._changed(None)


def _run(task: _Task) -> tuple[Any]:
    """Wrap the result, since napari raises exceptions that a worker returns."""
    return (task.run(),)


def notify(error: BaseException) -> None:
    """Show an error in napari's notifications: an expected one by its message, others with a traceback."""
    if isinstance(error, CancelledError):
        return
    if isinstance(error, SegmenterError | OSError | MemoryError):
        show_error(reason_of(error))
    else:
        notification_manager.receive_error(type(error), error, error.__traceback__)
