"""JSON converts to typed values, or raises an error with the field, its value and what was expected."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.engines.builtin import builtin_engine
from runtime.engines.manifest import MANIFEST_NAME, Manifest, read_manifest
from runtime.errors import EngineError
from runtime.typed_json import FieldError, convert, refuse_unknown


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    size_hw: tuple[int, int]
    kind: Literal["plain", "fused"] = "plain"
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.share > 1:
            raise FieldError("share is above 1", "share")


@dataclass(frozen=True, kw_only=True, slots=True)
class Whole:
    parts: Mapping[Literal["first", "second.a"], Part]
    names: tuple[str | int, ...] = ()
    last: Part | None = None


GOOD: dict[str, Any] = {
    "parts": {"first": {"size_hw": [3, 4]}, "second.a": {"size_hw": [1, 2], "kind": "fused", "share": 1}},
    "names": ["a", 1],
    "last": {"size_hw": [5, 6], "more": "is passed over"},
}


def test_good_values_are_typed() -> None:
    whole = convert(deepcopy(GOOD), Whole)
    assert whole.parts["first"] == Part(size_hw=(3, 4))
    assert whole.parts["second.a"] == Part(size_hw=(1, 2), kind="fused", share=1.0)
    assert (whole.names, whole.last) == (("a", 1), Part(size_hw=(5, 6)))
    assert convert({"parts": {"first": whole.last}}, Whole).parts == {"first": whole.last}, "taken as it is"
    assert convert(json.loads(json.dumps(asdict(whole))), Whole) == whole


@pytest.mark.parametrize(
    ("place", "value", "field", "message"),
    [
        (("parts",), 5, "parts", "parts is 5, expected object"),
        (("parts",), ..., "parts", "field 'parts' is missing"),
        (("parts", "first", "size_hw"), ..., "parts.first.size_hw", "field 'parts.first.size_hw' is missing"),
        (("parts", "second.a", "size_hw", 1), True, "parts.second.a.size_hw[1]", "size_hw[1] is True, expected int"),
        (("parts", "second.a", "size_hw", 1), 2.5, "parts.second.a.size_hw[1]", "size_hw[1] is 2.5, expected int"),
        (("parts", "second.a", "kind"), "x", "parts.second.a.kind", "kind is 'x', expected one of plain, fused"),
        (("parts", "third"), {}, "parts", "a key of parts is 'third', expected one of first, second.a"),
        (("names", 1), None, "names[1]", "names[1] is None, expected int | str"),
        (("last", "kind"), 1, "last.kind", "last.kind is 1, expected one of plain, fused"),
        (("last", "share"), 2, "share", "share is above 1"),
    ],
)
def test_what_does_not_fit_is_named(place: tuple[Any, ...], value: object, field: str, message: str) -> None:
    content = deepcopy(GOOD)
    with pytest.raises(FieldError) as caught:
        convert(changed_at(content, place, value), Whole)
    assert caught.value.field == field
    assert message in str(caught.value)


def test_content_that_is_not_an_object() -> None:
    with pytest.raises(FieldError, match=r"it is \[\], expected object"):
        convert([], Whole)
    with pytest.raises(FieldError, match=r"unknown fields config\.colour, config\.size") as caught:
        refuse_unknown({"size": 1, "share": 2, "colour": 3}, Part, "config")
    assert caught.value.field == "config.colour"


def changed_at(content: Any, place: tuple[Any, ...], value: object) -> Any:
    *parents, last = place
    target = content
    for step in parents:
        target = target[step]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return content


MANIFEST = json.loads((builtin_engine() / MANIFEST_NAME).read_text(encoding="utf-8"))


def places(content: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [place for key, value in inner for place in ((*above, key), *places(value, (*above, key)))]


NONSENSE = st.one_of(
    st.sampled_from([..., None, True, 0, -1, 10**30, 10**400, 0.5, float("nan"), float("inf"), "", "a/b", [], {}]),
    st.recursive(
        st.none() | st.integers() | st.floats() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)
    ),
)


@given(st.sampled_from(places(MANIFEST)), NONSENSE)
def test_no_nonsense_in_a_manifest_is_more_than_an_engine_error(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[Any, ...], value: object
) -> None:
    directory = tmp_path_factory.mktemp("engines")
    (directory / MANIFEST_NAME).write_text(json.dumps(changed_at(deepcopy(MANIFEST), place, value)))
    found = read(directory)
    if isinstance(found, EngineError):
        assert MANIFEST_NAME in str(found)
        assert found.kind in ("damaged", "wrong_version")


def read(directory: Path) -> Manifest | EngineError:
    try:
        return read_manifest(directory)
    except EngineError as error:
        return error
