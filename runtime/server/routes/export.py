"""Routes that export the cells of a project to files."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import quote

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from runtime.correction.export_labels import WITH_LABELS, export_labels
from runtime.correction.journal import State
from runtime.files.image_results import result_name
from runtime.server.images.answers import label_png
from runtime.server.work.projects import ServedProject

OneFormat = Literal["tiff", "png", "geojson", "imagej", "deepcell-label"]

_TYPES = {"tiff": "image/tiff", "geojson": "application/geo+json"}
"""Media types of formats that are not zip files."""


def export_router(served: ServedProject) -> APIRouter:
    """Build the routes."""
    router = APIRouter(prefix="/api/project", tags=["export"])
    project = served.project

    @router.get("/images/{key}/export", response_class=Response)
    def export_one(key: str, format: OneFormat = "tiff") -> Response:
        """Return the cells of an image as a file."""
        name = served.name(key)
        if format == "png":
            file_name, content = f"{result_name(Path(name))}_labels.png", label_png(project.labels(name))
            return Response(content, headers=_attachment(file_name), media_type="image/png")
        with tempfile.TemporaryDirectory(prefix="cellsam-engine-") as directory:
            (path,) = export_labels(project, directory, [format], names=[name], states=get_args(State))
            kind = _TYPES.get(format, "application/zip")
            return Response(path.read_bytes(), headers=_attachment(path.name), media_type=kind)

    @router.get("/export", response_class=FileResponse)
    def export_all(format: str = "tiff", state: str | None = None) -> FileResponse:
        """Return the cells of all images, or those in some states, as a zip file.

        Args:
            format: names of formats, with commas.
            state: states, with commas; default: all but new.
        """
        states = WITH_LABELS if state is None else tuple(state.split(","))
        directory = Path(tempfile.mkdtemp(prefix="cellsam-engine-"))
        remove = BackgroundTask(shutil.rmtree, directory, ignore_errors=True)
        try:
            archive = directory / "labels.zip"
            with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
                out = directory / "files"
                for path in export_labels(project, out, format.split(","), states=states):
                    file.write(path, path.relative_to(out).as_posix())
                    path.unlink()
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        name = f"{project.directory.resolve().name}_labels.zip"
        return FileResponse(archive, headers=_attachment(name), media_type="application/zip", background=remove)

    return router


def _attachment(name: str) -> dict[str, str]:
    """Name a file for the browser (RFC 6266)."""
    return {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}"}
