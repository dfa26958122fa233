"""Commands of other packages, found through an entry point group; ``runtime`` never imports them by name."""

from __future__ import annotations

import ast
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer
import typer.core
import typer.main

from runtime.commands.console import errors, fail
from runtime.errors import EngineError
from runtime.extras import install_command

COMMANDS = "cellsam_engine.commands"
"""Entry point group through which other packages add their commands."""

OWN = {
    "segment": "runtime.commands.segment:segment_command",
    "info": "runtime.commands.info:info_command",
    "made-by": "runtime.commands.made_by:made_by_command",
    "doctor": "runtime.commands.doctor:doctor_command",
    "warm-up": "runtime.commands.doctor:warm_up_command",
    "label": "runtime.commands.label:label_command",
    "export-triton": "runtime.commands.triton:export_triton_command",
    "cellpose-shim": "runtime.commands.cellpose_shim:cellpose_shim_command",
    "project": "runtime.commands.project:project_app",
    "serve": "runtime.commands.serve:serve_command",
}
"""Commands of this package, in the order in which the help lists them."""

OWN_EXTRAS = {"label": "serve", "serve": "serve"}
"""Extras that commands of this package need."""

_log = logging.getLogger(__name__)


class Commands(typer.core.TyperGroup):
    """Group that imports a command only when it is called, and reads descriptions from the source code."""

    def list_commands(self, ctx: Any) -> list[str]:
        """List the commands of this package, then those of other packages."""
        own = [*OWN, *super().list_commands(ctx)]
        return list(dict.fromkeys([*own, *sorted(entry.name for entry in entry_points(group=COMMANDS))]))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command, not yet imported."""
        if cmd_name not in self.commands:
            own = [EntryPoint(cmd_name, OWN[cmd_name], COMMANDS)] if cmd_name in OWN else []
            for entry in own or entry_points(group=COMMANDS, name=cmd_name):
                self.commands[cmd_name] = _DeferredCommand(entry)
        return super().get_command(ctx, cmd_name)


class _DeferredCommand(typer.core.TyperCommand):
    """Placeholder for a command that has not been imported."""

    def __init__(self, entry: EntryPoint) -> None:
        super().__init__(entry.name, callback=_nothing, help=_description(entry))
        self._entry = entry

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Import the command and make its context."""
        return _load_command(self._entry).make_context(info_name, args, parent=parent, **extra)


def _description(entry: EntryPoint) -> str:
    """Read a command's description from its source: the docstring of its function, or the help of its ``Typer``."""
    try:
        spec = find_spec(entry.module)
        if spec is None or spec.origin is None:
            return "Cannot be loaded."
        tree = ast.parse(Path(spec.origin).read_bytes())
    except Exception:  # the ``__init__`` of the package may raise anything
        return "Cannot be loaded."
    for node in tree.body:
        match node:
            case ast.FunctionDef(name=entry.attr):
                return ast.get_docstring(node) or ""
            case ast.Assign(targets=[ast.Name(id=entry.attr)], value=ast.Call(keywords=keywords)):
                texts = [keyword.value for keyword in keywords if keyword.arg == "help"]
                return str(texts[0].value) if texts and isinstance(texts[0], ast.Constant) else ""
    return ""


@contextmanager
def missing_packages_named() -> Iterator[None]:
    """If a command lacks a package that an extra brings, print how to install it and exit with code 1."""
    try:
        yield
    except ModuleNotFoundError as error:
        name = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), None)
        extras = OWN_EXTRAS | {entry.name: entry.value.split(".")[0] for entry in entry_points(group=COMMANDS)}
        if name not in extras:
            raise
        errors.print(
            f"error: '{name}' needs the package {error.name!r}, which is not installed. "
            f"Install it: {install_command(extras[name])}.",
            style="bold red",
            markup=False,
        )
        sys.exit(1)


def _load_command(entry: EntryPoint) -> Any:
    """Import a command; if the import fails, return a command that reports the failure when called.

    The other commands and the help keep working.
    """
    try:
        return _command_of(entry.name, entry.load())
    except Exception as error:  # another package's code, or Typer reading it, may raise anything
        _log.warning("command %r (%s) cannot be loaded: %s: %s", entry.name, entry.value, type(error).__name__, error)
        loose = {"allow_extra_args": True, "ignore_unknown_options": True}
        return _command_of(
            entry.name, _failing(entry, error), help="Cannot be loaded.", add_help_option=False, context_settings=loose
        )


def _command_of(name: str, command: Any, **settings: Any) -> Any:
    """Make a command from a function or a ``Typer``."""
    package = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    package.callback()(_nothing)  # makes it a group even if it has one command
    if isinstance(command, typer.Typer):
        package.add_typer(command, name=name)
    else:
        package.command(name, **settings)(command)
    group: Any = typer.main.get_command(package)
    return group.commands[name]


def _nothing() -> None:
    pass


def _failing(entry: EntryPoint, error: Exception) -> Callable[[], None]:
    def fail_to_load() -> None:
        if isinstance(error, ModuleNotFoundError):
            raise error  # ``missing_packages_named`` prints what to install
        fail(EngineError(f"command {entry.name!r} cannot be loaded ({error}); reinstall or remove {entry.value}."))

    return fail_to_load
