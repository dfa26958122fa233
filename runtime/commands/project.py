"""The commands ``project create``, ``import``, ``export``, ``status``, ``mark`` and ``relocate``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from runtime.commands.console import errors, fail, say
from runtime.commands.groups import with_groups
from runtime.commands.options import NO_VALUE, ReadingOptions
from runtime.commands.settings import reading_options
from runtime.errors import ConfigError, SegmenterError

StateName = Literal["new", "segmented", "corrected", "done"]
FormatName = Literal["tiff", "geojson", "imagej", "deepcell-label", "coco"]

Directory = Annotated[Path, typer.Argument(help="Project directory.", metavar="PROJECT")]
Author = Annotated[str, typer.Option(help="Name to record in the journal.")]

FLAGS = {"states": "--state", "state": "--state", "format": "--format", "author": "--author", "images": "IMAGE"}
"""Flags by the name of their setting or argument."""

project_app = typer.Typer(
    help="Correct segmentations: projects of images, labels and every edit.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectReading(ReadingOptions):
    """How a project reads its images."""

    pixel_size_um: Annotated[
        float | None,
        typer.Option("--pixel-size", help="Side of a pixel, micrometres; default: from the file.", metavar="UM"),
    ] = None


@contextmanager
def _errors_shown() -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        fail(error, code=2, flags=FLAGS)
    except (SegmenterError, OSError) as error:
        fail(error, flags=FLAGS)


@project_app.command()
@with_groups
def create(
    directory: Annotated[Path, typer.Argument(help="Project directory to create.", metavar="PROJECT")],
    images: Annotated[
        list[Path], typer.Argument(help="Images, folders, patterns ('*.tif').", metavar="IMAGE", readable=False)
    ],
    reading: ProjectReading,
) -> None:
    """Create a project of images, which stay where they are."""
    from runtime.correction.project import Project
    from runtime.jobs.find_images import find_images

    with _errors_shown():
        files = reading_options(reading, reading.pixel_size_um)
        found = find_images(images, recursive=reading.recursive, out=directory)
        with Project.create(directory, [one.path for one in found], files=files) as project:
            say(f"{directory}: {_count(len(project.names), 'image')} in {project.folder.resolve()}")


@project_app.command("import")
def import_command(
    directory: Directory,
    source: Annotated[Path, typer.Argument(help="Folder of label files, a COCO file, or one label file.")],
    image: Annotated[str | None, typer.Option(help="Name of the image that one label file belongs to.")] = None,
    format_name: Annotated[
        FormatName | None, typer.Option("--format", help="Format of the files; default: found by the files.")
    ] = None,
    state: Annotated[StateName, typer.Option(help="State of the images afterwards.")] = "segmented",
    author: Author = "",
) -> None:
    """Replace labels by those of other programs, as an edit that can be undone.

    Takes NAME_labels.tif, NAME_masks.tif, NAME_mask.png, NAME_cells.geojson, NAME_rois.zip and similar names.
    """
    from runtime.correction.import_labels import ImportOptions, import_file, import_folder
    from runtime.correction.project import Project

    options = ImportOptions(format_name=format_name, state=state, author=author)
    failed = 0
    with _errors_shown(), Project.open(directory) as project:
        for one in (
            import_folder(project, source, options) if image is None else [import_file(project, image, source, options)]
        ):
            if one.failure is None:
                say(f"{one.name}: {_count(one.cells, 'cell')}")
            else:
                failed += 1
                errors.print(f"error: {one.name}: {one.failure}", style="bold red", markup=False)
    if failed:
        raise typer.Exit(1)


@project_app.command("export")
def export_command(
    directory: Directory,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the files.", metavar="DIR")],
    format_name: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="tiff (default), geojson, imagej, deepcell-label, coco, training; repeatable.",
            metavar="FORMAT",
        ),
    ] = None,
    image: Annotated[list[str] | None, typer.Option(help="Name of an image, repeatable; default: all.")] = None,
    state: Annotated[
        list[str] | None,
        typer.Option(help="Export images in this state, repeatable; default: all with labels.", metavar="STATE"),
    ] = None,
) -> None:
    """Write labels for other programs, or as training data.

    The project may be open in another process meanwhile.
    """
    from runtime.correction.export_labels import WITH_LABELS, export_labels
    from runtime.correction.project import Project

    with _errors_shown(), Project.open(directory, read_only=True) as project:
        for path in export_labels(
            project, out, format_name or ["tiff"], names=image or None, states=state or WITH_LABELS
        ):
            say(path)


@project_app.command()
def status(
    directory: Directory,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON for each image.", metavar=NO_VALUE)
    ] = False,
) -> None:
    """Show the state, cells and edits of each image.

    Exit code 1 if the file of an image was moved or altered.
    """
    from runtime.correction.project import Project

    with _errors_shown(), Project.open(directory, read_only=True) as project:
        statuses = project.statuses()
    for one in statuses:
        if as_json:
            say(json.dumps(asdict(one)))
            continue
        edits = _count(one.undo_steps, "edit")
        say(f"{one.name}: {one.state}, {_count(one.cells, 'cell')}, {edits}, revision {one.revision}")
    if not as_json:
        counts = [(state, sum(one.state == state for one in statuses)) for state in get_args(StateName)]
        errors.print(", ".join(f"{number} {state}" for state, number in counts if number), markup=False)
    problems = [one for one in statuses if one.problem is not None]
    for one in problems:
        errors.print(f"error: {one.problem}", style="bold red", markup=False)
    if problems:
        raise typer.Exit(1)


@project_app.command()
def mark(
    directory: Directory,
    state: Annotated[StateName, typer.Argument(help="The state.", metavar="STATE")],
    images: Annotated[list[str], typer.Argument(help="Names of images.", metavar="IMAGE")],
    author: Author = "",
) -> None:
    """Mark images as new, segmented, corrected or done."""
    from runtime.correction.project import Project

    with _errors_shown(), Project.open(directory) as project:
        for name in images:
            project.mark(name, state, author=author)
            say(f"{name}: {state}")


@project_app.command()
def relocate(
    directory: Directory,
    folder: Annotated[Path, typer.Argument(help="Folder in which the images are now.", metavar="FOLDER")],
) -> None:
    """Tell a project that its images were moved to another folder."""
    from runtime.correction.project import Project

    with _errors_shown(), Project.open(directory) as project:
        project.relocate(folder)
        say(f"{directory}: {_count(len(project.names), 'image')} in {project.folder.resolve()}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
