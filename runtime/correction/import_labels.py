"""Import of label files into a project."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from runtime.correction.engine_record import EngineRecord
from runtime.correction.journal import State
from runtime.correction.label_formats import COCO, IMPORT_ENDINGS, find_format, read_labels
from runtime.correction.label_map import MAX_LABEL
from runtime.correction.project import Project
from runtime.errors import RECOVERABLE_ERRORS, InputError, reason_of
from runtime.files.formats import SMALL_SUFFIXES
from runtime.files.image_results import result_name
from runtime.files.label_files.coco import CocoImage, read_coco
from runtime.files.label_files.label_image import renumbered
from runtime.types import I32

OPERATION = "import"


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportOptions:
    """How label files are imported."""

    format_name: str | None = None
    """Name of the format; None to find it by the files."""
    state: State = "segmented"
    """State of the images afterwards."""
    author: str = ""


@dataclass(frozen=True, slots=True)
class Imported:
    """Outcome for one image."""

    name: str
    cells: int = 0
    failure: str | None = None
    """Why the labels were not imported."""


def import_file(project: Project, name: str, path: str | Path, options: ImportOptions | None = None) -> Imported:
    """Replace the labels of an image by those of a file, as one edit that can be undone.

    Raises:
        InputError: the file cannot be read, or belongs to an image of another size.
    """
    path, options = Path(path), options or ImportOptions()
    size_hw = project.image(name).size_hw
    if (options.format_name or find_format(path)) == COCO:
        chosen = [one for one in read_coco(path) if is_named(one.file_name, name)]
        if len(chosen) != 1:
            raise InputError(
                f"{path} has {len(chosen)} images named like {name}; expected one. Check the file names in it.",
                kind="not_found",
            )
        return _store(project, name, chosen[0].labels(size_hw), path, options)
    return _store(project, name, read_labels(path, size_hw, options.format_name), path, options)


def import_folder(project: Project, folder: str | Path, options: ImportOptions | None = None) -> Iterator[Imported]:
    """Import the label files of a folder, or the images of a COCO file, for all images of a project that they name.

    Args:
        project: the project.
        folder: folder with files such as ``NAME_labels.tif`` (see ``IMPORT_ENDINGS``), in the same subfolders as the
            images, or a COCO file.
        options: format, state and author.

    Yields:
        The outcome of each image with a label file.

    Raises:
        InputError: there is no label file for any image.
    """
    folder, options = Path(folder), options or ImportOptions()
    found: list[tuple[str, Path | CocoImage]]
    if folder.is_file():
        found = [
            (name, image) for image in read_coco(folder) for name in project.names if is_named(image.file_name, name)
        ]
    else:
        found = [(name, path) for name in project.names for path in [_label_file(project, folder, name)] if path]
    if not found:
        raise InputError(
            f"{folder} has no labels of the {len(project.names)} images of the project; expected names such as "
            f"{PurePosixPath(project.names[0]).stem}_labels.tif. Give each file by itself, or rename the files.",
            kind="not_found",
        )
    for name, source in found:
        yield _import_one(project, name, source, folder, options)


def _import_one(
    project: Project, name: str, source: Path | CocoImage, folder: Path, options: ImportOptions
) -> Imported:
    """Import the labels of one image; a failure does not stop the others."""
    try:
        if isinstance(source, CocoImage):
            return _store(project, name, source.labels(project.image(name).size_hw), folder, options)
        return import_file(project, name, source, options)
    except RECOVERABLE_ERRORS as error:
        return Imported(name, failure=reason_of(error))


def is_named(file_name: str, name: str) -> bool:
    """Return whether the file name in a COCO file is that of an image of a project, with or without its folder."""
    given, known = PurePosixPath(file_name.replace("\\", "/")), PurePosixPath(name)
    return given == known or given.name == known.name


def _label_file(project: Project, folder: Path, name: str) -> Path | None:
    """Return the label file of an image in a folder.

    Raises:
        InputError: there are several.
    """
    image = project.path(name)
    stem = result_name(image)
    begin = (folder / name).parent
    stems = {stem, stem.removesuffix("_img")}
    files = [begin / f"{one}{ending}" for one in sorted(stems) for ending in IMPORT_ENDINGS]
    if begin.resolve() != image.parent.resolve():
        files += [begin / f"{stem}{suffix}" for suffix in SMALL_SUFFIXES]
    found = [path for path in files if path.is_file()]
    if len(found) > 1:
        raise InputError(
            f"{name} has several label files in {begin}: {', '.join(path.name for path in found)}; expected one. Give "
            "the file by itself.",
            kind="conflict",
        )
    return found[0] if found else None


def _store(project: Project, name: str, labels: I32, path: Path, options: ImportOptions) -> Imported:
    if labels.max(initial=0) > MAX_LABEL:
        labels = renumbered(labels)
    project.store_segmentation(
        name,
        labels,
        engine=EngineRecord(name=path.name),
        author=options.author,
        operation=OPERATION,
        state=options.state,
    )
    return Imported(name, len(project.areas(name)))
