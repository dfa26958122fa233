"""The command ``cellsam-engine``. Results go to stdout, everything else to stderr.

Exit codes: 0 done; 1 something failed, be it an image, a file or directory that is missing, engines or a backend that
cannot be used; 2 wrong usage: an option or value that is not known, a setting outside its range; 130 interrupted. Other
packages add commands (``runtime.commands.plugins``).
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from runtime.commands.console import fail
from runtime.commands.plugins import Commands, missing_packages_named
from runtime.commands.segment import segment_command
from runtime.commands.segment_slide import segment_slide_command
from runtime.engines.builtin import builtin_engine, sample_images
from runtime.engines.manifest import Manifest, TensorSpec, describe_check, read_manifest
from runtime.errors import SegmenterError

app = typer.Typer(
    cls=Commands,
    help="Segment every cell of microscope images with exported CellSAM engines.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(version("cellsam-engine"))
        raise typer.Exit


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is chosen and why.")] = False,
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(name)s: %(message)s")
    # What it says of a damaged file is of use beside our own message only to who looks closer.
    logging.getLogger("tifffile").setLevel(logging.NOTSET if verbose else logging.CRITICAL)


app.command("segment")(segment_command)


@app.command()
def info(
    engine: Annotated[
        Path | None, typer.Argument(help="Engine directory; default: the built-in nano model.", metavar="DIR")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
    check: Annotated[bool, typer.Option(help="Compare the files with their hashes.")] = True,
) -> None:
    """Show what an engine directory holds and check that its files are unaltered."""
    from runtime.engines.manifest import check_files

    engine = engine or builtin_engine()
    try:
        manifest = read_manifest(engine)
        if check:
            check_files(engine, manifest)
        lines = (
            [json.dumps(asdict(manifest), indent=2)] if as_json else list(_describe(engine, manifest, checked=check))
        )
    except (SegmenterError, OSError) as error:
        fail(error)
    for line in lines:
        typer.echo(line)


@app.command()
def samples(
    out: Annotated[
        Path | None, typer.Option(help="Copy them into this directory; made if need be.", metavar="DIR")
    ] = None,
) -> None:
    """List the sample images of the package, or copy them."""
    for path in sample_images():
        if out is not None:
            try:
                out.mkdir(parents=True, exist_ok=True)
                path = Path(shutil.copy(path, out))
            except OSError as error:
                fail(error)
        typer.echo(path)


app.command("segment-slide")(segment_slide_command)


def _describe(directory: Path, manifest: Manifest, *, checked: bool) -> Iterator[str]:
    """What ``info`` shows, line by line."""
    weights: Mapping[str, Any] = manifest.weights
    rows = {
        "model input": f"{manifest.image_size} x {manifest.image_size} pixels",
        "preprocessing": manifest.profile,
        "trunk": manifest.trunk,
        "precision": manifest.precision,
        "target": manifest.target,
        "detector": "CellFinder" if manifest.has_detector else "none: boxes come from the user",
        "weights": f"{weights.get('format', '')}, sha256 {str(weights.get('sha256', ''))[:16]}",
        "licence": weights.get("licence", ""),
        "created": manifest.created,
    }
    for name, value in rows.items():
        yield f"{name:<14} {value}"
    for engine_name, spec in manifest.engines.items():
        size = (directory / spec.file).stat().st_size / 1e6
        fused = ", fused attention" if spec.attention == "fused" else ""
        integers = ", 8-bit integers" if spec.integers else ""
        yield f"{engine_name:<16} {spec.file}, {size:.1f} MB{fused}{integers}{', unaltered' if checked else ''}"
        yield from (_describe_tensor("in", tensor) for tensor in spec.inputs)
        yield from (_describe_tensor("out", tensor) for tensor in spec.outputs)
    outputs = manifest.verification.get("outputs")
    for output in outputs if isinstance(outputs, list | tuple) else ():
        yield f"{'verified':<14} {describe_check(output)}"


def _describe_tensor(kind: str, tensor: TensorSpec) -> str:
    return f"  {kind:<4} {tensor.name} {list(tensor.shape)} {tensor.dtype}"


def main() -> None:
    """Entry point of the console script."""
    with missing_packages_named():
        app()


if __name__ == "__main__":
    main()
