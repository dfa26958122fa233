"""``Project``: a folder of images whose labels people correct, with a journal for each image."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from runtime.correction.difference import Difference, difference_of
from runtime.correction.edits.base import Edit
from runtime.correction.edits.parse import parameters_of
from runtime.correction.engine_record import EngineRecord
from runtime.correction.history import ImageHistory, read_timeline
from runtime.correction.images import common_folder, describe_image, name_images
from runtime.correction.journal import Entry, Kind, ProjectError, State, check_state
from runtime.correction.label_map import check_labels
from runtime.correction.outcomes import ConflictError, EditResult, ImageStatus
from runtime.correction.project_file import PROJECT_NAME, make_project_file, read_project_file, write_project_file
from runtime.correction.project_images import ProjectImages
from runtime.correction.project_lock import ProjectLock
from runtime.errors import InputError
from runtime.files.image_results import FileOptions
from runtime.files.placing import remove_leftovers
from runtime.ops.masks import MaskCrop
from runtime.results import Segmentation
from runtime.types import I32, Extent

LABELS_NAME = "labels"
"""Directory with the labels of each image."""

OPEN_IMAGES = 8
"""Images whose labels stay in memory."""

SEGMENTATION = "segmentation"
"""Operation that replaces all labels of an image."""


class Project(ProjectImages):
    """A project; close it, or use it in a ``with`` statement. Methods may be called from several threads."""

    def __init__(self, directory: Path, lock: ProjectLock | None) -> None:
        """Read a project that ``create`` or ``open`` has locked. Args: lock: the lock; None to change nothing."""
        super().__init__(directory, lock)
        self._open: OrderedDict[str, ImageHistory] = OrderedDict()

    @classmethod
    def create(
        cls, directory: str | Path, images: Iterable[str | Path], *, files: FileOptions | None = None
    ) -> Project:
        """Create a project.

        Args:
            directory: the project directory, which is created; images may be elsewhere.
            images: image files. Their names in the project are relative to the folder that contains all of them.
            files: how to read the images; choices among channels and planes apply to all of them.

        Raises:
            ProjectError: the directory is a project.
            InputError: an image cannot be read or is a slide, or there are no images.
        """
        directory, paths, files = Path(directory), [Path(path) for path in images], files or FileOptions()
        folder = common_folder(paths)
        if (directory / PROJECT_NAME).exists():
            raise ProjectError(
                f"{directory} is a project already; expected a new directory. Open it, or choose another directory.",
                kind="exists",
            )
        names = name_images(paths, folder)
        described = {name: describe_image(path, name, files) for path, name in zip(paths, names, strict=True)}
        directory.mkdir(parents=True, exist_ok=True)
        lock = ProjectLock(directory)
        try:
            write_project_file(directory, make_project_file(directory, folder, tuple(described.values()), files))
            return cls(directory, lock)
        except BaseException:
            lock.release()
            raise

    @classmethod
    def open(cls, directory: str | Path, *, read_only: bool = False) -> Project:
        """Open a project.

        Args:
            directory: the project directory.
            read_only: change nothing, and take no lock; other processes may have the project open.

        Raises:
            ProjectError: the directory is not a project, is damaged, or is open in another process.
        """
        directory = Path(directory)
        read_project_file(directory)  # before a lock is made in any directory
        lock = None if read_only else ProjectLock(directory)
        try:
            if lock is not None:
                remove_leftovers(directory)
            return cls(directory, lock)
        except BaseException:
            if lock is not None:
                lock.release()
            raise

    def close(self) -> None:
        """Write snapshots where the journals have grown, and release the lock."""
        with self._threads:
            while self._open:
                self._open.popitem()[1].close()
            if self._lock is not None:
                self._lock.release()

    def __enter__(self) -> Project:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Labels.

    def status(self, name: str) -> ImageStatus:
        """Return the state of an image; reads no labels.

        Raises:
            InputError: the project has no such image.
            ProjectError: its journal is damaged.
        """
        with self._threads:
            image = self.image(name)
            history = self._open.get(name)
            timeline = read_timeline(self._place(name), image.size_hw) if history is None else history.timeline
            return ImageStatus(
                name=name,
                size_hw=image.size_hw,
                state=timeline.status.state,
                revision=timeline.revision,
                cells=timeline.status.cells,
                undo_steps=len(timeline.undoable),
                redo_steps=len(timeline.redoable),
                engine=timeline.status.engine,
                author=timeline.author,
                problem=self._problem(name),
            )

    def statuses(self) -> tuple[ImageStatus, ...]:
        """Return the state of all images, in their order."""
        return tuple(self.status(name) for name in self.names)

    def labels(self, name: str, extent: Extent | None = None) -> I32:
        """Return the labels of an image, (H, W) int32, or of a part of it; a copy. 0 is background."""
        with self._history(name) as history:
            height, width = history.cells.size_hw
            return history.cells.window(extent or (0, 0, height, width)).copy()

    def areas(self, name: str) -> dict[int, int]:
        """Return the pixels of each cell by label, in ascending order of labels."""
        with self._history(name) as history:
            return history.cells.areas

    def cell(self, name: str, label: int) -> MaskCrop:
        """Return the pixels of a cell.

        Raises:
            InputError: no cell has this label.
        """
        with self._history(name) as history:
            return history.cells.cell(label)

    def label_at(self, name: str, y: int, x: int) -> int:
        """Return the label of a pixel; 0 for background, and outside the image."""
        with self._history(name) as history:
            height, width = history.cells.size_hw
            return int(history.cells.labels[y, x]) if 0 <= y < height and 0 <= x < width else 0

    def history(self, name: str) -> tuple[Entry, ...]:
        """Return all entries of an image's journal, without pixels."""
        with self._history(name) as history:
            return tuple(history.journal.entries)

    def changed(self, name: str, revision: int) -> Difference:
        """Return the pixels that an edit changed.

        Raises:
            InputError: the revision is not an edit.
        """
        with self._history(name) as history:
            return history.difference(revision)

    # Changes.

    def store_segmentation(
        self,
        name: str,
        result: Segmentation | NDArray[np.integer],
        *,
        engine: EngineRecord | None = None,
        author: str = "",
        operation: str = SEGMENTATION,
        state: State = "segmented",
        expected_revision: int | None = None,
    ) -> EditResult:
        """Replace all labels of an image, as one edit that can be undone.

        Args:
            name: the image.
            result: a segmentation, or labels (H, W) of integers, 0 for the background.
            engine: what made the labels; None if unknown.
            author: who asked for it.
            operation: name of the operation in the journal.
            state: state of the image afterwards.
            expected_revision: revision that the caller has seen; None to accept any.

        Raises:
            ConflictError: the image has another revision.
            InputError: the labels have another size than the image, or the image was moved or altered.
        """
        labels = check_labels(np.asarray(result.labels if isinstance(result, Segmentation) else result))
        with self._changing(name, expected_revision) as history:
            if labels.shape != history.cells.size_hw:
                raise InputError(
                    f"labels have shape {labels.shape}; expected {history.cells.size_hw}, the size of {name}. Give "
                    "labels of this image.",
                    kind="wrong_shape",
                    field="labels",
                )
            difference = difference_of(history.cells.labels, labels)
            found = history.edit(
                difference,
                operation=operation,
                parameters={},
                author=author,
                state=state,
                engine=engine or EngineRecord(),
            )
            return _result(history, difference.box, found)

    def apply(self, name: str, edit: Edit, *, author: str = "", expected_revision: int | None = None) -> EditResult:
        """Make an edit.

        Args:
            name: the image.
            edit: the edit.
            author: who makes it.
            expected_revision: revision that the caller has seen; None to accept any.

        Returns:
            What changed. If nothing did, the revision stays.

        Raises:
            ConflictError: the image has another revision.
            InputError: the edit does not fit the labels, or the image was moved or altered.
        """
        with self._changing(name, expected_revision) as history:
            difference = edit.difference(history.cells)
            if not len(difference):
                return _result(history)
            found = history.edit(
                difference,
                operation=edit.operation,
                parameters=parameters_of(edit),
                author=author,
                state="corrected",
            )
            return _result(history, difference.box, found)

    def undo(self, name: str, *, author: str = "", expected_revision: int | None = None) -> EditResult:
        """Undo the last edit that has not been undone.

        Raises:
            ConflictError: the image has another revision.
            InputError: there is nothing to undo.
        """
        return self._move(name, "undo", author, expected_revision)

    def redo(self, name: str, *, author: str = "", expected_revision: int | None = None) -> EditResult:
        """Redo the last edit that was undone, unless another edit followed.

        Raises:
            ConflictError: the image has another revision.
            InputError: there is nothing to redo.
        """
        return self._move(name, "redo", author, expected_revision)

    def mark(
        self, name: str, state: State | str, *, author: str = "", expected_revision: int | None = None
    ) -> EditResult:
        """Set the state of an image.

        Raises:
            ConfigError: the state is unknown.
            ConflictError: the image has another revision.
        """
        checked = check_state(state)
        with self._changing(name, expected_revision, check=False) as history:
            if history.timeline.status.state != checked:
                history.mark(checked, author)
            return _result(history)

    def _move(self, name: str, kind: Kind, author: str, expected_revision: int | None) -> EditResult:
        with self._changing(name, expected_revision) as history:
            found, difference = history.move(kind, author)
            return _result(history, difference.box, found)

    # Plumbing.

    def _place(self, name: str) -> Path:
        return self.directory / LABELS_NAME / self.image(name).name

    @contextmanager
    def _history(self, name: str) -> Iterator[ImageHistory]:
        """Lend the labels of an image, opened if necessary; an unexpected error closes them, to be read again."""
        with self._threads:
            image = self.image(name)
            history = self._open.pop(name, None)
            if history is None or self._lock is None:
                history = ImageHistory(self._place(name), image.size_hw, read_only=self._lock is None)
            try:
                yield history
            except BaseException as error:
                if not isinstance(error, InputError):
                    history.journal.close()
                    raise
                self._open[name] = history
                raise
            self._open[name] = history
            while len(self._open) > OPEN_IMAGES:
                self._open.popitem(last=False)[1].close()

    @contextmanager
    def _changing(self, name: str, expected_revision: int | None, *, check: bool = True) -> Iterator[ImageHistory]:
        """Lend the labels of an image for a change."""
        with self._writing(), self._history(name) as history:
            revision, author = history.timeline.revision, history.timeline.author
            if expected_revision not in (None, revision):
                raise ConflictError(
                    f"{name} is at revision {revision}{f', by {author}' if author else ''}; expected "
                    f"{expected_revision}. Read the labels again, then repeat the edit.",
                    revision,
                    author,
                )
            if check:
                self.check(name)
            yield history


def _result(
    history: ImageHistory, box: Extent = (0, 0, 0, 0), found: Sequence[tuple[int, ...]] = ((), (), ())
) -> EditResult:
    cells, created, removed = found
    return EditResult(
        revision=history.timeline.revision,
        state=history.timeline.status.state,
        box=box,
        cells=cells,
        created=created,
        removed=removed,
    )
