"""Every command and every line of Python in README.md and docs/ runs, in order, in one directory for each page."""

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

import nbformat
import numpy as np
import pytest
import tifffile
from nbclient import NotebookClient
from PIL import Image

from tests.small import SMALL
from tests.training.evaluation.made import discs, write_pair
from tests.training.made_data import disc_tile
from training.recipe import NANO, load_recipe

ROOT = Path(__file__).parents[1]


def blocks(page: Path) -> list[tuple[str, str]]:
    """Return the language and content of the fenced blocks, in order."""
    return re.findall(r"```(\w+)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def run_blocks(page: Path, directory: Path, done: set[str] | None = None) -> dict[str, int]:
    """Run all bash and Python blocks.

    Args:
        page: a Markdown file.
        directory: where the commands run.
        done: commands that need not run again; this function adds those that it runs.

    Returns:
        The number of commands run, by language.
    """
    done = set() if done is None else done
    before = frozenset(done)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    ran: dict[str, int] = {}
    for language, content in blocks(page):
        if language in ("json", "dockerfile"):
            continue
        assert language in ("bash", "python"), language
        if language == "python":
            commands = [[sys.executable, "-c", content]]
        else:
            commands = [shlex.split(line, comments=True) for line in content.splitlines() if line.strip()]
        for command in commands:
            # Installing and testing happened before this test could run.
            if command[0] in ("pip", "make") or shlex.join(command) in before:
                continue
            result = subprocess.run(
                command, cwd=directory, env=environment, capture_output=True, text=True, check=False
            )
            assert result.returncode == 0, f"{shlex.join(command)}\n{result.stderr}"
            done.add(shlex.join(command))
            ran[language] = ran.get(language, 0) + 1
    return ran


@pytest.fixture
def with_cells(tmp_path: Path, image: Any) -> Path:
    """Make a folder with the image that pages call cells.png."""
    Image.fromarray(image).save(tmp_path / "cells.png")
    return tmp_path


def test_readme_and_own_weights(with_cells: Path, small_checkpoint: Path) -> None:
    """The pages run one after the other; commands that both contain run once."""
    shutil.copy(small_checkpoint, with_cells / "cellsam_general.pt")
    write_pair(with_cells / "data" / "made", "a", discs())
    done: set[str] = set()
    assert run_blocks(ROOT / "README.md", with_cells, done) == {"bash": 3, "python": 1}
    assert run_blocks(ROOT / "docs" / "weights.md", with_cells, done) == {"bash": 4}
    assert (with_cells / "labels" / "cells_labels.tif").is_file()


def test_getting_started(with_cells: Path) -> None:
    ran = run_blocks(ROOT / "docs" / "getting-started.md", with_cells)
    assert ran == {"bash": 4, "python": 1}
    assert (with_cells / "found" / "cells_overlay.png").is_file()
    assert (with_cells / "cells_rois.csv").is_file()


def test_index_and_services(with_cells: Path) -> None:
    done: set[str] = set()
    assert run_blocks(ROOT / "docs" / "index.md", with_cells, done) == {"python": 1}
    assert run_blocks(ROOT / "docs" / "services.md", with_cells, done) == {"python": 1, "bash": 2}


def test_cellpose_fiji_and_movies(with_cells: Path) -> None:
    assert run_blocks(ROOT / "docs" / "cellpose.md", with_cells) == {"bash": 3, "python": 1}
    assert {path.name for path in with_cells.glob("cells_*")} == {
        f"cells{ending}" for ending in ("_cp_masks.tif", "_rois.zip", "_seg.npy")
    }
    assert run_blocks(ROOT / "docs" / "fiji.md", with_cells) == {"bash": 1}
    assert run_blocks(ROOT / "docs" / "movies.md", with_cells) == {"bash": 1, "python": 1}
    assert (with_cells / "found" / "movie_RES" / "res_track.txt").is_file()


def test_backends_and_tensorrt(with_cells: Path, half_engines: Path) -> None:
    shutil.copytree(half_engines, with_cells / "engines")
    assert run_blocks(ROOT / "docs" / "backends.md", with_cells) == {"bash": 1}
    assert run_blocks(ROOT / "docs" / "tensorrt.md", with_cells) == {"bash": 2}


def test_worked_example(tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / "docs" / "worked-example.ipynb", as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", ()))
    counted = [int(number) for number in re.findall(r"(\d+) cells", printed)]
    assert 60 <= counted[0] <= 80
    assert counted[-1] < counted[0] / 2, "a diameter eight times too large"
    assert "'cells_labels.tif'" in printed


def test_the_readme_fits_a_screen() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 6000


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {path.name for path in (ROOT / "docs").iterdir() if path.suffix in (".md", ".ipynb")}
    assert pages == set(re.findall(r": ([\w-]+\.(?:md|ipynb))", text))


def test_slides_page(tmp_path: Path) -> None:
    assert run_blocks(ROOT / "docs" / "slides.md", tmp_path) == {"python": 2, "bash": 5}
    endings = ("_labels.tif", "_cells.csv", "_cells.geojson", "_labels.ome.tif", ".zarr", "_overlay.png")
    names = {f"slide{ending}" for ending in endings}
    assert {path.name for path in (tmp_path / "all").iterdir()} == {*names, "segmented.jsonl"}


def test_correction_page(tmp_path: Path) -> None:
    assert run_blocks(ROOT / "docs" / "correction.md", tmp_path) == {"bash": 11, "python": 1}
    assert (tmp_path / "data" / "dataset.json").is_file()
    assert {path.suffix for path in (tmp_path / "shared").iterdir()} == {".tif", ".geojson", ".zip", ".json"}


def test_folders_page(tmp_path: Path) -> None:
    assert run_blocks(ROOT / "docs" / "folders.md", tmp_path) == {"python": 1, "bash": 5}
    names = {f"field{number}{ending}" for number in range(3) for ending in ("_labels.tif", "_cells.csv")}
    one, other = ({p.name: p.read_bytes() for p in (tmp_path / d / "B02").iterdir()} for d in ("found", "found_too"))
    assert one == other
    assert set(one) == names
    assert tifffile.imread(tmp_path / "tiled" / "field0_labels.tif").max() > 0


def test_training_page(tmp_path: Path) -> None:
    """The page runs with few images, a small model and few steps. The recipe that it shows must exist."""
    shown = [content for language, content in blocks(ROOT / "docs" / "training.md") if language == "json"]
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
    assert run_blocks(ROOT / "docs" / "training.md", tmp_path)["bash"] == 12
    assert (tmp_path / "engines" / "manifest.json").is_file()
