"""Differences between two descriptions of a job."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


def differences(asked: Mapping[str, object], begun: Mapping[str, object]) -> Iterator[tuple[str, object, object]]:
    """Yield each dotted name that differs, in sorted order, with both values; None if one is missing."""
    one, other = dict(_leaves(asked)), dict(_leaves(begun))
    for name in sorted({*one, *other}):
        if one.get(name) != other.get(name):
            yield name, one.get(name), other.get(name)


def _leaves(content: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(content, Mapping):
        for name, value in content.items():
            yield from _leaves(value, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, content
