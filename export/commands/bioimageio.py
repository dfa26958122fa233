"""Command ``export-bioimageio`` of ``cellsam-engine``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runtime.commands.console import errors, fail
from runtime.commands.settings import model_directory
from runtime.engines.builtin import BUILTIN_NAME
from runtime.errors import SegmenterError


def export_bioimageio_command(
    model: Annotated[str, typer.Argument(help=f"Engine directory, or {BUILTIN_NAME}.", metavar=f"{BUILTIN_NAME}|DIR")],
    out: Annotated[Path, typer.Option(help="Zip file to write.", metavar="ZIP")],
    name: Annotated[str | None, typer.Option(help="Title of the model; default: that of the built-in model.")] = None,
    author: Annotated[str | None, typer.Option(help="Author of the package.")] = None,
    licence: Annotated[
        str | None, typer.Option(help="SPDX identifier of the licence; default: the manifest's.", metavar="SPDX")
    ] = None,
    channels: Annotated[int, typer.Option(help="Channels of the images.", min=1, max=3)] = 1,
) -> None:
    """Write a bioimage.io package: one ONNX file from an image to its labels.

    The file is compared with Segmenter on the sample images. It segments one view of fixed size. Needs the extra
    'bioimageio'.
    """
    try:
        from export.bioimageio.package import PackageOptions, write_package
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        from export.errors import ExportError
        from runtime.extras import install_command

        missing = f"'export-bioimageio' needs the package 'onnx'. Install it: {install_command('bioimageio')}."
        fail(ExportError(missing, kind="not_installed"))
    given = {"name": name, "author": author, "licence": licence}
    try:
        options = PackageOptions(channels=channels, **{key: value for key, value in given.items() if value is not None})
        for one in write_package(model_directory(model), out, options):
            errors.print(str(one), markup=False)
    except (SegmenterError, OSError) as error:
        fail(error)
    typer.echo(out)
