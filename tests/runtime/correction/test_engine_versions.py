"""Versions of a project's engines: promotion, rollback, and the file that records them."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.correction.engine_versions import (
    EngineHistory,
    EngineVersion,
    VersionState,
    current_engine,
    read_history,
    write_history,
)
from runtime.correction.journal import ProjectError


def version(name: str, state: VersionState = "promoted") -> EngineVersion:
    return EngineVersion(version=name, state=state, made_from="nano", compared_with="nano", request=name)


def history(*states: VersionState) -> EngineHistory:
    found = EngineHistory()
    for state in states:
        found = found.with_version(version(found.next_name(), state))
    return found


def test_only_promoted_versions_are_used() -> None:
    found = history("promoted", "rejected", "provisional")
    assert [one.version for one in found.versions] == ["v001", "v002", "v003"]
    assert found.current == "v001"
    assert history("rejected", "provisional").current is None


def test_a_provisional_version_is_promoted_on_request() -> None:
    found = history("promoted", "provisional").promote()
    assert found.current == "v002"
    assert found.version("v002").state == "promoted"
    with pytest.raises(ProjectError, match="no provisional engine"):
        found.promote()
    with pytest.raises(ProjectError, match="v001 is rejected; expected a provisional engine"):
        history("rejected").promote("v001")


def test_rollback_undoes_promotions_back_to_the_first_model() -> None:
    found = history("promoted", "promoted").roll_back()
    assert found.current == "v001"
    found = found.roll_back()
    assert found.current is None
    with pytest.raises(ProjectError, match="no earlier engine"):
        found.roll_back()


def test_rollback_to_a_named_version_can_be_undone_too() -> None:
    found = history("promoted", "promoted", "promoted").roll_back("v001")
    assert found.current == "v001"
    assert found.roll_back().current == "v003"
    with pytest.raises(ProjectError, match="v001 is provisional; expected an engine that was in use"):
        history("provisional").roll_back("v001")
    with pytest.raises(ProjectError, match="no engine 'v009'; expected one of: v001"):
        history("promoted").roll_back("v009")


def test_the_file_gives_the_same_history(tmp_path: Path) -> None:
    assert read_history(tmp_path) == EngineHistory()
    assert current_engine(tmp_path) is None
    found = history("promoted", "provisional")
    write_history(tmp_path, found)
    assert read_history(tmp_path) == found
    assert current_engine(tmp_path) == tmp_path / "engines" / "v001"


@pytest.mark.parametrize(("text", "message"), [("{", "is damaged"), ('{"schema": 9}', "has schema 9; expected 1")])
def test_a_damaged_file_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    write_history(tmp_path, history("promoted"))
    (tmp_path / "engines" / "engines.json").write_text(text)
    with pytest.raises(ProjectError, match=message):
        read_history(tmp_path)
