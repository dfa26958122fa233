"""The images of an open project: their files, and how they are recognised and read."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from runtime.correction.images import ProjectImage, accept_altered, describe_image, name_images, recognise
from runtime.correction.journal import ProjectError
from runtime.correction.project_file import folder_from, read_project_file, write_project_file
from runtime.correction.project_lock import ProjectLock
from runtime.errors import InputError, SegmenterError
from runtime.files.image_results import ReadImage, opened, read_file


class ProjectImages:
    """The images and settings of a project, in ``project.json``; the part of ``Project`` without labels."""

    def __init__(self, directory: Path, lock: ProjectLock | None) -> None:
        """Read ``project.json``. Args: lock: the lock of the project; None to change nothing."""
        self.directory = directory
        self._lock = lock
        self._threads = threading.RLock()
        self._file = read_project_file(directory)
        self._images = {image.name: image for image in self._file.images}
        self.files = self._file.options()
        """How the images are read."""

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
        if name not in self._images:
            raise InputError(
                f"{self.directory} has no image {name!r}; expected one of {len(self._images)}, such as "
                f"{next(iter(self._images), 'none')!r}. Add it, or check the name.",
                kind="not_found",
                field="name",
            )
        return self._images[name]

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
        return self.folder / self.image(name).name

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
            image = self.image(name)
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
            found = accept_altered(self.path(name), self.image(name), self.files)
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

    def _problem(self, name: str) -> str | None:
        try:
            self.check(name)
        except (SegmenterError, OSError) as error:
            return str(error)
        return None

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
