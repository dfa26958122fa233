"""``verify`` on several images: one that fails is named, and the others are still compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from export.errors import VerificationError
from runtime.cli import app


def test_every_image_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    paths = [Path(f"{n}.npy") for n in range(3)]
    for n, path in enumerate(paths):
        np.save(path, np.full((4, 4), n))
    seen = []

    def verify(*_: Any, image: np.ndarray, **__: Any) -> list[str]:
        seen.append(int(image[0, 0]))
        if seen[-1] == 1:
            raise VerificationError("encoder: FAILED")
        return [f"encoder: ok on {seen[-1]}"]

    monkeypatch.setattr("export.exporter.verify_directory", verify)
    images = [argument for path in paths for argument in ("--image", str(path))]
    done = CliRunner().invoke(app, ["verify", "engines", "--checkpoint", "weights.pt", *images])
    assert done.exit_code == 1
    assert seen == [0, 1, 2]
    assert "encoder: ok on 0" in done.stdout
    assert "encoder: ok on 2" in done.stdout
    message = " ".join(done.stderr.split())
    assert "1.npy: encoder: FAILED" in message
