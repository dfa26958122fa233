"""Frame times of the page while an image with 2000 cells is panned, in headless Chromium.

    python -m benchmarks.page_frames             # a minute; needs the dependency group hosts, and Chromium

The image is made, and the labels are those that made it. The pointer drags the image to and fro, and the page notes the
time of every frame that it shows. Chromium draws without a GPU. The run passes if no frame takes longer than 60 ms. A
blank page is measured in the same way. The machine should have nothing else to do. POSIX only.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.made_slide import MadeSlide
from benchmarks.measure import write_record
from benchmarks.server_process import ServerProcess, browser
from runtime.correction.project import Project
from runtime.types import I32

ROWS, COLUMNS, PITCH_PX = 40, 50, 40
"""A cell in each square: 2000 cells."""

VIEWPORT_WH = (1280, 800)

LIMIT_MS = 60.0
"""Longest frame time that passes."""

SETTLING_MS = 1500
"""Time in which the page draws what a new zoom shows."""

ZOOMS = {"whole image": 1.0, "closer": 3.0}
"""Factors by which the image is enlarged beyond the size at which all of it is visible."""

_SHOWN = "window.cellsamPage?.store.cells.size > 0 && cellsamPage.view.items()[0]?.getFullyLoaded()"
_PLACE = "() => { const { left, top } = cellsamPage.view.place; return [left, top]; }"
_NOTE = """() => {
    window.frameTimes = [];
    let last = null;
    const note = (now) => {
        if (last !== null) window.frameTimes.push(now - last);
        last = now;
        if (window.frameTimes) requestAnimationFrame(note);
    };
    requestAnimationFrame(note);
}"""
_TAKE = "() => { const times = window.frameTimes; window.frameTimes = null; return times; }"


def make_project(folder: Path) -> Path:
    """Make a project with one image and its cells in a folder; return its directory."""
    size_hw = (ROWS * PITCH_PX, COLUMNS * PITCH_PX)
    cells = MadeSlide(size_hw, pitch_px=PITCH_PX, share=1.0).truth(0, 0, *size_hw)
    pixels = np.random.default_rng(0).normal(30, 8, size_hw) + np.where(cells > 0, 110, 0)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / "cells.png")
    labels: I32 = np.unique(cells, return_inverse=True)[1].reshape(size_hw).astype(np.int32)
    with Project.create(folder / "project", [folder / "cells.png"]) as project:
        project.store_segmentation("cells.png", labels)
    return folder / "project"


def pan(page: Any, seconds: float) -> list[float]:
    """Drag to and fro across the middle of a page; return the times of all frames in ms."""
    width, height = VIEWPORT_WH
    page.mouse.move(width / 2, height / 2)
    page.mouse.down()
    page.evaluate(_NOTE)
    end = page.evaluate("performance.now()") + 1e3 * seconds
    step = 0
    while page.evaluate("performance.now()") < end:
        step += 1
        x, y = 0.5 + 0.25 * math.sin(step / 25), 0.5 + 0.25 * math.sin(0.7 * step / 25)
        page.mouse.move(x * width, y * height)
    times: list[float] = page.evaluate(_TAKE)
    return times


def pan_cells(page: Any, zoom: float, seconds: float) -> list[float]:
    """Pan the image at a zoom; return the times of all frames in ms.

    Raises:
        RuntimeError: the image did not move.
    """
    page.evaluate("(zoom) => { cellsamPage.view.home(); cellsamPage.view.zoomBy(zoom); }", zoom)
    page.wait_for_timeout(SETTLING_MS)
    before = page.evaluate(_PLACE)
    times = pan(page, seconds)
    if page.evaluate(_PLACE) == before:
        raise RuntimeError("the image did not move under the pointer; expected the page to pan it.")
    page.mouse.up()
    return times


def summary(times: list[float]) -> dict[str, Any]:
    """Return the figures of frame times in ms."""
    p50, p95, worst = (round(float(value), 1) for value in np.percentile(times, (50, 95, 100)))
    over = sum(time > LIMIT_MS for time in times)
    return {"frames": len(times), "over_limit": over, "frame_ms": {"p50": p50, "p95": p95, "worst": worst}}


def measure(running: Any, seconds: float) -> dict[str, Any]:
    """Pan at each zoom in a running browser of Playwright; return the record."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        project = str(make_project(Path(folder)))
        with ServerProcess("label", project, "--no-browser", "--backend", "cpu") as server:
            page = running.new_page(viewport={"width": VIEWPORT_WH[0], "height": VIEWPORT_WH[1]})
            page.goto(server.address)
            while not page.evaluate(_SHOWN):  # wait_for_function evaluates a string, which the page's policy forbids
                page.wait_for_timeout(100)
            cells = page.evaluate("cellsamPage.store.cells.size")
            for name, zoom in ZOOMS.items():
                found[name] = {"zoom": zoom, **summary(pan_cells(page, zoom, seconds))}
            page.goto("about:blank")
            blank = summary(pan(page, seconds))
            page.close()
    passed = all(one["frame_ms"]["worst"] <= LIMIT_MS for one in found.values())
    image = {"size_hw": [ROWS * PITCH_PX, COLUMNS * PITCH_PX], "cells": cells}
    browsed = {"chromium": running.version, "viewport_wh": list(VIEWPORT_WH), "gpu": False}
    return {
        "image": image,
        "browser": browsed,
        "load": [round(one, 1) for one in os.getloadavg()],
        "panning": found,
        "blank_page": blank,
        "limit_ms": LIMIT_MS,
        "passed": passed,
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure, print the figures and write the record; return exit code 1 if a frame time is over the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of panning at each zoom")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args(arguments)
    with browser() as running:
        found = measure(running, options.seconds)
    for name, one in {**found["panning"], "blank page": found["blank_page"]}.items():
        print(name, one)  # noqa: T201
    print("passed" if found["passed"] else "FAILED")  # noqa: T201
    print(write_record(options.out, "page_frames", found))  # noqa: T201
    return 0 if found["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
