"""An export never loses existing content of its target."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from export.errors import ExportError
from export.placing import check_target, place_engines
from runtime.engines.manifest import read_manifest
from tests.engine_sources import renew_sums


@pytest.fixture
def old(small_engines: Path, tmp_path: Path) -> Path:
    """Copy engines to the target."""
    return Path(shutil.copytree(small_engines, tmp_path / "engines"))


@pytest.fixture
def new(small_engines: Path, tmp_path: Path) -> Path:
    """Copy engines to be placed there, marked by a field."""
    path = Path(shutil.copytree(small_engines, tmp_path / "partial"))
    content = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**content, "created": "new"}))
    renew_sums(path)
    return path


def test_free_and_empty_targets(new: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    place_engines(new, tmp_path / "empty", force=False)
    assert read_manifest(tmp_path / "empty").created == "new"
    place_engines(tmp_path / "empty", tmp_path / "a" / "b", force=False)
    assert read_manifest(tmp_path / "a" / "b").created == "new"


def test_engines_are_replaced_only_with_force(old: Path, new: Path) -> None:
    with pytest.raises(ExportError, match="force=True"):
        place_engines(new, old, force=False)
    assert read_manifest(old).created != "new"
    for built in ("tensorrt", "tensorrt-ort"):
        (old / built).mkdir()
    place_engines(new, old, force=True)
    assert read_manifest(old).created == "new"
    assert [path.name for path in old.parent.iterdir()] == ["engines"]


@pytest.mark.parametrize(
    "content", ["{}", '{"name": "My web app", "icons": []}', '{"schema": 1}', "not json"], ids=["0", "pwa", "1", "text"]
)
def test_another_manifest_is_not_an_engine_directory(tmp_path: Path, content: str) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "manifest.json").write_text(content)
    with pytest.raises(ExportError, match="is not an engine directory"):
        check_target(tmp_path / "app", force=True)


def test_other_files_among_engines_are_never_removed(old: Path, new: Path) -> None:
    (old / "weights.pt").write_text("the checkpoint")
    with pytest.raises(ExportError, match=r"files other than engines \(weights\.pt\)"):
        place_engines(new, old, force=True)
    assert (old / "weights.pt").read_text() == "the checkpoint"


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with pytest.raises(ExportError, match="not an engine directory"):
        check_target(tmp_path / "file", force=True)


def test_the_current_directory_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for out in (tmp_path / "here", tmp_path):
        with pytest.raises(ExportError, match="contains the current directory"):
            check_target(out, force=True)
    check_target(tmp_path / "here" / "below", force=False)


def test_a_failed_move_keeps_the_earlier_engines(old: Path, new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if self == new:
            raise OSError("disk full")
        return original(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="disk full"):
        place_engines(new, old, force=True)
    assert read_manifest(old).created != "new"
    assert sorted(path.name for path in old.parent.iterdir()) == ["engines", "partial"]
