"""Edits from and to JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from runtime.correction.edits.base import Edit
from runtime.correction.edits.cells import Delete, Merge, Relabel, Renumber, Swap
from runtime.correction.edits.draw import Add, Erase, Redraw
from runtime.correction.edits.form import FillHoles, Grow, KeepLargest, Shrink
from runtime.correction.edits.split import SplitAlongLine, SplitAtSeeds
from runtime.errors import InputError
from runtime.typed_json import FieldError, convert, refuse_unknown

EDITS: dict[str, type[Edit]] = {
    kind.operation: kind
    for kind in (
        *(Add, Erase, Redraw, Delete, Merge, Swap, Relabel, Renumber),
        *(FillHoles, Grow, Shrink, KeepLargest, SplitAtSeeds, SplitAlongLine),
    )
}
"""Edits by the name of their operation."""


def parse_edit(content: Mapping[str, Any]) -> Edit:
    """Build an edit from parsed JSON: ``operation``, then the fields of the edit.

    Raises:
        InputError: the operation is unknown, or a field is unknown, missing or does not fit; the message names it.
    """
    operation = content.get("operation")
    if not isinstance(operation, str) or operation not in EDITS:
        raise InputError(
            f"operation is {operation!r}; expected one of {', '.join(EDITS)}.", kind="not_found", field="operation"
        )
    parameters = {name: value for name, value in content.items() if name != "operation"}
    try:
        refuse_unknown(parameters, EDITS[operation])
        return convert(parameters, EDITS[operation])
    except FieldError as error:
        raise InputError(f"edit {operation!r}: {error}. Correct this field.", field=error.field) from error


def parameters_of(edit: Edit) -> dict[str, Any]:
    """Return the parameters of an edit for JSON, without the operation."""
    parameters: dict[str, Any] = asdict(edit)  # type: ignore[call-overload]
    return parameters
