"""Output of ``segment --dry-run``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import typer

from runtime.commands.console import errors, say
from runtime.commands.flags import in_flags
from runtime.commands.progress import duration
from runtime.commands.report import announce_compilation, named_failure

if TYPE_CHECKING:
    from runtime.commands.job import SegmentJob
    from runtime.jobs.folders.estimate import FolderEstimate, ImageForecast, SlidesEstimate


def show_forecast(job: SegmentJob, *, as_json: bool) -> None:
    """Print what a job would do with each image, and how much time and memory it would need.

    Args:
        job: the job; this function writes no results.
        as_json: print a line of JSON for each image to stdout, and the totals to stderr.

    Raises:
        typer.Exit: an image cannot be segmented, or its existing results must not be replaced.
    """
    from runtime.engines.manifest import read_manifest
    from runtime.jobs.folders.estimate import estimate_folder, estimate_slides, forecast_folder

    announce_compilation()
    model_size = read_manifest(job.work.engines.directory).image_size
    forecasts = forecast_folder(job.targets, job.work, job.records, job.options, model_size)
    forecasts, of_images = estimate_folder(forecasts, job.work)
    forecasts, of_slides = estimate_slides(forecasts, job.work)
    for one in forecasts:
        say(json.dumps(_as_json(one)) if as_json else f"{one.target[0]}\t{_described(one)}")
    for name, value in _totals(forecasts, of_images, of_slides).items():
        typer.echo(f"{name:<8} {value}", err=as_json)
    failed = [one for one in forecasts if one.failure is not None]
    if failed:
        errors.print(f"{len(failed)} of {len(forecasts)} images would fail:", style="bold red")
        for one in failed:
            errors.print(f"  {named_failure(one.target[0], str(one.failure))}", markup=False)
        raise typer.Exit(1)


def _totals(
    forecasts: Iterable[ImageForecast], of_images: FolderEstimate | None, of_slides: SlidesEstimate | None
) -> dict[str, str]:
    forecasts = list(forecasts)
    slides = sum(one.as_slide and one.failure is None for one in forecasts)
    already = sum(one.already for one in forecasts)
    rows = {"images": f"{sum(one.to_do for one in forecasts)} to segment, {already} already done, {slides} as slides"}
    if of_images is not None:
        rows["time"] = f"about {duration(of_images.seconds)} in one process, by {of_images.sample.target[0]}"
    if of_slides is not None:
        rows["slides"] = (
            f"at most about {duration(of_slides.seconds)} in one process ({of_slides.seconds_per_tile:.2f} s a tile)"
        )
    estimates = [one for one in (of_images, of_slides) if one is not None]
    if estimates:
        peaks = [one.memory_mib for one in estimates if one.memory_mib is not None]
        rows["memory"] = f"about {max(peaks) / 1024:.1f} GiB a process" if peaks else "unknown"
    return rows


def _described(one: ImageForecast) -> str:
    if one.size_hw is None or one.failure is not None:
        return "already done" if one.already else "fails"
    size = f"{one.size_hw[1]} x {one.size_hw[0]} px"
    if one.as_slide:
        diameter = "unknown" if one.diameter_px is None else f"{one.diameter_px:.1f} px"
        return f"{size}\tas a slide, {_tiles(one)} of {one.tile_px} x {one.tile_px} px, median diameter {diameter}"
    return f"{size}\t{'tiles by the measured diameter' if one.tiles is None else _tiles(one)}"


def _tiles(one: ImageForecast) -> str:
    return "1 tile" if one.tiles == 1 else f"{one.tiles} tiles"


def _as_json(one: ImageForecast) -> dict[str, Any]:
    height, width = one.size_hw or (None, None)
    return {
        "path": str(one.target[0]),
        "height": height,
        "width": width,
        "as_slide": one.as_slide,
        "tiles": one.tiles,
        "diameter_px": one.diameter_px,
        "already_done": one.already,
        "error": None if one.failure is None else {"kind": one.failure.kind, "message": in_flags(str(one.failure))},
    }
