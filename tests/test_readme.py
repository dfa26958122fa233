"""Every command and every line of Python in the README runs, in order, in one directory."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parents[1]


def blocks() -> list[tuple[str, str]]:
    """Language and content of the fenced blocks, in order."""
    return re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def test_readme_commands_and_code_run(tmp_path: Path, small_checkpoint: Path, image: Any) -> None:
    shutil.copy(small_checkpoint, tmp_path / "cellsam_general.pt")
    Image.fromarray(image).save(tmp_path / "cells.png")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    ran = {"cellsam-engine": 0, "python": 0}
    for language, content in blocks():
        assert language in ("bash", "python"), language
        if language == "python":
            commands = [[sys.executable, "-c", content]]
        else:
            commands = [shlex.split(line, comments=True) for line in content.splitlines() if line.strip()]
        for command in commands:
            program = "python" if command[0] == sys.executable else command[0]
            # Installing and testing are what brought this test here.
            if program in ("pip", "make"):
                continue
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{shlex.join(command)}\n{done.stderr}"
            ran[program] += 1
    assert ran["cellsam-engine"] >= 5
    assert ran["python"] >= 1
    assert (tmp_path / "labels" / "cells_labels.tif").is_file()
