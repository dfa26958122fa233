"""Where commands talk to the user: errors, progress and remarks on stderr; options that several commands have."""

from __future__ import annotations

from typing import Annotated, NoReturn

import typer
from rich.console import Console

errors = Console(stderr=True, soft_wrap=True, highlight=False)

ClusterOption = Annotated[
    str | None,
    typer.Option(
        help="'local': worker processes here, each with a GPU of its own where the backend runs on GPUs; else the "
        "address of a Dask scheduler."
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        help="Processes of a local cluster; default: one a GPU where the backend runs on GPUs, else one a core. More "
        "than GPUs share them in turn.",
        min=1,
    ),
]
InvertOption = Annotated[
    bool, typer.Option("--invert", help="The cells are dark on a bright ground, and the model knows bright ones.")
]
CudaGraphsOption = Annotated[
    bool, typer.Option("--cuda-graphs", help="cuda: replay CUDA graphs for sizes that come again; see the README.")
]


def fail(error: Exception, code: int = 1) -> NoReturn:
    """Print an error and leave with this exit code."""
    errors.print(f"error: {error}", style="bold red", markup=False)
    raise typer.Exit(code)
