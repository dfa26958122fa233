"""Command ``improve`` of ``cellsam-engine``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from export.commands.export import FLAGS
from runtime.commands.console import errors, fail, say
from runtime.correction.engine_versions import engines_folder, read_history, write_history
from runtime.correction.project_lock import ProjectLock
from runtime.engines.backends.base import BackendName
from runtime.engines.builtin import BUILTIN_NAME
from runtime.errors import ConfigError, SegmenterError

if TYPE_CHECKING:
    from export.improve.config import ImproveConfig
    from runtime.correction.engine_versions import EngineHistory
    from training.recipe import Parts


def improve_command(
    project: Annotated[Path, typer.Argument(help="Project directory, with images that are done.", metavar="PROJECT")],
    version: Annotated[
        str | None, typer.Argument(help="Version for --promote and --rollback, such as v002.", metavar="[VERSION]")
    ] = None,
    promote: Annotated[
        bool, typer.Option("--promote", help="Use a provisional engine; by default, the last one.")
    ] = False,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Use an earlier engine again; by default, the one before.")
    ] = False,
    show: Annotated[
        bool, typer.Option("--list", help="List the engines of the project; * marks the one in use.")
    ] = False,
    init: Annotated[
        str, typer.Option(help="Weights to start from: nano or a checkpoint in our own format.", metavar="FILE")
    ] = BUILTIN_NAME,
    parts: Annotated[
        str, typer.Option(help="Parts to train: all, detector, or masks (neck and mask decoder).")
    ] = "all",
    steps: Annotated[
        int | None, typer.Option(help="Training steps of 4 views; default: 400, or 240 below ten images.", min=1)
    ] = None,
    fold_steps: Annotated[
        int | None, typer.Option(help="Training steps while one image is left out; default: 100.", min=1)
    ] = None,
    folds: Annotated[
        int, typer.Option(help="Below ten images: how many to leave out in turn for the score.", min=0)
    ] = 5,
    recipe: Annotated[
        Path | None,
        typer.Option(help="Recipe of the training, as for 'train'; default: one for few images.", metavar="FILE"),
    ] = None,
    accelerator: Annotated[str, typer.Option(help="Accelerator, as named by Lightning: auto, cpu, gpu ...")] = "auto",
    backend: Annotated[BackendName, typer.Option(help="Backend that runs the compared engines.")] = "auto",
    progress_json: Annotated[
        bool,
        typer.Option("--progress-json", help="Print progress to stdout as JSON lines, and the version at the end."),
    ] = False,
) -> None:
    """Fine-tune a project's model on its corrected images, and use it if it is better.

    Images that are marked done count as corrected. With ten or more, a fifth is kept out of training; the new engine is
    promoted if it is better on these images and no worse on the package's sample images. With fewer, it is provisional
    until you promote it. If it is rejected, the exit code is 1. After an interruption, the same command resumes.
    """
    try:
        _check_one_action(promote, rollback, show, version)
        if show:
            _show(project)
        elif promote or rollback:
            _change(project, lambda history: (history.promote if promote else history.roll_back)(version))
        else:
            from export.improve.config import ImproveConfig

            config = ImproveConfig(
                project=project,
                init=init,
                parts=_parts(parts),
                steps=steps,
                fold_steps=fold_steps,
                folds=folds,
                recipe=recipe,
                accelerator=accelerator,
                backend=backend,
            )
            _improve(config, as_json=progress_json)
    except (SegmenterError, ValueError, OSError) as error:
        fail(error, flags=FLAGS | {"fold_steps": "--fold-steps", "version": "VERSION"})


def _check_one_action(promote: bool, rollback: bool, show: bool, version: str | None) -> None:
    if promote + rollback + show > 1:
        raise ConfigError("got several of --promote, --rollback and --list; expected one.", kind="conflict")
    if version is not None and not (promote or rollback):
        raise ConfigError(
            f"got the version {version!r} without an action; expected --promote or --rollback.", kind="conflict"
        )


def _parts(text: str) -> Parts:
    from typing import get_args

    from training.recipe import Parts

    for known in get_args(Parts):
        if text == known:
            return known  # type: ignore[no-any-return]
    raise ConfigError(f"parts is {text!r}; expected one of {', '.join(get_args(Parts))}.", field="parts")


def _show(project: Path) -> None:
    from export.improve.report import history_lines
    from runtime.correction.project_file import read_project_file

    read_project_file(project)
    history = read_history(project)
    for line in history_lines(history) or ["no engines yet"]:
        say(line)
    if history.versions and history.current is None:
        say("the model that the project started with is in use")


def _change(project: Path, change: Callable[[EngineHistory], EngineHistory]) -> None:
    from runtime.correction.project_file import read_project_file

    read_project_file(project)
    engines_folder(project).mkdir(exist_ok=True)
    lock = ProjectLock(engines_folder(project))
    try:
        history = change(read_history(project))
        write_history(project, history)
    finally:
        lock.release()
    say(engines_folder(project) / history.current if history.current else "the model that the project started with")


def _improve(config: ImproveConfig, *, as_json: bool) -> None:
    from dataclasses import asdict

    from export.improve.report import verdict_text, version_table
    from export.improve.run import improve

    with _progress(as_json=as_json) as update:
        version = improve(config, update)
    if as_json:
        say(json.dumps({"version": asdict(version)}))
    else:
        say(version_table(version))
        say("")
        say(verdict_text(version))
        if version.state == "provisional":
            say(f"To use it: cellsam-engine improve {config.project} --promote")
    if version.state == "rejected":
        raise typer.Exit(1)


@contextmanager
def _progress(*, as_json: bool) -> Iterator[Callable[[str, float], None]]:
    """Show a bar with the time left on a terminal, a line for each step elsewhere, or JSON lines."""
    from export.improve.estimate import TimeLeft

    left = TimeLeft()
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, disable=as_json or not errors.is_terminal) as bar:
        task, shown = bar.add_task("", total=1.0), ""

        def update(step: str, done: float) -> None:
            nonlocal shown
            seconds = left.seconds(done)
            if as_json:
                rounded = None if seconds is None else round(seconds)
                say(json.dumps({"step": step, "done": round(done, 4), "of": 1.0, "seconds_left": rounded}))
            elif bar.disable and step != shown:
                errors.print(step, markup=False)
            words = step if seconds is None else f"{step}, {seconds / 60:.0f} min left"
            bar.update(task, completed=done, description=words)
            shown = step

        yield update
