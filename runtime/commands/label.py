"""The command ``label``: correct the segmentations of a folder of images in the browser."""

from __future__ import annotations

import threading
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from runtime.commands.console import fail, say
from runtime.commands.groups import with_groups
from runtime.commands.options import NO_VALUE, ModelOptions, ReadingOptions, ThreadsOption, at_least
from runtime.commands.report import announce_compilation
from runtime.commands.settings import backend_options, engine_directory, reading_options
from runtime.errors import ConfigError, SegmenterError

PROJECT_FOLDER = "cellsam-project"
"""Name of the project directory beside the images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelOptions:
    """Place of the project, and how the page is shown."""

    project: Annotated[
        Path | None,
        typer.Option(help=f"Project directory; default: FOLDER/{PROJECT_FOLDER}.", metavar="DIR", show_default=False),
    ] = None
    port: Annotated[
        int, typer.Option(help="Port of the page; 0 takes a free one.", metavar="N", callback=at_least(0))
    ] = 0
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Print the address, open no browser.", metavar=NO_VALUE)
    ] = False
    threads: ThreadsOption = None


@with_groups
def label_command(
    folder: Annotated[Path, typer.Argument(help="Folder with images, or a project directory.", metavar="FOLDER")],
    options: LabelOptions,
    model: ModelOptions,
    reading: ReadingOptions,
) -> None:
    """Segment a folder of images and correct the cells in the browser.

    Makes a project for the folder, or opens the one that is there and adds
    new images to it. Every change is saved at once. Ctrl-C stops the server.
    Needs the extra 'serve'. Exit code 1: something failed, 2: wrong usage.
    """
    from runtime.jobs.segmenter_spec import SegmenterSpec
    from runtime.server.options import ServerOptions
    from runtime.server.run import serve

    announce_compilation()
    try:
        project = _prepare(folder, options.project, reading)
        spec = SegmenterSpec(
            engine_dir=engine_directory(model.model),
            backend=model.backend,
            options=backend_options(model, options.threads),
        )
        serve(
            ServerOptions(engines=spec, port=options.port, project=project),
            lambda address: _show(address, not options.no_browser),
        )
    except ConfigError as error:
        fail(error, code=2)
    except (SegmenterError, OSError) as error:
        fail(error)


def _prepare(folder: Path, directory: Path | None, reading: ReadingOptions) -> Path:
    """Make the project of a folder, or add new images to it; return its directory.

    Raises:
        InputError: the folder contains no images, or one of them cannot be read.
        ProjectError: the project cannot be opened.
    """
    from runtime.correction.project import Project
    from runtime.correction.project_file import PROJECT_NAME
    from runtime.jobs.find_images import find_images

    if directory is None and (folder / PROJECT_NAME).is_file():
        return folder
    directory = directory or folder / PROJECT_FOLDER
    images = [one.path for one in find_images([folder], recursive=reading.recursive, out=directory)]
    if not (directory / PROJECT_NAME).is_file():
        with Project.create(directory, images, files=reading_options(reading, None)) as project:
            say(f"{directory}: new project of {len(project.names)} images")
        return directory
    with Project.open(directory) as project:
        added = project.add(images)
        say(f"{directory}: {len(project.names)} images" + (f", {len(added)} of them new" if added else ""))
    return directory


def _show(address: str, open_browser: bool) -> None:
    say(f"cellsam-engine is ready at {address}")
    if open_browser:
        # Some systems start a browser in the terminal and wait for it.
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
