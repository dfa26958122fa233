"""The command ``export-triton``: a model repository for Triton Inference Server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runtime.commands.console import errors, fail, say
from runtime.commands.settings import model_directory
from runtime.engines.backends.input_shapes import BOXES_ON_GPU, IMAGES_ON_GPU
from runtime.engines.builtin import BUILTIN_NAME
from runtime.errors import ConfigError, SegmenterError

_FLAGS = {"max_batch": "--max-batch", "max_boxes": "--max-boxes", "most_requests": "--requests", "name": "--name"}


def export_triton_command(
    model: Annotated[str, typer.Argument(help=f"Engine directory, or {BUILTIN_NAME}.", metavar=f"{BUILTIN_NAME}|DIR")],
    out: Annotated[Path, typer.Option(help="Model repository; other models in it stay.", metavar="REPO")],
    name: Annotated[str, typer.Option(help="Name of the model that clients call.")] = "cellsam",
    max_batch: Annotated[
        int, typer.Option(help="Most images per call of the encoder and the detector; bounds their memory.")
    ] = IMAGES_ON_GPU,
    max_boxes: Annotated[int, typer.Option(help="Most boxes per call of the mask decoder.")] = BOXES_ON_GPU,
    requests: Annotated[int, typer.Option(help="Most requests whose boxes share decoder calls.")] = 16,
) -> None:
    """Write a model repository for NVIDIA's Triton Inference Server.

    Each network becomes an ONNX model. A Python model chains them; the Python that Triton runs needs cellsam-engine.
    """
    from runtime.triton.repository import RepositoryOptions, write_repository

    try:
        options = RepositoryOptions(name=name, max_batch=max_batch, max_boxes=max_boxes, most_requests=requests)
        models = write_repository(model_directory(model), out, options)
    except ConfigError as error:
        fail(error, code=2, flags=_FLAGS)
    except (SegmenterError, OSError) as error:
        fail(error, flags=_FLAGS)
    errors.print(f"models: {', '.join(models)}", markup=False)
    say(out)
