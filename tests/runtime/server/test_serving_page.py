"""The Python of the page about the server runs against a server, and the page names its routes and limits."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from typer.main import get_command

from runtime.commands.serve import LimitOptions
from runtime.server.client import Client
from runtime.server.options import MIB, Limits

PAGE = (Path(__file__).parents[3] / "docs" / "serving.md").read_text(encoding="utf-8")


def test_python_of_the_page_runs(
    live: Client, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(images / "fluorescence_img.png", tmp_path / "cells.png")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2, "the other block, for Triton's client, is tested in tests/hosts"
    exec(compile(blocks[0].replace("http://127.0.0.1:8000", str(live._http.base_url)), "serving.md", "exec"), {})
    most, count, iou = re.fullmatch(r"(\d+) (\d+) \[([\d.]+)\]\n", capsys.readouterr().out).groups()  # type: ignore[union-attr]
    assert int(most) >= int(count) > 0
    assert 0 < float(iou) < 1.5


def test_routes_of_the_page_exist(correcting: TestClient) -> None:
    paths = correcting.get("/openapi.json").json()["paths"]
    known = {re.sub(r"\{\w+\}", "{}", path): methods for path, methods in paths.items()}
    named = re.findall(r"`(GET|POST) (/(?:api|health|metrics)[^?`]*)", PAGE)
    assert len(named) >= 12
    for method, path in named:
        assert method.lower() in known[re.sub(r"\{\w+\}", "{}", path)], path


def test_limits_of_the_page_are_the_defaults() -> None:
    options, limits = LimitOptions(), Limits()
    assert options.max_upload * MIB == limits.upload_bytes
    assert options.max_pixels * 1e6 == limits.pixels
    assert (options.queue_size, options.cache * MIB) == (limits.queue, limits.embedding_bytes)
    defaults = {
        "max-upload": options.max_upload,
        "max-pixels": options.max_pixels,
        "queue": options.queue_size,
        "cache": options.cache,
    }
    for option, value in defaults.items():
        assert re.search(rf"\| `--{option}` \|.*\| {value:g} \|", PAGE), option


def test_options_of_the_page_exist() -> None:
    import typer

    from runtime.commands.serve import serve_command

    app = typer.Typer()
    app.command()(serve_command)
    known = {name for one in get_command(app).params for name in one.opts}
    for option in re.findall(r"(--(?:root|project|host|model|backend|max-\w+|queue|cache))\b", PAGE):
        assert option in known
