"""Tests of how the command ends after a signal or an unexpected error."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from runtime.commands.printable import printable

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")

AT_IMPORT = """
import os, signal, sys

class Stop:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), {number})

sys.meta_path.insert(0, Stop())
sys.argv = ["cellsam-engine", "info"]
from runtime.commands.main import main
main()
"""

AT_WORK = """
import os, sys, time
import runtime.jobs.folders.work as work

class Segmenter:
    def batch(self, images, *, config):
        os.kill(os.getpid(), {number})
        time.sleep(0.5)
        raise ValueError("not reached by those that wait")

work.loaded_segmenter = lambda spec: Segmenter()
import runtime.jobs.segmenter_spec
runtime.jobs.segmenter_spec.loaded_segmenter = work.loaded_segmenter
sys.argv = ["cellsam-engine", "segment", {image!r}, "--out", {out!r}, "--backend", "cpu"]
from runtime.commands.main import main
main()
"""

UNEXPECTED = """
import sys
import runtime.commands.info as info

def fails(*_):
    raise TypeError("so \\x1b[31mthat")

info.read_manifest = fails
sys.argv = ["cellsam-engine", "info"]
from runtime.commands.main import main
main()
"""


def run(code: str, tmp: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"TMPDIR": str(tmp)}
    # A shell lets its background jobs ignore Ctrl-C, and they pass that on.
    listening = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{code}"
    return subprocess.run(
        [sys.executable, "-c", listening], capture_output=True, text=True, env=environment, timeout=600
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["runtime.commands.app", "numpy", "runtime.commands.plugins"])
def test_stopped_while_it_imports(tmp_path: Path, module: str, number: int) -> None:
    done = run(AT_IMPORT.format(module=module, number=int(number)), tmp_path)
    assert (done.returncode, done.stderr, done.stdout) == (128 + number, "interrupted before work began\n", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_at_work(tmp_path: Path, number: int) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.eye(40, dtype=np.uint8))
    out = tmp_path / "out"
    done = run(AT_WORK.format(image=str(tmp_path / "a.tif"), out=str(out), number=int(number)), tmp_path)
    assert done.returncode == 128 + number, done.stderr
    assert done.stderr.endswith("interrupted; run the same command again to resume\n")
    assert "Traceback" not in done.stderr
    assert not list(out.glob("*.partial"))
    assert not list(out.glob(".*"))


def test_what_nobody_foresaw_goes_to_a_file(tmp_path: Path) -> None:
    done = run(UNEXPECTED, tmp_path)
    line = re.fullmatch(
        r"error: unexpected TypeError: so \\x1b\[31mthat\. Details are in (.*\.log); please report them\.\n",
        done.stderr,
    )
    assert line is not None, done.stderr
    assert done.returncode == 1
    assert Path(line[1]).parent == tmp_path
    assert "in fails" in Path(line[1]).read_text()


def test_nothing_moves_the_cursor_of_a_terminal() -> None:
    assert printable("cells \x1b[2J\x07\u202e\ud800\u2028.png\n\tµm, 細胞") == (
        "cells \\x1b[2J\\x07\\u202e\\ud800\\u2028.png\n\tµm, 細胞"
    )
