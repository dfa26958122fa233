"""Commands that are killed end as if nothing had happened; what a sloppy one leaves is found."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import kill_cases, kills
from benchmarks.kill_cases import Case, contents

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

CAREFUL = """
import pathlib, sys, time
out = pathlib.Path(sys.argv[1])
for number in range(5):
    time.sleep(0.03)
    half = out / f".{number}.partial"
    half.write_text(str(number))
    half.rename(out / str(number))
time.sleep(0.03)
"""

SLOPPY = """
import os, pathlib, subprocess, sys, time
out = pathlib.Path(sys.argv[1])
(out / f".{os.getpid()}.partial").touch()
helper = subprocess.Popen([sys.executable, "-Sc", "import time; time.sleep(600)"])
if not (out / "lines").exists():
    with (out / "lines").open("w") as file:
        for number in range(5):
            print(number, file=file, flush=True)
            time.sleep(0.05)
helper.kill()
(out / f".{os.getpid()}.partial").unlink()
"""


MakeCase = Callable[[str], None]


@pytest.fixture
def case_of(monkeypatch: pytest.MonkeyPatch) -> MakeCase:
    """Makes a case of a script."""

    def make(script: str) -> None:
        monkeypatch.setattr(kills, "COMMAND", (sys.executable, "-Sc", script))
        monkeypatch.setattr(kills, "ORPHANS_S", 0.1)
        case = Case(prepare=lambda inputs: None, arguments=lambda inputs, out: [str(out)])
        monkeypatch.setitem(kill_cases.CASES, "script", lambda: case)

    return make


def test_a_careful_command_passes(case_of: MakeCase, tmp_path: Path) -> None:
    case_of(CAREFUL)
    found = kills.kill_case("script", 6, 0, tmp_path / "work")
    assert found["passed"], found
    assert (found["kills"], found["files_compared"]) == (6, 5)
    assert found["rounds"] <= 6 + found["runs_that_ended_before"]
    assert 0 < found["first_file_s"] < found["seconds"]
    assert not (tmp_path / "work").exists()


def test_what_a_sloppy_command_leaves_is_found(case_of: MakeCase, tmp_path: Path) -> None:
    case_of(SLOPPY)
    found = kills.kill_case("script", 8, 0, tmp_path / "work")
    assert not found["passed"]
    assert {"unlike", "leftovers", "orphans"} <= found["problems"].keys()
    assert "lines" in found["problems"]["unlike"]["first"][0]
    assert kills.describe("script", found).startswith("script: FAILED, 8 kills")


def test_what_is_compared(tmp_path: Path) -> None:
    case = Case(prepare=lambda inputs: None, arguments=lambda inputs, out: [], passed_over=("run/csv*",))

    def write(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    write("manifest.json", json.dumps({"created": "today", "engines": 3}))
    write("SHA256SUMS", "0a  manifest.json\n0b  encoder.onnx\n")
    write("segmented.jsonl", '{"settings": 1}\n{"image": "a", "done": 3}\n')
    write("after.json", json.dumps({"kind": "evaluation", "created": "today", "rows": [1], "images": [0.3]}))
    write("run/csv/start0", "1")
    before = contents(case, tmp_path)
    assert before.keys() == {"manifest.json", "SHA256SUMS", "segmented.jsonl", "after.json", "run"}
    write("manifest.json", json.dumps({"created": "tomorrow", "engines": 3}))
    write("SHA256SUMS", "0c  manifest.json\n0b  encoder.onnx\n")
    write("segmented.jsonl", '{"image": "a"}\n{"ima{"settings": 1}\n{"image": "a", "done": 3}\n')
    write("after.json", json.dumps({"kind": "evaluation", "created": "tomorrow", "rows": [1], "images": [0.4]}))
    write("run/csv/start1", "2")
    assert contents(case, tmp_path) == before
    write("segmented.jsonl", '{"image": "a"}\n')
    write("manifest.json", json.dumps({"created": "tomorrow", "engines": 2}))
    write("run/csv/.start1.partial", "2")
    after = contents(case, tmp_path)
    assert after.keys() - before.keys() == {"run/csv/.start1.partial"}
    assert {name for name in before if after[name] != before[name]} == {"segmented.jsonl", "manifest.json"}


def test_every_case_names_a_command() -> None:
    for name, make in kill_cases.CASES.items():
        arguments = make().arguments(Path("inputs"), Path("out"))
        assert arguments[0] in ("segment", "data", "export", "build", "train", "finetune"), name


@pytest.mark.parametrize("name", ["data-build", "segment-folder"])
def test_two_kills_of_the_cheapest(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = str(Path(kills.__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])]))
    work, out = tmp_path / "work", tmp_path / "results"
    arguments = ["--cases", name, "--kills", "2", "--work", str(work), "--out", str(out)]
    code = kills.main(arguments)
    (path,) = out.iterdir()
    record = json.loads(path.read_text())
    found = record["cases"][name]
    assert (code, found["problems"], found["kills"]) == (0, {}, 2)
    assert found["files_compared"] >= 20
    assert [one.name for one in work.iterdir()] == [f"{name}.json"]
