"""Groups of options: frozen dataclasses whose fields become the options of a command.

>>> @dataclass(frozen=True, kw_only=True, slots=True)
... class ScaleOptions:
...     diameter_px: Annotated[float | None, typer.Option("--diameter", help="Cell diameter, pixels.")] = None
...
>>> @with_groups
... def command(image: Path, scale: ScaleOptions) -> None: ...

The command receives a ``ScaleOptions``; on the command line it has the option ``--diameter``. A group may contain
other groups.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import wraps
from typing import Any, TypeGuard, cast, get_type_hints

Command = Callable[..., None]


def with_groups(command: Command) -> Command:
    """Replace each group among the parameters of a command by its fields.

    Fields are annotated as Typer expects, ``Annotated[type, typer.Option(...)]``. Field names must be unique among the
    groups of one command.
    """
    signature = inspect.signature(command, eval_str=True)
    groups = {name: one.annotation for name, one in signature.parameters.items() if _is_group(one.annotation)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in signature.parameters.items():
        if name in groups:
            parameters += _parameters_of(groups[name])
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(command)
    def run(**given: Any) -> None:
        made = {name: _made(group, given) for name, group in groups.items()}
        command(**given, **made)

    shown = cast(Any, run)
    del shown.__wrapped__  # through which Typer would find the command's own signature
    shown.__signature__ = signature.replace(parameters=parameters)
    shown.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def flags_of(*groups: type) -> dict[str, str]:
    """Return the long option of each field of some groups, by field name."""
    return {one.name: _flag(one) for group in groups for one in _parameters_of(group)}


def _parameters_of(group: type) -> Iterator[inspect.Parameter]:
    for field, kind in _fields_of(group):
        if _is_group(kind):
            yield from _parameters_of(kind)
        else:
            yield inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=_default(field), annotation=kind
            )


def _made(group: type, given: dict[str, Any]) -> Any:
    """Build a group from its values, which are removed from ``given``."""
    return group(
        **{
            field.name: _made(kind, given) if _is_group(kind) else given.pop(field.name)
            for field, kind in _fields_of(group)
        }
    )


def _fields_of(group: type) -> Iterator[tuple[Field[Any], Any]]:
    hints = get_type_hints(group, include_extras=True)
    return ((field, hints[field.name]) for field in fields(group))


def _is_group(kind: object) -> TypeGuard[type]:
    return isinstance(kind, type) and is_dataclass(kind)


def _default(field: Field[Any]) -> Any:
    return inspect.Parameter.empty if field.default is MISSING else field.default


def _flag(parameter: inspect.Parameter) -> str:
    for info in getattr(parameter.annotation, "__metadata__", ()):
        # In ``Annotated``, Typer stores the first given name as the default.
        for name in (info.default, *(info.param_decls or ())):
            if isinstance(name, str) and name.startswith("--"):
                return name.split("/")[0]
    return "--" + parameter.name.replace("_", "-")
