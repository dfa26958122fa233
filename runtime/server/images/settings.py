"""Settings in requests: thresholds of a call, and how a file is read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from runtime.config import SegmentConfig, with_overrides
from runtime.errors import ConfigError
from runtime.files.formats import Plane
from runtime.files.image_results import FileOptions

SETTINGS = tuple(field.name for field in fields(SegmentConfig))
"""Names of the settings that a request may change."""

READING = ("nuclear", "membrane", "rgb", "series", "z", "time", "pixel_size_um", "strict")
"""Names of the choices in reading a file."""


def settings_of(given: Mapping[str, Any], base: SegmentConfig) -> SegmentConfig:
    """Change some settings.

    Args:
        given: values by name; None keeps a setting.
        base: the other settings.

    Raises:
        ConfigError: a name is unknown or a value outside its range.
    """
    _check_names(given, SETTINGS, "settings")
    try:
        return with_overrides(base, given)
    except TypeError as error:  # lists and objects, which some checks cannot compare
        raise ConfigError(
            f"the settings have a value of a wrong type ({error}); expected numbers and words.", kind="wrong_type"
        ) from error


def reading_of(given: Mapping[str, Any], largest_px: int) -> FileOptions:
    """Build the options with which a file is read.

    Args:
        given: values by name; None keeps the default.
        largest_px: largest image, pixels.

    Raises:
        ConfigError: a name is unknown or a value outside its range.
    """
    _check_names(given, READING, "read")
    chosen = {name: value for name, value in given.items() if value is not None}
    for name in ("z", "time"):
        _check_kind(name, chosen.get(name, 0), int, "a whole number")
        if chosen.get(name, 0) < 0:
            raise ConfigError(f"{name} is {chosen[name]}; expected 0 or more.", field=name)
    for name in ("rgb", "strict"):
        _check_kind(name, chosen.get(name, False), bool, "true or false")
    plane = Plane(z=chosen.pop("z", None), time=chosen.pop("time", None))
    for name in ("nuclear", "membrane", "series"):
        if name in chosen:
            _check_kind(name, chosen[name], str | int, "a name or number")
            chosen[name] = str(chosen[name])
    return FileOptions(plane=plane, largest_px=largest_px, **chosen)


def split_query(query: Iterable[tuple[str, str]], own: Iterable[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the parameters of a query into settings and choices in reading; numbers, true, false and null are JSON.

    Args:
        query: names and values.
        own: names of the route's own parameters, which are skipped.

    Raises:
        ConfigError: a name is unknown or given twice.
    """
    settings: dict[str, Any] = {}
    reading: dict[str, Any] = {}
    for name, text in query:
        if name in own:
            continue
        target = reading if name in READING else settings
        if name in target:
            raise ConfigError(f"{name} is given twice; expected once.", kind="conflict", field=name)
        target[name] = _value(text)
    _check_names(settings, SETTINGS, "the query")
    return settings, reading


def _value(text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, list | dict) else value


def _check_names(given: Iterable[str], known: Iterable[str], where: str) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ConfigError(
            f"{where} has {', '.join(unknown)[:200]}; expected some of {', '.join(known)}.",
            kind="invalid",
            field=unknown[0][:100],
        )


def _check_kind(name: str, value: object, kind: Any, expected: str) -> None:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(
            f"{name} is of type {type(value).__name__}; expected {expected}.", kind="wrong_type", field=name
        )
