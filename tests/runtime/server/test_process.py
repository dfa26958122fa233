"""Tests of the command: a process that answers, and that signals end as they end the other commands."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from runtime.commands.app import app
from runtime.results import Segmentation
from runtime.server.client import Client, ServerError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")

COMMAND = [sys.executable, "-m", "runtime", "serve", "--port", "0"]
TOKEN = "token-of-the-process"


@contextmanager
def served(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a server; yield the process and its address."""
    with subprocess.Popen(
        [*COMMAND, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"CELLSAM_TOKEN": TOKEN},
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.fullmatch(r"cellsam-engine is ready at (http://127\.0\.0\.1:\d+/)\n", line)
            assert found is not None, (line, process.stderr and process.stderr.read())
            yield process, found[1]
        finally:
            process.kill()


def test_a_process_segments_and_ends_with_ctrl_c(images: Path, found: Segmentation) -> None:
    with served("--root", str(images)) as (process, address):
        with Client(address, token=TOKEN) as client:
            np.testing.assert_array_equal(client.labels(images / "part.tif"), found.labels)
            with pytest.raises(ServerError) as caught, Client(address) as stranger:
                stranger.health()
            assert caught.value.status == 401
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.splitlines()[-1]) == (130, "interrupted"), errors


def test_sigterm_ends_a_process_with_an_open_stream(project: Path) -> None:
    with served("--project", str(project)) as (process, address), Client(address, token=TOKEN) as client:
        with client._http.stream("GET", "/api/events", timeout=60) as stream:
            lines = stream.iter_lines()
            assert next(lines) == "retry: 2000"
            process.send_signal(signal.SIGTERM)
            assert [line for line in lines if line] == [], "the stream ends"
        process.wait(60)
    assert process.returncode == 143
    assert not list(project.glob("*lock*/*")), "the project is free for the next process"


def test_a_used_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = CliRunner().invoke(app, ["serve", "--port", str(port)])
    assert done.exit_code == 2
    assert f"port {port}" in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "no token is given"),
        (["--token", "short"], "token has 5 characters"),
        (["--root", "missing"], "root is missing, not a directory"),
        (["--port", "70000"], "port is 70000"),
    ],
)
def test_wrong_usage_is_exit_code_two(options: list[str], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CELLSAM_TOKEN", raising=False)
    done = CliRunner().invoke(app, ["serve", *options])
    assert done.exit_code == 2
    assert message in done.stderr


def test_what_is_no_project_is_exit_code_one(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["serve", "--port", "0", "--project", str(tmp_path)])
    assert done.exit_code == 1
    assert str(tmp_path) in done.stderr
