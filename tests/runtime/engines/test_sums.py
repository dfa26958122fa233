"""``SHA256SUMS`` covers the manifest and the engine files, and its own hash pins a directory."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

import runtime.commands.app
from runtime import EngineError, Segmenter
from runtime.engines.builtin import builtin_engine
from runtime.engines.engine_source import check_files
from runtime.engines.manifest import read_manifest
from runtime.engines.sums import SUMS_NAME
from tests.engine_sources import renew_sums


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(builtin_engine(), tmp_path / "engines"))


def info(directory: Path) -> str:
    done = CliRunner().invoke(runtime.commands.app.app, ["info", str(directory)])
    return done.output


def set_threshold(directory: Path) -> None:
    path = directory / "manifest.json"
    content = json.loads(path.read_text())
    content["config"]["box_threshold"] = 0.9
    path.write_text(json.dumps(content))


def test_the_builtin_engines_are_listed(caplog: pytest.LogCaptureFixture) -> None:
    Segmenter(backend="cpu")
    assert caplog.text == ""
    names = [line.split()[1] for line in (builtin_engine() / SUMS_NAME).read_text().splitlines()]
    assert sorted(names) == sorted(path.name for path in builtin_engine().iterdir() if path.name != SUMS_NAME)


def test_an_export_writes_the_same_list(copy: Path) -> None:
    before = (copy / SUMS_NAME).read_bytes()
    manifest = read_manifest(copy)
    (copy / SUMS_NAME).unlink()
    manifest.write(copy)
    assert read_manifest(copy) == manifest
    assert (copy / SUMS_NAME).read_bytes().splitlines()[1:] == before.splitlines()[1:]


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs GNU coreutils")
def test_coreutils_read_the_list(copy: Path) -> None:
    command = ["sha256sum", "--strict", "-c", SUMS_NAME]
    assert subprocess.run(command, cwd=copy, capture_output=True).returncode == 0
    set_threshold(copy)
    assert subprocess.run(command, cwd=copy, capture_output=True).returncode != 0


def test_an_edited_manifest_is_rejected(copy: Path) -> None:
    set_threshold(copy)
    for load in (Segmenter, read_manifest):
        with pytest.raises(EngineError, match=r"manifest\.json was altered after its export.*expected.*Export"):
            load(copy)
    assert "manifest.json was altered" in info(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("encoder.onnx", "another.onnx"), r"encoder\.onnx was altered.*the list has none"),
        (lambda text: text + "0" * 64 + "  more.onnx\n", r"more\.onnx was altered.*expected none"),
        (lambda text: text + text, "repeats a name"),
        (lambda text: "nonsense\n" + text, "lines other than a sha256"),
        (lambda text: text + "0" * 64 + "  ../outside\n", "lines other than a sha256"),
        (lambda text: "", r"manifest\.json was altered"),
        (lambda text: text * 1000, "more than 65,536 bytes"),
    ],
)
def test_lists_that_do_not_fit(copy: Path, change: object, message: str) -> None:
    path = copy / SUMS_NAME
    assert callable(change)
    path.write_text(change(path.read_text()))
    with pytest.raises(EngineError, match=message):
        read_manifest(copy)


def test_without_a_list_one_warning(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    (copy / SUMS_NAME).unlink()
    Segmenter(copy, backend="cpu")
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "has no SHA256SUMS" in record.getMessage()
    check_files(copy, read_manifest(copy))
    assert "none: there is no SHA256SUMS" in info(copy)


def test_a_pinned_directory(copy: Path) -> None:
    digest = hashlib.sha256((copy / SUMS_NAME).read_bytes()).hexdigest()
    assert digest in info(copy)
    Segmenter(copy, backend="cpu", sha256=digest)
    set_threshold(copy)
    renew_sums(copy)
    read_manifest(copy)
    with pytest.raises(EngineError, match=rf"SHA256SUMS has the sha256 .*; expected '{digest}'.*sha256=") as error:
        Segmenter(copy, backend="cpu", sha256=digest)
    assert (error.value.kind, error.value.field) == ("mismatch", "sha256")
    (copy / SUMS_NAME).unlink()
    with pytest.raises(EngineError, match="has no SHA256SUMS; expected one with sha256="):
        Segmenter(copy, backend="cpu", sha256=digest)
