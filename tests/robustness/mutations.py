"""Hypothesis strategies that damage bytes and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

Edit = list[Any]
"""Kind of change, place (in 2**20ths of the length) and bytes in hex."""

_WHOLE = 1 << 20

INTERESTING = tuple(
    value.hex()
    for value in (
        *(b"\x00", b"\xff", b"\x80", b"\x7f", b"0", b"9", b"-", b'"', b"\x00" * 4, b"\xff" * 4, b"\xff" * 8),
        *(b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\x80\x00\x00\x00", b"\x01\x00\x00\x00"),
        *(
            b"\xff" * 7 + b"\x7f",
            b"\x00" * 64,
            b"99999999999999999999",
            b"1e999",
            b"-1",
            b"NaN",
            b"null",
            b"\xed\xa0\x80",
        ),
    )
)
"""Limits of value ranges, in several encodings."""


def edits(most: int = 6) -> SearchStrategy[list[Edit]]:
    """Draw changes of some bytes."""
    content = st.binary(min_size=1, max_size=8).map(bytes.hex) | st.sampled_from(INTERESTING)
    kinds = st.sampled_from(("put", "put", "flip", "insert", "delete", "repeat", "cut"))
    # Headers are short, and most decisions of a reader depend on them.
    place = st.integers(0, _WHOLE - 1) | st.integers(0, _WHOLE // 16)
    return st.lists(st.tuples(kinds, place, content).map(list), min_size=1, max_size=most)


def edited(content: bytes, changes: Sequence[Edit]) -> bytes:
    """Apply changes to bytes, in order."""
    for kind, where, text in changes:
        new, at = bytes.fromhex(text), where * len(content) // _WHOLE
        rest = content[at:]
        if kind == "put":
            content = content[:at] + new + rest[len(new) :]
        elif kind == "flip":
            content = content[:at] + bytes([rest[0] ^ (1 << new[0] % 8)]) + rest[1:] if rest else content
        elif kind == "insert":
            content = content[:at] + new + rest
        elif kind == "delete":
            content = content[:at] + rest[len(new) * new[0] :]
        elif kind == "repeat":
            content = content[:at] + rest[: new[0]] * 2 + rest[new[0] :]
        else:
            content = content[:at]
    return content


def texts() -> SearchStrategy[str]:
    """Draw short texts of few characters, including control characters and lone surrogates."""
    return st.lists(st.sampled_from("ab0.-/\\\x00\x1b\n\ud800é中 "), max_size=6).map("".join)


def values() -> SearchStrategy[Any]:
    """Draw any value that JSON or Python's ``json`` can represent."""
    plain = st.none() | st.booleans() | st.integers(-3, 300) | st.integers(-(2**70), 2**70) | st.floats() | texts()
    odd = st.sampled_from(("", "\ud800", "../x", "\x1b[2J", "1", "é" * 300, 10**30, -1, 0, 2**63, 1e308, -0.0))
    return st.recursive(
        plain | odd,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts(), inner, max_size=3),
        max_leaves=8,
    )


def replacements(most: int = 4) -> SearchStrategy[list[list[Any]]]:
    """Draw changes of a JSON tree: place, kind and value."""
    kinds = st.sampled_from(("set", "set", "set", "drop", "add", "scale"))
    return st.lists(st.tuples(st.integers(0, 10**6), kinds, values()).map(list), min_size=1, max_size=most)


def replaced(tree: Any, changes: Sequence[list[Any]]) -> Any:
    """Apply changes to a JSON tree in place, in order, and return the tree."""
    for where, kind, value in changes:
        places = list(_places(tree))
        if not places:
            return value
        holder, key = places[where % len(places)]
        if kind == "set":
            holder[key] = value
        elif kind == "drop":
            del holder[key]
        elif kind == "add" and isinstance(holder, dict):
            holder[str(value)[:20]] = value
        elif kind == "add":
            holder.insert(key, value)
        elif isinstance(holder[key], int | float):
            holder[key] = holder[key] * 2 + 1
    return tree


def _places(tree: Any) -> Any:
    """Yield every (container, key) of a tree."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in list(items):
        yield tree, key
        yield from _places(value)
