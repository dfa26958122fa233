"""Jobs of a project: images segmented one after another in the background, with progress and cancelling."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from runtime.config import SegmentConfig
from runtime.errors import RECOVERABLE_ERRORS
from runtime.server.http.failures import RequestError, error_body
from runtime.server.work.projects import ServedProject

JobState = Literal["waiting", "running", "done", "failed", "cancelled"]

KEPT_JOBS = 100
"""Finished jobs that are listed."""

WAITING_JOBS = 16
"""Jobs that may wait."""


@dataclass(slots=True, eq=False)
class Job:
    """Some images to segment."""

    key: str
    names: Sequence[str]
    config: SegmentConfig
    state: JobState = "waiting"
    done: int = 0
    current: str | None = None
    """Name of the image in work."""
    failures: list[dict[str, Any]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)


class Jobs:
    """Runs jobs one after another, in a thread."""

    def __init__(self, served: ServedProject) -> None:
        """Start the thread.

        Args:
            served: the project.
        """
        self._served = served
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._number = 0
        self._waiting: queue.Queue[Job | None] = queue.Queue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="cellsam-jobs", daemon=True)
        self._thread.start()

    def add(self, names: Sequence[str], config: SegmentConfig) -> dict[str, Any]:
        """Queue a job, and describe it.

        Raises:
            RequestError: too many jobs wait.
        """
        with self._lock:
            if self._waiting.qsize() >= WAITING_JOBS:
                raise RequestError(
                    f"{WAITING_JOBS} jobs are waiting; expected fewer. Try again when one is done, or cancel one.",
                    status=429,
                    kind="busy",
                )
            self._number += 1
            job = Job(str(self._number), tuple(names), config)
            self._jobs[job.key] = job
            finished = [key for key, one in self._jobs.items() if one.state not in ("waiting", "running")]
            for key in finished[: max(0, len(finished) - KEPT_JOBS)]:
                del self._jobs[key]
        self._waiting.put(job)
        return self._tell(job)

    def all(self) -> list[dict[str, Any]]:
        """Describe all jobs, the oldest first."""
        with self._lock:
            jobs = list(self._jobs.values())
        return [self._describe(job) for job in jobs]

    def get(self, key: str) -> dict[str, Any]:
        """Describe a job.

        Raises:
            RequestError: there is none.
        """
        return self._describe(self._find(key))

    def cancel(self, key: str) -> dict[str, Any]:
        """Stop a job after the image in work, and describe it."""
        job = self._find(key)
        job.stop.set()
        if job.state == "waiting":
            job.state = "cancelled"
        return self._tell(job)

    def close(self, timeout_s: float = 30.0) -> None:
        """Stop all jobs after the image in work."""
        self._closed = True
        with self._lock:
            for job in self._jobs.values():
                job.stop.set()
        self._waiting.put(None)
        self._thread.join(timeout_s)

    def _find(self, key: str) -> Job:
        with self._lock:
            if key in self._jobs:
                return self._jobs[key]
        raise RequestError(
            f"there is no job {key[:80]!r}; expected one of /api/jobs. Load the list again.",
            status=404,
            kind="not_found",
            field="job",
        )

    def _run(self) -> None:
        while (job := self._waiting.get()) is not None and not self._closed:
            if job.state == "waiting":
                self._segment(job)

    def _segment(self, job: Job) -> None:
        job.state = "running"
        for name in job.names:
            if job.stop.is_set():
                break
            job.current = name
            self._tell(job)
            try:
                self._served.segment(name, job.config)
            except RECOVERABLE_ERRORS as error:
                job.failures.append({"image": self._served.key(name), "error": error_body(error)})
            job.done += 1
        job.current = None
        job.state = "cancelled" if job.stop.is_set() and job.done < len(job.names) else "done"
        if job.state == "done" and len(job.failures) == len(job.names):
            job.state = "failed"
        self._tell(job)

    def _tell(self, job: Job) -> dict[str, Any]:
        described = self._describe(job)
        self._served.events.send("job", described)
        return described

    def _describe(self, job: Job) -> dict[str, Any]:
        return {
            "id": job.key,
            "kind": "segment",
            "state": job.state,
            "done": job.done,
            "total": len(job.names),
            "current": None if job.current is None else self._served.key(job.current),
            "failures": list(job.failures),
        }
