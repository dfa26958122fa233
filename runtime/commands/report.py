"""Output of ``segment``: a line for each image on stdout; progress, failures and a summary on stderr."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from runtime.commands.console import errors, fail
from runtime.commands.flags import in_flags
from runtime.commands.progress import JobProgress, duration
from runtime.commands.signals import Stopped
from runtime.errors import SegmenterError
from runtime.files.image_results import OVERLAY_ENDING, FileOptions
from runtime.files.outputs.formats import OUTPUT_FORMATS
from runtime.jobs.folders.work import ImageDone
from runtime.jobs.step import Step
from runtime.ops.compiled import loops_to_compile
from runtime.provenance import to_jsonable
from runtime.results import Appearance

COMPILE_SECONDS = 20
"""Approximate compilation time of the loops, on one CPU core of 2020."""


class Report:
    """Reporter that prints what a job does."""

    def __init__(self, count: int | None, out: Path, files: FileOptions, *, as_json: bool) -> None:
        """Report nothing yet.

        Args:
            count: number of images in the job; None for a watched folder, whose failures are printed at once.
            out: folder of the results.
            files: the result files of each image.
            as_json: print a line of JSON for each image instead of text.
        """
        self._count, self._watching = count or 0, count is None
        self._out, self._files, self._as_json = out, files, as_json
        self._cells = self._segmented = self._already = self._without_cells = 0
        self._failed: list[ImageDone] = []
        self._incomplete: list[ImageDone] = []
        self._start = time.perf_counter()
        self._announced = False

    def show(self, job: Callable[[Step], Iterator[ImageDone]]) -> None:
        """Run a job; print each result as it arrives, then the failures and a summary.

        Raises:
            typer.Exit: something failed, or the job was interrupted.
        """
        try:
            with JobProgress() as progress:

                def step(what: str, done: int, steps: int, megapixels: float | None = None) -> None:
                    if done < steps and not self._announced:
                        self._announced = True
                        announce_compilation()
                    progress.step(what, done, steps, megapixels)

                for done in job(step):
                    self._count_in(done)
                    if self._watching:
                        self._count += 1
                        self._print_failures([done] if done.failure is not None else [])
                    line = self._line(done)
                    if line is not None:
                        progress.say(line)
        except (KeyboardInterrupt, Stopped) as error:
            self._print_problems()
            self._print_summary()
            errors.print("interrupted; run the same command again to resume", style="bold red")
            raise typer.Exit(error.exit_code if isinstance(error, Stopped) else 130) from None
        except (SegmenterError, OSError) as error:
            self._print_problems()
            fail(error)
        self._print_problems()
        self._print_summary()
        if self._failed or self._incomplete:
            raise typer.Exit(1)

    def _count_in(self, done: ImageDone) -> None:
        if done.failure is not None:
            self._failed.append(done)
            return
        self._cells += 0 if done.already else done.cells
        self._already += done.already
        self._segmented += not done.already
        self._without_cells += not done.cells and not done.already
        if done.slide is not None and done.slide.failed:
            self._incomplete.append(done)

    def _line(self, done: ImageDone) -> str | None:
        """Return the line for an image on stdout, or None."""
        if self._as_json:
            return json.dumps(describe(done, self._files))
        if done.failure is not None or done.already:
            return None
        image, stem = done.target
        line = [str(image), f"{done.cells} cells", f"{stem}{self._files.endings[0]}", shown_as(done.appearance)]
        return "\t".join(filter(None, line))

    def _print_problems(self) -> None:
        for done in self._incomplete:
            assert done.slide is not None, "only slides have failed tiles"
            errors.print(
                f"{done.target[0]}: {len(done.slide.failed)} of {done.slide.tiles} tiles failed:", style="bold red"
            )
            for line in done.slide.failed:
                errors.print(f"  {line}", markup=False)
        if self._failed:
            errors.print(f"{len(self._failed)} of {self._count} images failed:", style="bold red")
        self._print_failures([] if self._watching else self._failed)
        if any(one.failure is not None and one.failure.kind == "disk_full" for one in self._failed):
            errors.print("The disk is full. Finished results are kept: free space, then run the same command again.")
        if self._without_cells:
            errors.print(
                f"{self._without_cells} of {self._count} images have no cells; if you expected some, check "
                "--diameter, --nuclear and --invert, and whether the model was trained on such images"
            )

    def _print_failures(self, failed: list[ImageDone]) -> None:
        for done in failed:
            errors.print(f"  {named_failure(done.target[0], str(done.failure))}", markup=False)

    def _print_summary(self) -> None:
        if self._already:
            errors.print(f"{self._already} of {self._count} images were already done")
        images = "1 image" if self._segmented == 1 else f"{self._segmented} images"
        seconds = duration(time.perf_counter() - self._start)
        errors.print(f"{images} segmented, {self._cells} cells, {seconds}; results in {self._out}", markup=False)


def announce_compilation() -> None:
    """Print that loops will be compiled, if this machine has no compiled loops yet."""
    if loops_to_compile():
        errors.print(f"Compiling loops for this machine, once: about {COMPILE_SECONDS} seconds")


def describe(done: ImageDone, files: FileOptions) -> dict[str, Any]:
    """Describe the outcome of an image as a JSON object.

    Returns:
        ``path``, ``cells``, ``seconds``, ``results`` (paths by format), the fields of ``Appearance``, ``made_by`` (a
        list of ``Provenance``), ``already_done`` and ``error`` (None, or ``kind`` and ``message``). If the image
        failed, ``cells`` is None, and ``results`` and ``made_by`` are empty.
    """
    image, stem = done.target
    error = None
    if done.failure is not None:
        error = {"kind": done.failure.kind, "message": in_flags(str(done.failure))}
    elif done.slide is not None and done.slide.failed:
        error = {"kind": "failed", "message": in_flags("; ".join(done.slide.failed))}
    results = {name: f"{stem}{OUTPUT_FORMATS[name].ending}" for name in files.formats}
    if files.overlay:
        results["overlay"] = f"{stem}{OVERLAY_ENDING}"
    return {
        "path": str(image),
        "cells": None if done.failure is not None else done.cells,
        "seconds": round(done.seconds, 3),
        "results": results if done.failure is None else {},
        **asdict(done.appearance),
        "made_by": to_jsonable(done.provenance),
        "already_done": done.already,
        "error": error,
    }


def shown_as(appearance: Appearance) -> str:
    """Describe in a few words how an image was shown to the model; empty if it was shown unchanged."""
    words = []
    if appearance.diameter_px is not None:
        sure = appearance.diameter_confidence
        how = "given" if sure is None else f"confidence {sure:.2f}"
        words.append(f"diameter {appearance.diameter_px:.1f} px ({how})")
    if appearance.inverted:
        words.append("inverted")
    if appearance.nuclear_alone:
        words.append("nuclear channel alone")
    return ", ".join(words)


def named_failure(image: Path, reason: str) -> str:
    """Describe why an image failed, with flags for settings. Many reasons already begin with the path of the image."""
    reason = in_flags(reason)
    return reason if reason.startswith(f"{image} ") else f"{image}: {reason}"
