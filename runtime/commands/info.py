"""The command ``info``: a summary of an engine directory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, get_args

import typer

from runtime.commands.console import fail, say
from runtime.commands.settings import model_directory
from runtime.engines.backends.plan_keys import PlanBackend
from runtime.engines.backends.plan_record import plan_directories, read_record
from runtime.engines.builtin import BUILTIN_NAME
from runtime.engines.engine_source import check_files
from runtime.engines.manifest import EngineFile, Manifest, describe_check, read_manifest
from runtime.engines.sums import SUMS_NAME, sums_sha256
from runtime.errors import BackendError, SegmenterError

_MODEL = f"{BUILTIN_NAME}|DIR"


def info_command(
    model: Annotated[
        str | None, typer.Argument(help=f"Engine directory, or {BUILTIN_NAME}, the default.", metavar=f"[{_MODEL}]")
    ] = None,
    named: Annotated[str | None, typer.Option("--model", help="The same, as an option.", metavar=_MODEL)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole manifest as JSON.", metavar="")] = False,
    check: Annotated[bool, typer.Option(help="Compare the files with their hashes.", metavar="")] = True,
) -> None:
    """Describe a model, and check that its files are unaltered."""
    if None not in (model, named):
        raise typer.BadParameter("the model is given twice; give it as an argument or as --model.")
    directory = model_directory(model or named or BUILTIN_NAME)
    try:
        manifest = read_manifest(directory)
        if check:
            check_files(directory, manifest)
        lines = (
            [json.dumps(asdict(manifest), indent=2)] if as_json else list(describe(directory, manifest, checked=check))
        )
    except (SegmenterError, OSError) as error:
        fail(error)
    for line in lines:
        say(line)


def describe(directory: Path, manifest: Manifest, *, checked: bool) -> Iterator[str]:
    """Describe an engine directory, line by line.

    Args:
        directory: the engine directory.
        manifest: its manifest.
        checked: whether the files were compared with their hashes.
    """
    for name, value in _rows(directory, manifest).items():
        yield f"{name:<14} {value}"
    for engine_name, spec in manifest.engines.items():
        size = (directory / spec.file).stat().st_size / 1e6
        yield f"{engine_name:<14} {spec.file}, {size:.1f} MB{_traits(spec)}{', unaltered' if checked else ''}"
    for backend in get_args(PlanBackend):
        for place in plan_directories(directory, backend):
            yield f"{'plans':<14} {_plans(place)}"
    for line in _verification(manifest.verification.get("outputs")):
        yield f"{'verified':<14} {line}"


def _rows(directory: Path, manifest: Manifest) -> dict[str, str]:
    weights, config = manifest.weights, manifest.config
    view = config.view_diameter_px
    channels = " or ".join(map(str, manifest.trained_channels)) or "unknown"
    return {
        "directory": str(directory),
        "model input": f"{manifest.image_size} x {manifest.image_size} pixels, preprocessing '{manifest.profile}'",
        "precision": f"{manifest.precision}, form for {'TensorRT' if manifest.target == 'gpu' else 'any backend'}",
        "detector": "CellFinder" if manifest.has_detector else "none: boxes come from the user",
        "trunk": manifest.trunk,
        "trained on": f"images of {channels} channels",
        "view diameter": "none: images are shown whole"
        if view is None
        else f"{view:g} model pixels, median of the cells",
        "boxes": f"score above {config.box_threshold:g} ({config.box_threshold_mode}), "
        f"IoU of two up to {config.nms_iou:g}",
        "masks": f"IoU estimate from {config.iou_threshold:g}, pixels above {config.mask_threshold:g}, "
        f"window '{config.mask_window}'",
        "cells": f"from {config.min_area_px} pixels, contested pixels by '{config.overlap}', holes "
        f"{'filled' if config.fill_holes else 'kept'}",
        "weights": f"{weights.get('format', '')}, sha256 {str(weights.get('sha256', ''))[:16]}",
        "licence": weights.get("licence", ""),
        "created": manifest.created,
        "sha256": sums_sha256(directory) or f"none: there is no {SUMS_NAME}",
    }


def _plans(place: Path) -> str:
    """Describe a set of plans, or its problem."""
    try:
        record = read_record(place)
    except BackendError as error:
        return str(error)
    compared = "compared with onnxruntime" if record.verification else "not compared, as no GPU was there"
    return f"{record.key.backend}, {record.precision}, for {record.key}; {compared}"


def _traits(spec: EngineFile) -> str:
    return ", fused attention" * (spec.attention == "fused") + ", 8-bit integers" * spec.integers


def _verification(outputs: object) -> Iterator[str]:
    """Summarise the comparison with PyTorch by its worst figures; describe outputs with other checks one by one."""
    entries = outputs if isinstance(outputs, list | tuple) else ()
    errors, mismatches = [], []
    for entry in entries:
        match entry:
            case {"max_abs_error": int() | float() as error, "mismatches_per_million": int() | float() as count}:
                errors.append(error)
                mismatches.append(count)
            case _:
                yield describe_check(entry)
    if errors:
        yield (
            f"{len(errors)} outputs against PyTorch: largest error {max(errors):.2g}, at most {max(mismatches):.0f} "
            "mismatches per million"
        )
