"""Progress of a job as a callback, and the images that a thread is at work on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Protocol

IMAGES_AT_WORK: ContextVar[tuple[Path, ...]] = ContextVar("images_at_work", default=())
"""The images of the engine call under way, so that a warning can name its file."""


class Step(Protocol):
    """Told how far a pass of a job is."""

    def __call__(self, what: str, done: int, steps: int, megapixels: float | None = None) -> None:
        """Take note of progress.

        Args:
            what: the pass.
            done: steps that are done.
            steps: steps of the pass in all.
            megapixels: size of the image that the steps are parts of, if they are parts of one.
        """
        ...


def no_step(what: str, done: int, steps: int, megapixels: float | None = None) -> None:
    """Take no note of progress."""


@contextmanager
def at_work_on(images: Sequence[Path]) -> Iterator[None]:
    """Name these images in the warnings of this thread."""
    token = IMAGES_AT_WORK.set(tuple(images))
    try:
        yield
    finally:
        IMAGES_AT_WORK.reset(token)
