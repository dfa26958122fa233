"""``Project``: a folder of images whose labels people correct, with a journal for each image."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.correction.difference import Difference, difference_of
from runtime.correction.edits.base import Edit
from runtime.correction.edits.parse import parameters_of
from runtime.correction.engine_record import EngineRecord
from runtime.correction.history import ImageHistory, read_timeline
from runtime.correction.images import (
    ProjectImage,
    accept_altered,
    common_folder,
    describe_image,
    name_images,
    recognise,
)
from runtime.correction.journal import Entry, Kind, ProjectError, State, check_state
from runtime.correction.label_map import check_labels
from runtime.correction.outcomes import ConflictError, EditResult, ImageStatus
from runtime.correction.project_file import (
    PROJECT_NAME,
    folder_from,
    make_project_file,
    read_project_file,
    write_project_file,
)
from runtime.correction.project_lock import ProjectLock
from runtime.errors import InputError, SegmenterError
from runtime.files.image_results import FileOptions, ReadImage, opened, read_file
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


class Project:
    """A project; close it, or use it in a ``with`` statement. Methods may be called from several threads."""

    def __init__(self, directory: Path, lock: ProjectLock | None) -> None:
        """Read a project that ``create`` or ``open`` has locked. Args: lock: the lock; None to change nothing."""
        self.directory = directory
        self._lock = lock
        self._threads = threading.RLock()
        self._open: OrderedDict[str, ImageHistory] = OrderedDict()
        self._file = read_project_file(directory)
        self._images = {image.name: image for image in self._file.images}
        self.files = self._file.options()
        """How the images are read."""

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

    # Images.

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the images, in the order in which they were added."""
        return tuple(self._images)

    @property
    def images(self) -> tuple[ProjectImage, ...]:
        """The images."""
        return tuple(self._images.values())

    def image(self, name: str) -> ProjectImage:
        """Return an image.

        Raises:
            InputError: the project has no such image.
        """
        return self._image(name)

    @property
    def folder(self) -> Path:
        """The folder of the images."""
        return self.directory / self._file.folder

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of programs that use the project, ready for JSON; a copy."""
        return dict(self._file.settings)

    def set_settings(self, **settings: Any) -> None:
        """Change some settings, and write them to the disk; None removes one."""
        with self._writing():
            merged = {name: value for name, value in {**self._file.settings, **settings}.items() if value is not None}
            self._write(settings=merged)

    def path(self, name: str) -> Path:
        """Return the file of an image."""
        return self.folder / self._image(name).name

    def add(self, images: Iterable[str | Path]) -> tuple[str, ...]:
        """Add images from the folder of the project; those that it has stay as they are.

        Returns:
            The names of the new images.

        Raises:
            InputError: an image is not below the folder, cannot be read, or is a slide.
        """
        paths = [Path(path) for path in images]
        with self._writing():
            names = name_images(paths, self.folder.resolve())
            new = {name: path for name, path in zip(names, paths, strict=True) if name not in self._images}
            described = {name: describe_image(path, name, self.files) for name, path in new.items()}
            self._write(images={**self._images, **described})
        return tuple(new)

    def relocate(self, folder: str | Path) -> None:
        """Continue with the same images in another folder.

        Raises:
            InputError: an image is missing there, or has another content.
        """
        folder = Path(folder)
        with self._writing():
            found = {name: recognise(folder / name, image, self.files) for name, image in self._images.items()}
            self._write(images=found, folder=folder_from(self.directory, folder))

    def check(self, name: str) -> None:
        """Check that the file of an image is still that of the project.

        Raises:
            InputError: the file was moved, deleted or altered.
        """
        with self._threads:
            image = self._image(name)
            found = recognise(self.path(name), image, self.files)
            if found != image:
                self._images[name] = found
                if self._lock is not None:
                    self._write(images=self._images)

    def accept(self, name: str) -> None:
        """Accept an altered file of the same size as the image; its labels stay.

        Raises:
            InputError: the file cannot be read, or has another size.
        """
        with self._writing():
            found = accept_altered(self.path(name), self._image(name), self.files)
            self._write(images={**self._images, name: found})

    def read(self, name: str) -> ReadImage:
        """Read the channels of an image that are segmented.

        Raises:
            InputError: the file was moved, altered or cannot be read.
        """
        self.check(name)
        return read_file(self.path(name), self.files)

    def pixel_size_um(self, name: str) -> float | None:
        """Return the side of a pixel in micrometres; None if neither the settings nor a readable file declare it."""
        try:
            with opened(self.path(name), self.files) as chosen:
                return self.files.pixel_size_um or chosen.pixel_size_um
        except InputError:
            return self.files.pixel_size_um

    # Labels.

    def status(self, name: str) -> ImageStatus:
        """Return the state of an image; reads no labels.

        Raises:
            InputError: the project has no such image.
            ProjectError: its journal is damaged.
        """
        with self._threads:
            image = self._image(name)
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

    def _image(self, name: str) -> ProjectImage:
        if name not in self._images:
            raise InputError(
                f"{self.directory} has no image {name!r}; expected one of {len(self._images)}, such as "
                f"{next(iter(self._images), 'none')!r}. Add it, or check the name.",
                kind="not_found",
                field="name",
            )
        return self._images[name]

    def _place(self, name: str) -> Path:
        return self.directory / LABELS_NAME / self._image(name).name

    def _problem(self, name: str) -> str | None:
        try:
            self.check(name)
        except (SegmenterError, OSError) as error:
            return str(error)
        return None

    @contextmanager
    def _history(self, name: str) -> Iterator[ImageHistory]:
        """Lend the labels of an image, opened if necessary; an unexpected error closes them, to be read again."""
        with self._threads:
            image = self._image(name)
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

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._threads:
            if self._lock is None:
                raise ProjectError(
                    f"{self.directory} is open for reading; expected read_only=False for a change. Open it again.",
                    kind="conflict",
                    field="read_only",
                )
            yield

    def _write(
        self,
        *,
        images: dict[str, ProjectImage] | None = None,
        folder: str | None = None,
        settings: dict[str, Any] | None = None,
    ) -> None:
        """Replace parts of ``project.json``."""
        images = self._images if images is None else images
        file = replace(
            self._file,
            images=tuple(images.values()),
            folder=self._file.folder if folder is None else folder,
            settings=self._file.settings if settings is None else settings,
        )
        write_project_file(self.directory, file)
        self._file, self._images = file, images


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
