"""The command ``cellsam-engine``. Results go to stdout, everything else to stderr.

Exit codes: 0 done, 1 something failed, 2 wrong usage. Packages above ``runtime`` add commands through the entry
point group ``cellsam_engine.commands``, so that importing this module never imports them.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from runtime.config import BoxThresholdMode, MaskWindow, Overlap, SegmentConfig
from runtime.errors import InputError, SegmenterError
from runtime.manifest import read_manifest
from runtime.results import Segmentation

COMMANDS = "cellsam_engine.commands"
"""Entry point group through which other packages add their commands."""

errors = Console(stderr=True, soft_wrap=True, highlight=False)

app = typer.Typer(
    help="Segment every cell of microscope images with exported CellSAM engines.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def fail(error: Exception) -> NoReturn:
    """Print an error and leave with exit code 1."""
    errors.print(f"error: {error}", style="bold red", markup=False)
    raise typer.Exit(1)


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


@app.command()
def segment(
    images: Annotated[list[Path], typer.Argument(help="Images: PNG, JPEG, TIFF or npy.", metavar="IMAGE...")],
    engine: Annotated[Path, typer.Option(help="Engine directory, made by 'export'.", metavar="DIR")],
    out: Annotated[Path, typer.Option(help="Directory for label images and tables.", metavar="DIR")],
    backend: Annotated[str, typer.Option(help="auto or cpu.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads; default, one per core.", min=1)] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace results that exist.")] = False,
    box_threshold: Annotated[float | None, typer.Option(help="Base cut on box scores.")] = None,
    box_threshold_mode: Annotated[
        BoxThresholdMode | None, typer.Option(help="'adaptive' blends the cut with the image's own scores.")
    ] = None,
    iou_threshold: Annotated[float | None, typer.Option(help="Least IoU estimate of a mask.")] = None,
    mask_threshold: Annotated[float | None, typer.Option(help="Least probability of a mask's pixel.")] = None,
    mask_window: Annotated[MaskWindow | None, typer.Option(help="Where masks are computed.")] = None,
    overlap: Annotated[Overlap | None, typer.Option(help="Who gets a pixel that several masks claim.")] = None,
    min_area: Annotated[int | None, typer.Option(help="Least area of a cell, pixels.", min=0)] = None,
    fill_holes: Annotated[bool | None, typer.Option(help="Fill holes inside cells.")] = None,
) -> None:
    """Segment images: NAME_labels.tif (0 = background, 1..n cells) and NAME_cells.csv (boxes and scores) each.

    Settings not given come from the engine's manifest. An image that cannot be segmented is reported at the end, with
    exit code 1; the others are written.
    """
    from runtime.backends import BackendOptions
    from runtime.segmenter import Segmenter

    given = {
        "box_threshold": box_threshold,
        "box_threshold_mode": box_threshold_mode,
        "iou_threshold": iou_threshold,
        "mask_threshold": mask_threshold,
        "mask_window": mask_window,
        "overlap": overlap,
        "min_area_px": min_area,
        "fill_holes": fill_holes,
    }
    try:
        targets = _targets(images, out)
        config = _config(engine, given)
        segmenter = Segmenter(engine, backend=backend, config=config, options=BackendOptions(threads=threads))
        out.mkdir(parents=True, exist_ok=True)
    except (SegmenterError, OSError) as error:
        fail(error)
    failed = _each(targets, lambda path, stem: _segment_file(segmenter, path, stem, overwrite=overwrite))
    if failed:
        errors.print(f"{len(failed)} of {len(targets)} images failed:", style="bold red")
        for path, reason in failed:
            errors.print(f"  {path}: {reason}", markup=False)
        raise typer.Exit(1)


@app.command()
def info(
    engine: Annotated[Path, typer.Argument(help="Engine directory.", metavar="DIR")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
    check: Annotated[bool, typer.Option(help="Compare the files with their hashes.")] = True,
) -> None:
    """Show what an engine directory holds and check that its files are unaltered."""
    from runtime.manifest import check_files

    try:
        manifest = read_manifest(engine)
        if check:
            check_files(engine, manifest)
    except SegmenterError as error:
        fail(error)
    if as_json:
        typer.echo(json.dumps(asdict(manifest), indent=2))
        return
    rows = [
        ("model input", f"{manifest.image_size} x {manifest.image_size} pixels"),
        ("preprocessing", manifest.profile),
        ("trunk", manifest.trunk),
        ("precision", manifest.precision),
        ("detector", "CellFinder" if manifest.has_detector else "none: boxes come from the user"),
        (
            "weights",
            f"{manifest.weights.get('format', '')}, sha256 {manifest.weights.get('sha256', '')[:16]}",
        ),
        ("licence", manifest.weights.get("licence", "")),
        ("created", manifest.created),
    ]
    for name, value in rows:
        typer.echo(f"{name:<14} {value}")
    for engine_name, spec in manifest.engines.items():
        size = (engine / spec.file).stat().st_size / 1e6
        typer.echo(f"{engine_name:<16} {spec.file}, {size:.1f} MB{', unaltered' if check else ''}")
        for kind, tensors in (("in", spec.inputs), ("out", spec.outputs)):
            for tensor in tensors:
                typer.echo(f"  {kind:<4} {tensor.name} {list(tensor.shape)} {tensor.dtype}")
    for output in manifest.verification.get("outputs", ()):
        typer.echo(
            f"verified       {output['stage']}.{output['output']}: largest error {output['max_abs_error']:.2g}, "
            f"{output['mismatches_per_million']:.0f} mismatches per million"
        )


def _config(engine: Path, given: dict[str, Any]) -> SegmentConfig:
    return replace(read_manifest(engine).config, **{k: v for k, v in given.items() if v is not None})


def _targets(images: list[Path], out: Path) -> list[tuple[Path, Path]]:
    """Each image with the path its results begin with.

    Raises:
        InputError: two images would write the same files.
    """
    targets: dict[Path, Path] = {}
    for image in images:
        stem = out / image.stem
        if stem in targets:
            raise InputError(f"{targets[stem]} and {image} would both write {stem}_labels.tif; rename one of them.")
        targets[stem] = image
    return [(image, stem) for stem, image in targets.items()]


def _each(
    targets: list[tuple[Path, Path]], work: Callable[[Path, Path], tuple[Segmentation, Path]]
) -> list[tuple[Path, str]]:
    """Run ``work`` on every image under a progress bar; return what failed and why."""
    failed = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, disable=not errors.is_terminal) as progress:
        task = progress.add_task("segmenting", total=len(targets))
        for image, stem in targets:
            progress.update(task, description=image.name)
            try:
                result, written = work(image, stem)
            except (SegmenterError, OSError, MemoryError) as error:
                failed.append((image, str(error) or type(error).__name__))
            else:
                typer.echo(f"{image}\t{result.count} cells\t{written}")
            progress.advance(task)
    return failed


def _segment_file(segmenter: Any, image: Path, stem: Path, *, overwrite: bool) -> tuple[Segmentation, Path]:
    from runtime.files import read_image, write_labels, write_table

    labels, table = Path(f"{stem}_labels.tif"), Path(f"{stem}_cells.csv")
    existing = [str(path) for path in (labels, table) if path.exists()]
    if existing and not overwrite:
        raise InputError(f"{' and '.join(existing)} exist; pass --overwrite to replace them.")
    result: Segmentation = segmenter(read_image(image))
    write_labels(labels, result.labels)
    write_table(table, result)
    return result, labels


def _add_commands() -> None:
    """Add the commands of the packages above this one; their modules import what is heavy only when called."""
    for entry in sorted(entry_points(group=COMMANDS)):
        command = entry.load()
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=entry.name)
        else:
            app.command(entry.name)(command)


def main() -> None:
    """Entry point of the console script."""
    _add_commands()
    try:
        app()
    except ModuleNotFoundError as error:
        extras = {entry.name: entry.value.split(".")[0] for entry in entry_points(group=COMMANDS)}
        name = next((argument for argument in sys.argv[1:] if argument in extras), None)
        if name is None:
            raise
        errors.print(
            f"error: '{name}' needs the package {error.name!r}, which is not installed. "
            f"Install it: pip install 'cellsam-engine[{extras[name]}]'.",
            style="bold red",
            markup=False,
        )
        sys.exit(1)
