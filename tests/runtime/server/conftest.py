"""Servers for the tests: in the process without a port, in a thread with one, and a project to correct."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from fastapi.testclient import TestClient

from runtime.correction.project import Project
from runtime.engines.builtin import sample_images
from runtime.files.plain import read_image
from runtime.jobs.segmenter_spec import SegmenterSpec, loaded_segmenter
from runtime.results import Segmentation
from runtime.segmenter import Segmenter
from runtime.server.app import create_app
from runtime.server.client import Client
from runtime.server.options import ServerOptions

ENGINES = SegmenterSpec(backend="cpu")
LOCAL = "http://localhost"


@pytest.fixture(scope="session")
def segmenter() -> Segmenter:
    """Return the segmenter that all servers of this process share."""
    return loaded_segmenter(ENGINES)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two small images."""
    folder = tmp_path_factory.mktemp("served")
    for path in sample_images():
        if path.name.startswith("fluorescence"):
            shutil.copy(path, folder)
    import tifffile

    tifffile.imwrite(folder / "part.tif", read_image(folder / "fluorescence_img.png")[:120, :160])
    return folder


@pytest.fixture(scope="session")
def found(segmenter: Segmenter, images: Path) -> Segmentation:
    """Return the cells of ``part.tif``."""
    return segmenter(read_image(images / "part.tif"))


@pytest.fixture(scope="module")
def client(images: Path) -> Iterator[TestClient]:
    """Return a client of a server that reads the folder of images."""
    with TestClient(create_app(ServerOptions(engines=ENGINES, root=images)), base_url=LOCAL) as client:
        yield client


@pytest.fixture
def project(images: Path, tmp_path: Path) -> Path:
    """Return a project of the images."""
    folder = tmp_path / "project"
    Project.create(folder, sorted(images.iterdir())).close()
    return folder


@pytest.fixture
def correcting(project: Path) -> Iterator[TestClient]:
    """Return a client of a server with a project."""
    with TestClient(create_app(ServerOptions(engines=ENGINES, project=project)), base_url=LOCAL) as client:
        yield client


@pytest.fixture(scope="module")
def live(images: Path) -> Iterator[Client]:
    """Return a client of a server that listens on a port, in a thread."""
    app = create_app(ServerOptions(engines=ENGINES, root=images))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    with Client(f"http://127.0.0.1:{port}") as client:
        yield client
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()
