"""``project.json``: the images of a project and how their files are read."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from runtime.correction.images import ProjectImage, parse_reading_options, reading_options
from runtime.correction.journal import ProjectError
from runtime.errors import ConfigError
from runtime.files.image_results import FileOptions
from runtime.files.placing import write_whole
from runtime.typed_json import convert

PROJECT_NAME = "project.json"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectFile:
    """Content of ``project.json``."""

    folder: str
    """Folder of the images: relative to the project directory, or absolute on another drive."""
    images: tuple[ProjectImage, ...]
    files: dict[str, Any] = field(default_factory=dict)
    """Options for reading; see ``reading_options``."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of programs that use the project, such as the engines to segment with."""
    schema: int = SCHEMA

    def options(self) -> FileOptions:
        """Return the options for reading."""
        return parse_reading_options(self.files)


def make_project_file(
    directory: Path, folder: Path, images: tuple[ProjectImage, ...], files: FileOptions
) -> ProjectFile:
    """Describe a new project."""
    return ProjectFile(folder=folder_from(directory, folder), images=images, files=reading_options(files))


def folder_from(directory: Path, folder: Path) -> str:
    """Return the path of a folder from a project directory."""
    try:
        return Path(os.path.relpath(folder, directory)).as_posix()
    except ValueError:  # on another drive
        return Path(os.path.abspath(folder)).as_posix()


def read_project_file(directory: Path) -> ProjectFile:
    """Read ``project.json``.

    Raises:
        ProjectError: the directory is not a project, or the file is damaged or of another version.
    """
    path = directory / PROJECT_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and content.get("schema") != SCHEMA:
            raise ProjectError(
                f"{path} has schema {content.get('schema')!r}; expected {SCHEMA}. Open the project with the version of "
                "cellsam-engine that wrote it.",
                kind="wrong_version",
            )
        project = convert(content, ProjectFile)
        project.options()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ProjectError(
            f"{directory} has no {PROJECT_NAME}; expected a project directory. Create one with: cellsam-engine "
            "project create.",
            kind="not_found",
        ) from error
    except (ValueError, TypeError, RecursionError, ConfigError) as error:
        raise ProjectError(
            f"{path} is damaged ({error}); expected the file that cellsam-engine wrote. Restore it from a copy; the "
            f"labels in {directory / 'labels'} do not depend on it.",
            kind="damaged",
        ) from error
    return project


def write_project_file(directory: Path, project: ProjectFile) -> None:
    """Write ``project.json`` atomically.

    Raises:
        OSError: the file cannot be written; the earlier one stays.
    """
    text = json.dumps(asdict(project), indent=1) + "\n"
    write_whole(directory / PROJECT_NAME, lambda path: path.write_text(text, encoding="utf-8"), sync=True)
