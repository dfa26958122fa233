"""The command ``made-by``: what made a result file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from runtime.commands.console import errors, fail, say
from runtime.errors import SegmenterError
from runtime.files.made_by import read_provenance
from runtime.provenance import Provenance, to_jsonable, to_pairs


def made_by_command(
    files: Annotated[list[Path], typer.Argument(help="Result files of any format except CSV.", metavar="FILE")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON for each file.", metavar="")] = False,
) -> None:
    """Print what made a result file: engines, backend, devices and versions.

    Exit code 0: done, 1: a file cannot be read or does not say what made it.
    """
    unknown = []
    for path in files:
        try:
            records = read_provenance(path)
        except (SegmenterError, OSError) as error:
            fail(error)
        if as_json:
            say(json.dumps({"path": str(path), "made_by": to_jsonable(records)}))
        elif records:
            say("\n".join([str(path), *(line for one in records for line in _lines(one))]))
        if not records:
            unknown.append(path)
    for path in unknown:
        errors.print(f"{path} does not say what made it: its labels did not come from a segmenter", markup=False)
    if unknown:
        raise typer.Exit(1)


def _lines(record: Provenance) -> list[str]:
    """Format a record, one value a line."""
    return [f"  {name:<32} {value}" for name, value in to_pairs(record).items()]
