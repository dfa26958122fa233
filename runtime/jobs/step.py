"""Progress callback of jobs, and the images that a thread is working on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Protocol

IMAGES_AT_WORK: ContextVar[tuple[Path, ...]] = ContextVar("images_at_work", default=())
"""The images of the current engine call, so that a warning can name its file."""


class Step(Protocol):
    """Callback that receives the progress of a job."""

    def __call__(self, what: str, done: int, steps: int, megapixels: float | None = None) -> None:
        """Receive progress.

        Args:
            what: name of the pass.
            done: number of finished steps.
            steps: total number of steps in the pass.
            megapixels: size of the image, if the steps are parts of one image.
        """
        ...


def no_step(what: str, done: int, steps: int, megapixels: float | None = None) -> None:
    """Ignore progress."""


@contextmanager
def at_work_on(images: Sequence[Path]) -> Iterator[None]:
    """Name these images in the warnings of this thread."""
    token = IMAGES_AT_WORK.set(tuple(images))
    try:
        yield
    finally:
        IMAGES_AT_WORK.reset(token)
