"""Command ``python -m export.kernels``: compile the GPU kernels for the runtime."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from export.kernels.table import CAPABILITIES

_ALL = ",".join(f"{number / 10:.1f}" for number in CAPABILITIES)


def main(
    out: Annotated[
        Path, typer.Option("--out", help="Directory to write: 'kernels' in an engine directory.", metavar="DIR")
    ],
    compute_capability: Annotated[
        str, typer.Option(help="Compute capabilities of the GPUs, separated by commas.", metavar="LIST")
    ] = _ALL,
) -> None:
    """Compile the GPU kernels for contrast and mask assembly; needs no GPU."""
    from export.kernels.compile import compile_kernels

    given = compute_capability.split(",")
    if not all(re.fullmatch(r"\d{1,2}\.\d", one) for one in given):
        raise typer.BadParameter(
            f"{compute_capability!r} is not a list of compute capabilities; expected one such as 8.6,9.0. Look yours "
            "up with nvidia-smi --query-gpu=compute_cap --format=csv."
        )
    compile_kernels(
        out,
        capabilities=[int(one.replace(".", "")) for one in given],
        progress=lambda line: typer.echo(line, err=True),
    )
    typer.echo(out)


if __name__ == "__main__":
    typer.run(main)
