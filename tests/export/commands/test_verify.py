"""``verify`` on several images names those that fail, and still compares the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from export.errors import VerificationError
from export.exporter import verify_directory
from runtime import BackendError
from runtime.commands.app import app


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


def test_the_backend_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("export.exporter.verify_directory", lambda *_, backend, **__: seen.append(backend) or [])
    for given in ([], ["--backend", "cuda"]):
        done = CliRunner().invoke(app, ["verify", "engines", "--checkpoint", "weights.pt", *given])
        assert done.exit_code == 0, done.stderr
    assert seen == ["cpu", "cuda"]
    done = CliRunner().invoke(app, ["verify", "engines", "--checkpoint", "weights.pt", "--backend", "gpu"])
    assert (done.exit_code, "'gpu' is not one of" in done.stderr) == (2, True)


def test_an_unknown_backend_is_rejected_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="backend is 'gpu'; expected one of"):
        verify_directory(tmp_path, tmp_path / "no weights.pt", backend="gpu")


def test_engines_run_on_another_backend(
    half_engines: Path, calm_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    from runtime.engines.backends.openvino import OpenVinoEngine

    run, ran = OpenVinoEngine.run, []

    def recorded(self: OpenVinoEngine, feeds: Any, **options: Any) -> Any:
        ran.append(sorted(feeds))
        return run(self, feeds, **options)

    monkeypatch.setattr(OpenVinoEngine, "run", recorded)
    checks = verify_directory(half_engines, calm_checkpoint, backend="openvino")
    assert all(check.passed for check in checks)
    assert ran[:2] == [["pixel_values"], ["patch_features"]]
    assert all("boxes_xyxy_model" in inputs for inputs in ran[2:])
