"""Every command and every line of Python in the READMEs runs, in order, in one directory."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

from tests.small import SMALL
from tests.training.made_data import disc_tile
from training.recipe import NANO, load_recipe

ROOT = Path(__file__).parents[1]


def blocks(readme: Path) -> list[tuple[str, str]]:
    """Language and content of the fenced blocks, in order."""
    return re.findall(r"```(\w+)\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL)


def run_blocks(readme: Path, directory: Path) -> dict[str, int]:
    """Run all bash and Python blocks; how often each program ran."""
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    ran: dict[str, int] = {}
    for language, content in blocks(readme):
        if language == "json":
            continue
        assert language in ("bash", "python"), language
        if language == "python":
            commands = [[sys.executable, "-c", content]]
        else:
            commands = [shlex.split(line, comments=True) for line in content.splitlines() if line.strip()]
        for command in commands:
            # Installing and testing are what brought this test here.
            if command[0] in ("pip", "make"):
                continue
            done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{shlex.join(command)}\n{done.stderr}"
            ran[language] = ran.get(language, 0) + 1
    return ran


def test_readme(tmp_path: Path, small_checkpoint: Path, image: Any) -> None:
    shutil.copy(small_checkpoint, tmp_path / "cellsam_general.pt")
    Image.fromarray(image).save(tmp_path / "cells.png")
    ran = run_blocks(ROOT / "README.md", tmp_path)
    assert ran["bash"] >= 5
    assert ran["python"] >= 1
    assert (tmp_path / "labels" / "cells_labels.tif").is_file()


def test_slides_page(tmp_path: Path) -> None:
    assert run_blocks(ROOT / "docs" / "slides.md", tmp_path) == {"python": 2, "bash": 5}
    endings = ("_labels.tif", "_cells.csv", "_cells.geojson", "_labels.ome.tif", ".zarr", "_overlay.png")
    names = {f"slide{ending}" for ending in endings}
    assert {path.name for path in (tmp_path / "all").iterdir()} == {*names, "segmented.jsonl"}


def test_folders_page(tmp_path: Path) -> None:
    assert run_blocks(ROOT / "docs" / "folders.md", tmp_path) == {"python": 1, "bash": 5}
    names = {f"field{number}{ending}" for number in range(3) for ending in ("_labels.tif", "_cells.csv")}
    one, other = ({p.name: p.read_bytes() for p in (tmp_path / d / "B02").iterdir()} for d in ("found", "found_too"))
    assert one == other
    assert set(one) == names
    assert tifffile.imread(tmp_path / "tiled" / "field0_labels.tif").max() > 0


def test_training_readme(tmp_path: Path) -> None:
    """With few images, a small model and few steps; the recipe shown must be one."""
    shown = [content for language, content in blocks(ROOT / "training" / "README.md") if language == "json"]
    for content, steps in zip(shown, (20000, 600), strict=True):
        (tmp_path / "shown.json").write_text(content)
        assert load_recipe(tmp_path / "shown.json").stage1.steps == steps
    (tmp_path / "further.json").write_text('{"preset": "nano", "stage1": {"steps": 1, "batch_size": 1}}')
    small = replace(
        NANO,
        model=replace(SMALL, anchors=64, classes=1),
        stage1=replace(NANO.stage1, steps=2, batch_size=2),
        stage2=replace(NANO.stage2, steps=2, batch_size=2),
        precision="32-true",
    )
    (tmp_path / "recipe.json").write_text(json.dumps(asdict(small)))
    (tmp_path / "images").mkdir()
    for number in range(12):
        tile = disc_tile(number)
        grey = (tile.image[2, :160, :160] * 255).astype(np.uint8)
        Image.fromarray(grey).save(tmp_path / "images" / f"disc{number}_img.png")
        Image.fromarray(tile.labels[:160, :160].astype(np.uint16)).save(tmp_path / "images" / f"disc{number}_mask.png")
    assert run_blocks(ROOT / "training" / "README.md", tmp_path)["bash"] == 12
    assert (tmp_path / "engines" / "manifest.json").is_file()
