"""``watch_folder``: segment the files of a folder as they arrive."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from runtime.errors import RECOVERABLE_ERRORS, InputError
from runtime.files.fingerprint import file_mark
from runtime.files.formats.stack import find_stack
from runtime.files.image_results import opened
from runtime.jobs.failure import Failure
from runtime.jobs.find_images import ImageFile, find_images, result_stems
from runtime.jobs.folders.records import Records
from runtime.jobs.folders.run import FolderOptions, segment_folder, settings_of
from runtime.jobs.folders.work import ImageDone, ImageWork, Target
from runtime.jobs.step import Step, no_step

Mark = dict[str, int]
"""Size and modification time of a file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchOptions:
    """The folder to watch, and when its files are complete."""

    folder: Path
    out: Path
    """The folder of the results, perhaps the same; its own results are not segmented."""
    recursive: bool = False
    quiet_s: float = 2.0
    """A file is complete if its size and modification time have not changed for this long, and it can be opened."""
    patience_s: float = 60.0
    """A file that cannot be opened counts as failed if it has not changed for this long."""
    every_s: float = 1.0
    """Time between looks at the folder."""


@dataclass(slots=True)
class _Seen:
    """A file that was seen in the folder."""

    mark: Mark | None = None
    since: float = 0.0
    """When its mark last changed, by the monotonic clock."""
    finished: bool = False
    """True if the file was segmented or failed, and has not changed since."""


@dataclass(slots=True)
class Watch:
    """The state of a watched folder."""

    options: WatchOptions
    work: ImageWork
    _files: dict[Path, _Seen] = field(default_factory=dict)
    _owners: dict[str, Path] = field(default_factory=dict)
    """The file that writes to each result path, in lower case."""

    def look(self, now: float) -> tuple[list[Target], list[ImageDone]]:
        """Look at the folder once.

        Args:
            now: the time, by the monotonic clock, seconds.

        Returns:
            The files that are complete since now, and failures: files whose results would have a name that is taken.
        """
        ready: list[Target] = []
        failed: list[ImageDone] = []
        for image in self._images():
            seen = self._files.setdefault(image.path, _Seen())
            mark = file_mark(image.path)
            if mark != seen.mark:
                seen.mark, seen.since, seen.finished = mark, now, False
            if seen.finished or mark is None or not self._is_complete(image.path, now - seen.since):
                continue
            seen.finished = True
            try:
                ready.append(self._target(image))
            except InputError as error:
                target = image.path, self.options.out / image.name
                failed.append(ImageDone(target=target, failure=Failure.of(error, image.path)))
        return ready, failed

    def _images(self) -> list[ImageFile]:
        try:
            return find_images(
                [self.options.folder], recursive=self.options.recursive, out=self.options.out, silent=True
            )
        except InputError as error:
            if error.kind == "not_found" and self.options.folder.is_dir():  # nothing has arrived yet
                return []
            raise

    def _is_complete(self, path: Path, quiet_s: float) -> bool:
        if quiet_s < self.options.quiet_s:
            return False
        files = self.work.files
        try:
            if files.planes is not None:
                find_stack(path, files.series, files.plane)
                return True
            with opened(path, files):
                return True
        except RECOVERABLE_ERRORS:  # perhaps the copy is only slow; a real problem is reported by the job
            return quiet_s >= self.options.patience_s

    def _target(self, image: ImageFile) -> Target:
        """Return an image and its result paths.

        Raises:
            InputError: another file writes results of the same name, or the results would replace the image.
        """
        (target,) = result_stems([image], self.options.out, self.work.files.endings)
        name = str(target[1]).casefold()
        owner = self._owners.get(name, image.path)
        if owner != image.path and owner.exists():
            raise InputError(
                f"{image.path} and {owner} would write the same files; expected different names. Rename one of them.",
                kind="conflict",
            )
        self._owners[name] = image.path
        return target


def watch_folder(
    options: WatchOptions,
    work: ImageWork,
    how: FolderOptions,
    progress: Step = no_step,
    *,
    wait: Callable[[float], None] = time.sleep,
) -> Iterator[ImageDone]:
    """Segment the files of a folder as they arrive, until the caller stops or an exception ends the wait.

    Finished files are in the record of the output folder, so a restart skips them, and resumes interrupted ones.

    Args:
        options: the folder.
        work: how to segment its files.
        how: how to run the job.
        progress: receives the progress of large images and slides.
        wait: waits between looks at the folder.

    Yields:
        The outcome of each file, first those that an earlier run finished.

    Raises:
        InputError: the folder does not exist, or cannot be listed.
    """
    if not options.folder.is_dir():
        raise InputError(
            f"{options.folder} is not a folder; expected an existing one. Create it, or check the path.",
            kind="not_found",
            field="watch",
        )
    watch = Watch(options, work)

    def step(what: str, done: int, steps: int, megapixels: float | None = None) -> None:
        if what != "images":  # their number is not known
            progress(what, done, steps, megapixels)

    while True:
        ready, failed = watch.look(time.monotonic())
        yield from failed
        if ready:
            # Read again, since a file that was done earlier may have changed.
            with Records(options.out, settings_of(work, how), work.files.endings) as records:
                yield from segment_folder(ready, work, records, how, step)
        wait(options.every_s)
