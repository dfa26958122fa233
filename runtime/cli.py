"""The command ``cellsam-engine``. Results go to stdout, everything else to stderr.

Exit codes: 0 done, 1 something failed, 2 wrong usage, 130 interrupted. Other packages add commands
(``runtime.commands``).
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from runtime.backends.base import CpuPrecision
from runtime.builtin import builtin_engine, sample_images
from runtime.commands import Commands, missing_packages_named
from runtime.config import BoxThresholdMode, MaskWindow, Overlap, SegmentConfig
from runtime.console import errors, fail
from runtime.errors import ConfigError, EngineError, SegmenterError
from runtime.manifest import Manifest, TensorSpec, describe_check, read_manifest
from runtime.results import Segmentation
from runtime.slides.cli import segment_slide_command

EngineDir = Annotated[
    Path | None,
    typer.Option(help="Engine directory, made by 'export'; default: the built-in nano model.", metavar="DIR"),
]

FROM_MANIFEST = "default: the manifest's"

Target = tuple[Path, Path]
"""An image, and the path its results begin with."""

Failure = tuple[Path, str]
"""An image, and why it has no result."""


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


@app.command()
def segment(
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Images: TIFF, OME-TIFF, OME-Zarr, PNG, JPEG, npy or whole slides; directories of them; patterns.",
            metavar="IMAGE...",
            readable=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="Directory for the results; made if need be.", metavar="DIR")],
    engine: EngineDir = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="What is written, several with commas or repeated: tiff and csv (the default), ome-tiff, ome-zarr, "
            "geojson (QuPath), parquet.",
            metavar="NAME,...",
        ),
    ] = None,
    nuclear: Annotated[
        str | None, typer.Option(help="Channel of the nuclei, by name or number from 0.", metavar="CHANNEL")
    ] = None,
    membrane: Annotated[
        str | None, typer.Option(help="Channel of whole cells (membrane, cytoplasm).", metavar="CHANNEL")
    ] = None,
    rgb: Annotated[
        bool, typer.Option("--rgb", help="Colour image: all three planes as they are; files that say so need it not.")
    ] = False,
    time: Annotated[int | None, typer.Option(help="Time point of a series, from 0.", min=0)] = None,
    z: Annotated[int | None, typer.Option("--z", help="Plane of a stack, from 0.", min=0)] = None,
    series: Annotated[
        str | None, typer.Option(help="Image of a file that holds several, by name or number from 0.")
    ] = None,
    pixel_size: Annotated[
        float | None, typer.Option(help="Side of a pixel, micrometres; default: what the file says.")
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", help="Look into directories of directories.")] = False,
    overlay: Annotated[bool, typer.Option(help="Also write NAME_overlay.png: the image with outlined cells.")] = False,
    backend: Annotated[
        str,
        typer.Option(
            help="What runs the engines: cpu (onnxruntime), openvino (CPU), cuda (onnxruntime, NVIDIA GPU), tensorrt "
            "(NVIDIA GPU, with plans that 'build' made on this machine), or auto, the fastest of them here."
        ),
    ] = "auto",
    cpu_precision: Annotated[
        CpuPrecision, typer.Option(help="openvino: compute in fp32 or bf16; auto, bf16 where the processor has it.")
    ] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: one per physical core.", min=1)] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace results that exist.")] = False,
    diameter: Annotated[
        float | None, typer.Option(help="Median diameter of the cells, image pixels; default: measured.", min=0.1)
    ] = None,
    view_diameter: Annotated[
        float | None,
        typer.Option(
            help="Median diameter at which the model sees cells, model pixels: images are shown in tiles at that "
            f"scale; 0 shows them whole; {FROM_MANIFEST}.",
            min=0,
        ),
    ] = None,
    box_threshold: Annotated[
        float | None,
        typer.Option(help=f"Base cut on box scores, in [0, 1]; up to 1.5 in adaptive mode; {FROM_MANIFEST}."),
    ] = None,
    box_threshold_mode: Annotated[
        BoxThresholdMode | None,
        typer.Option(
            help="'fixed': the cut is --box-threshold. 'adaptive': blended with the image's own scores; "
            f"{FROM_MANIFEST}."
        ),
    ] = None,
    nms_iou: Annotated[
        float | None,
        typer.Option(help=f"Drop boxes that overlap a better one by more than this IoU; 1 keeps all; {FROM_MANIFEST}."),
    ] = None,
    iou_threshold: Annotated[
        float | None,
        typer.Option(help=f"Least IoU estimate of a mask, about 0 to 1 but not clamped; {FROM_MANIFEST}."),
    ] = None,
    mask_threshold: Annotated[
        float | None, typer.Option(help=f"Least probability of a mask's pixel, in (0, 1); {FROM_MANIFEST}.")
    ] = None,
    mask_window: Annotated[
        MaskWindow | None,
        typer.Option(
            help=f"Where masks are computed: 'box', the box and a margin, or 'full', the whole image; {FROM_MANIFEST}."
        ),
    ] = None,
    overlap: Annotated[
        Overlap | None,
        typer.Option(
            help="Who gets a pixel that several masks claim: 'argmax', the most probable, or 'last', the mask with "
            f"the highest index; {FROM_MANIFEST}."
        ),
    ] = None,
    min_area: Annotated[
        int | None, typer.Option(help=f"Least area of a cell, pixels; 0 keeps all; {FROM_MANIFEST}.", min=0)
    ] = None,
    fill_holes: Annotated[bool | None, typer.Option(help=f"Fill holes inside cells; {FROM_MANIFEST}.")] = None,
) -> None:
    """Segment images: NAME_labels.tif (0 = background, 1..n cells) and NAME_cells.csv (boxes and scores) each.

    Other files: --format. Images of the package to try it on: 'cellsam-engine samples'.

    Settings not given come from the engine's manifest. An image that cannot be segmented is reported at the end, with
    exit code 1; the others are written.
    """
    from runtime.backends import BackendOptions
    from runtime.formats import Plane
    from runtime.inputs import find_images, result_stems
    from runtime.outputs.formats import check_packages, parse_formats
    from runtime.segment_files import FileOptions
    from runtime.segmenter import Segmenter

    given = {
        "diameter_px": diameter,
        "view_diameter_px": view_diameter,
        "box_threshold": box_threshold,
        "box_threshold_mode": box_threshold_mode,
        "nms_iou": nms_iou,
        "iou_threshold": iou_threshold,
        "mask_threshold": mask_threshold,
        "mask_window": mask_window,
        "overlap": overlap,
        "min_area_px": min_area,
        "fill_holes": fill_holes,
    }
    try:
        files = FileOptions(
            series=series,
            plane=Plane(time=time, z=z, pages_are_channels=nuclear is not None or membrane is not None),
            nuclear=nuclear,
            membrane=membrane,
            rgb=rgb,
            pixel_size_um=pixel_size,
            formats=parse_formats(formats or ()),
            overlay=overlay,
            overwrite=overwrite,
        )
        check_packages(files.formats)
        found = find_images(images, recursive=recursive, out=out, endings=files.endings)
        targets = result_stems(found, out, files.endings)
        engine = engine or builtin_engine()
        config = _config(engine, read_manifest(engine), given)
        options = BackendOptions(threads=threads, cpu_precision=cpu_precision)
        segmenter = Segmenter(engine, backend=backend, config=config, options=options)
        out.mkdir(parents=True, exist_ok=True)
    except ConfigError as error:
        fail(error, code=2)
    except (SegmenterError, OSError) as error:
        fail(error)
    failed: list[Failure] = []
    try:
        _each(
            targets,
            lambda path, stem: _segment_file(segmenter, path, stem, options=files),
            failed,
        )
    except KeyboardInterrupt:
        _report(failed, len(targets))
        errors.print("interrupted", style="bold red")
        raise typer.Exit(130) from None
    if failed:
        _report(failed, len(targets))
        raise typer.Exit(1)


@app.command()
def info(
    engine: Annotated[
        Path | None, typer.Argument(help="Engine directory; default: the built-in nano model.", metavar="DIR")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
    check: Annotated[bool, typer.Option(help="Compare the files with their hashes.")] = True,
) -> None:
    """Show what an engine directory holds and check that its files are unaltered."""
    from runtime.manifest import check_files

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
        "detector": "CellFinder" if manifest.has_detector else "none: boxes come from the user",
        "weights": f"{weights.get('format', '')}, sha256 {str(weights.get('sha256', ''))[:16]}",
        "licence": weights.get("licence", ""),
        "created": manifest.created,
    }
    for name, value in rows.items():
        yield f"{name:<14} {value}"
    for engine_name, spec in manifest.engines.items():
        size = (directory / spec.file).stat().st_size / 1e6
        yield f"{engine_name:<16} {spec.file}, {size:.1f} MB{', unaltered' if checked else ''}"
        yield from (_describe_tensor("in", tensor) for tensor in spec.inputs)
        yield from (_describe_tensor("out", tensor) for tensor in spec.outputs)
    outputs = manifest.verification.get("outputs")
    for output in outputs if isinstance(outputs, list | tuple) else ():
        yield f"{'verified':<14} {describe_check(output)}"


def _describe_tensor(kind: str, tensor: TensorSpec) -> str:
    return f"  {kind:<4} {tensor.name} {list(tensor.shape)} {tensor.dtype}"


def _config(engine: Path, manifest: Manifest, given: Mapping[str, Any]) -> SegmentConfig:
    """The manifest's settings with those of the command line.

    Raises:
        EngineError: the engines find no boxes, and the command line cannot give them.
        ConfigError: a setting outside its range.
    """
    if not manifest.has_detector:
        raise EngineError(
            f"{engine} has no detector, so boxes must be given, which the command line cannot do. "
            "Use Python: Segmenter(engine)(image, boxes=...)."
        )
    changes = {k: v for k, v in given.items() if v is not None}
    if changes.get("view_diameter_px") == 0:
        changes["view_diameter_px"] = None
    return replace(manifest.config, **changes)


def _each(
    targets: list[Target], work: Callable[[Path, Path], tuple[Segmentation, Path]], failed: list[Failure]
) -> None:
    """Run ``work`` on every image under a progress bar; add what fails, and why, to ``failed``."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # `_say` decides where lines go; Rich would take stdout to this console even where it is redirected.
    with Progress(*columns, console=errors, disable=not errors.is_terminal, redirect_stdout=False) as progress:
        task = progress.add_task("segmenting", total=len(targets))
        for image, stem in targets:
            progress.update(task, description=escape(image.name))
            try:
                result, written = work(image, stem)
            except (SegmenterError, OSError, MemoryError) as error:
                failed.append((image, _reason(error, image)))
            else:
                _say(progress, f"{image}\t{result.count} cells\t{written}")
            progress.advance(task)


def _say(progress: Progress, line: str) -> None:
    """Print to stdout; where it and the progress bar share a terminal, above the bar."""
    if sys.stdout.isatty() and not progress.disable:
        progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
    else:
        typer.echo(line)


def _reason(error: Exception, image: Path) -> str:
    if isinstance(error, OSError) and error.strerror:
        of_image = error.filename is None or str(error.filename) == str(image)
        return error.strerror if of_image else f"{error.strerror}: {error.filename}"
    return str(error) or type(error).__name__


def _report(failed: list[Failure], count: int) -> None:
    """List the images that failed, each named once: many reasons begin with the path."""
    if not failed:
        return
    errors.print(f"{len(failed)} of {count} images failed:", style="bold red")
    for path, reason in failed:
        errors.print(f"  {reason}" if reason.startswith(f"{path} ") else f"  {path}: {reason}", markup=False)


def _segment_file(segmenter: Any, path: Path, stem: Path, *, options: Any) -> tuple[Segmentation, Path]:
    from runtime.segment_files import segment_file

    return segment_file(segmenter, path, stem, options)


def main() -> None:
    """Entry point of the console script."""
    with missing_packages_named():
        app()
