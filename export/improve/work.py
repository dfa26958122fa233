"""The folder ``engines/work`` of an improvement: a copy of the corrected images, and results of each step.

A killed run resumes with the same inputs; other inputs, such as another corrected image, start again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.correction.engine_versions import engines_folder
from runtime.correction.export_labels import export_labels
from runtime.correction.project import Project
from runtime.errors import InputError
from runtime.files.placing import remove_leftovers, write_whole
from training.evaluation.dataset import Sample

WORK_NAME = "work"
CORRECTED = "corrected"
"""Name of the corrected images as a dataset."""


@dataclass(frozen=True, slots=True)
class Work:
    """A begun improvement."""

    directory: Path
    request: str
    """Hex sha256 of the inputs."""
    files: dict[str, tuple[str, str]]
    """Names of each corrected image and its labels in ``pairs``, by name in the project."""

    @property
    def names(self) -> tuple[str, ...]:
        """Corrected images, by their names in the project."""
        return tuple(self.files)

    def samples(self, names: Iterable[str]) -> list[Sample]:
        """Return corrected images with their labels, for scoring."""
        pairs = self.directory / "pairs"
        return [
            Sample(
                id=name,
                dataset=CORRECTED,
                subset=CORRECTED,
                group=CORRECTED,
                image_path=pairs / self.files[name][0],
                labels_path=pairs / self.files[name][1],
            )
            for name in names
        ]

    def folder_of(self, training: str, names: Iterable[str]) -> Path:
        """Copy pairs into the folder of a training, unless that is done, and return the folder."""
        folder = self.directory / training / "images"
        if not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            write_whole(folder, lambda temporary: self._copy(names, temporary))
        return folder

    def _copy(self, names: Iterable[str], folder: Path) -> None:
        folder.mkdir()
        for name in names:
            for file in self.files[name]:
                shutil.copyfile(self.directory / "pairs" / file, folder / file)

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.directory)


def begin(project_dir: Path, inputs: dict[str, Any], current: str | None = None) -> Work:
    """Resume the improvement of a project, or start one with a copy of the images that are done.

    Args:
        project_dir: the project; another process may have it open.
        inputs: all other inputs, ready for JSON.
        current: version that the project uses; a run against another one starts again, since its scores differ.

    Raises:
        InputError: no image is done, or one was moved or altered.
        ProjectError: the directory is not a project.
    """
    directory = engines_folder(project_dir) / WORK_NAME
    with Project.open(project_dir, read_only=True) as project:
        done = [one for one in project.statuses() if one.state == "done"]
        if not done:
            raise InputError(
                f"none of the {len(project.names)} images of {project_dir} is done; expected at least one. Correct "
                "images, and mark them with: cellsam-engine project mark PROJECT done IMAGE.",
                kind="missing",
            )
        images = {one.name: [one.revision, project.image(one.name).sha256] for one in done}
        asked = {**inputs, "images": images}
        request = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        record = directory / "request.json"
        remove_leftovers(directory)
        if not _is_of(record, request, current):
            shutil.rmtree(directory, ignore_errors=True)
            (directory / "pairs").mkdir(parents=True)
            files = {name: _export(project, name, directory / "pairs", n) for n, name in enumerate(images, start=1)}
            text = json.dumps({"request": request, "current": current, "files": files}, indent=1) + "\n"
            write_whole(record, lambda path: path.write_text(text, encoding="utf-8"))
    content = json.loads(record.read_text(encoding="utf-8"))
    return Work(directory, request, {name: (image, labels) for name, (image, labels) in content["files"].items()})


def _is_of(record: Path, request: str, current: str | None) -> bool:
    if not record.is_file():
        return False
    begun = json.loads(record.read_text(encoding="utf-8"))
    return (begun["request"], begun["current"]) == (request, current)


def _export(project: Project, name: str, pairs: Path, number: int) -> tuple[str, str]:
    """Write a pair under a number, so that names never clash, and return the names of both files."""
    folder = pairs / f"{number}"
    image, labels = export_labels(project, folder, ("training",), names=(name,), states=("done",))
    found = (f"image{number:05d}_img{image.suffix}", f"image{number:05d}_mask{labels.suffix}")
    for path, new in zip((image, labels), found, strict=True):
        path.rename(pairs / new)
    folder.rmdir()
    return found
