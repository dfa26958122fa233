"""Convert parsed JSON to typed values with msgspec; errors name the field that does not fit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

T = TypeVar("T")

_PROBLEM = re.compile(r"(?P<reason>.*?)(?: - at (?P<key>`key` in )?`\$(?P<place>.*)`)?", re.DOTALL)
"""Pattern of a msgspec message, the only content of its errors: the problem, and the place of the value."""

_STEP = re.compile(r"\.(\w+)|\[(\d+|\.\.\.)\]")
"""One step of a place: a field, an index, or ``[...]``, by which msgspec hides a key of a mapping."""

_MISSING = re.compile(r"Object missing required field `(\w+)`")

Place = Sequence[str | int]


class FieldError(ValueError):
    """A value that does not fit its field."""

    def __init__(self, message: str, field: str) -> None:
        """Create the error. Args: field: path of the field, such as ``engines.encoder.inputs[0].name``."""
        super().__init__(message)
        self.field = field


def convert(content: object, kind: type[T]) -> T:
    """Convert parsed JSON to a typed value: nested dataclasses, tuples, mappings and plain values.

    Args:
        content: the result of ``json.loads``; dataclasses in it are kept. Fields unknown to a dataclass are ignored.
        kind: the type. Neither True nor 1.0 is accepted as a whole number.

    Raises:
        FieldError: a field is missing or does not fit; the message gives the field, its value and what was expected.
        ValueError: raised by a dataclass that checks itself.
    """
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        own = error.__cause__  # from a dataclass that checks itself
        raise (own if isinstance(own, ValueError) else _field_error(content, kind, str(error))) from error


def refuse_unknown(content: Mapping[str, Any], kind: Any, place: str = "") -> None:
    """Check that an object has only fields of a dataclass.

    Args:
        content: the object.
        kind: the dataclass.
        place: path of the object, for the error.

    Raises:
        FieldError: the object has other fields; the message names them.
    """
    unknown = sorted(content.keys() - {one.name for one in fields(kind)})
    if unknown:
        names = [f"{place}.{name}".lstrip(".") for name in unknown]
        raise FieldError(f"unknown fields {', '.join(names)}", names[0])


def _field_error(content: Any, kind: Any, message: str) -> FieldError:
    found = _PROBLEM.fullmatch(message)
    assert found is not None, "matches any text"
    reason, place = found["reason"], _place(content, kind, found["place"] or "")
    if missing := _MISSING.fullmatch(reason):
        field = _name([*place, missing[1]])
        return FieldError(f"field '{field}' is missing", field)
    field, value, of_place = _name(place), _at(content, place), _kind_at(kind, place)
    if found["key"]:
        of_place = get_args(of_place)[0]
        value = next((key for key in value if key not in get_args(of_place)), value)
        field = f"a key of {field}"
    expected = reason[:1].lower() + reason[1:].partition(", got ")[0].replace("`", "")
    if get_origin(of_place) is Literal:
        expected = f"expected one of {', '.join(map(str, get_args(of_place)))}"
    return FieldError(f"{field or 'it'} is {value!r}, {expected}", _name(place))


def _place(content: Any, kind: Any, text: str) -> list[str | int]:
    """Return the path of a value, with the keys of mappings: a key is at fault if it alone does not fit either."""
    place: list[str | int] = []
    for name, index in _STEP.findall(text):
        if index == "...":
            place.append(next(key for key in _at(content, place) if not _fits(content, kind, place, key)))
        else:
            place.append(name or int(index))
    return place


def _fits(content: Any, kind: Any, place: Place, key: str) -> bool:
    alone = deepcopy(content)
    mapping = _at(alone, place)
    for other in [other for other in mapping if other != key]:
        del mapping[other]
    try:
        msgspec.convert(alone, kind)
    except msgspec.ValidationError:
        return False
    return True


def _at(content: Any, place: Place) -> Any:
    for step in place:
        content = content[step]
    return content


def _kind_at(kind: Any, place: Place) -> Any:
    for step in place:
        if not is_dataclass(kind) and get_origin(kind) not in (dict, tuple, list, Mapping, Sequence, Literal):
            kind = next((one for one in get_args(kind) if one is not type(None)), kind)  # of a union
        kind = (
            get_type_hints(kind)[str(step)]
            if is_dataclass(kind)
            else get_args(kind)[-1 if isinstance(step, str) else 0]
        )
    return kind


def _name(place: Place) -> str:
    """Format a path: a, b, 0 becomes ``a.b[0]``."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place).lstrip(".")
