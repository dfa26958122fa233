"""Images and a home folder for the tests of Cellpose's interfaces."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

from runtime.engines.builtin import sample_images
from runtime.files.plain import read_image


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give each test a home folder, where ``--verbose`` writes a log, and undo the logging set-up."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield home
    for handler in [handler for handler in root.handlers if handler not in handlers]:
        handler.close()
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder with two images, in gray and in two channels, as QuPath's extension names them."""
    gray = read_image(sample_images()[0])[:160, :160]
    gray = gray if gray.ndim == 2 else gray[..., 0]
    folder = tmp_path / "tiles"
    folder.mkdir()
    tifffile.imwrite(folder / "Temp_0_0_z0_t0.tif", gray, imagej=True)
    two = np.stack([gray, gray[::-1]])
    tifffile.imwrite(folder / "Temp_160_0_z0_t0.tif", two, imagej=True, metadata={"axes": "CYX"})
    return folder
