"""``cellsam-engine bench``: speed of this machine by step, image size, cells per image and backend.

Latency is measured by step, one image after another; throughput is that of ``Segmenter.stream``, with the cells that
the model finds and with given ones. For latency, backends take turns, so that drifts in speed affect them equally.
Given boxes are spread over a real image to vary their number; the detector still runs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.agreement import measure_agreement
from benchmarks.measure import StepTimes, percentiles_ms, write_record
from runtime import BackendOptions, SegmentConfig, Segmenter
from runtime.commands.console import fail
from runtime.commands.options import CpuPrecisionOption, ModelOption, ThreadsOption
from runtime.commands.settings import engine_directory
from runtime.engines.backends.base import BACKENDS, ON_GPU, WITH_GRAPHS
from runtime.engines.builtin import BUILTIN_NAME, sample_images
from runtime.errors import ConfigError, SegmenterError
from runtime.files.plain import read_image
from runtime.ops.boxes import LOGITS_PER_TOKEN, select_boxes
from runtime.ops.model_input import batch_inputs
from runtime.ops.preprocess import normalize_contrast
from runtime.pipeline.assembly import Assembly
from runtime.pipeline.encoded import EncodedView
from runtime.pipeline.pipeline import Pipeline
from runtime.results import Detections

STEPS = ("contrast", "input", "encode", "detect", "choose", "decode", "assemble")
"""Contrast; model input; image encoder; CellFinder; choice of boxes; mask decoder; label map."""

IMAGES_TOGETHER = 4
"""Images per group in a stream; at least as many as one encoder call takes."""

MOST_IN_STREAMS = 300
"""Largest number of given cells per image in throughput; more would only take longer."""

HOST_STEPS = ("contrast", "input", "choose", "assemble")
"""Steps that run outside the engines, on one core of the host."""


@dataclass(frozen=True, slots=True)
class Case:
    """Size and number of cells of an image."""

    side: int
    cells: int

    def image(self) -> NDArray[np.generic]:
        """Return a sample image of nuclei, mirrored or cropped to (side, side)."""
        small = next(read_image(path) for path in sample_images() if "u2os" in path.name)
        missing = [(0, max(0, self.side - length)) for length in small.shape[:2]]
        return np.pad(small, missing, mode="symmetric")[: self.side, : self.side]

    def boxes(self) -> NDArray[np.float64]:
        """Return (cells, 4) xyxy boxes on a grid, with sides of 0.8 of its spacing and at most 64 pixels."""
        columns = max(1, int(np.ceil(np.sqrt(self.cells))))
        pitch = self.side / columns
        rows, places = np.divmod(np.arange(self.cells), columns)
        centres = (np.stack((places, rows), axis=1) + 0.5) * pitch
        half = min(0.4 * pitch, 32.0)
        return np.concatenate((centres - half, centres + half), axis=1).reshape(-1, 4)


class GivenCells(Pipeline):
    """Pipeline whose detector runs, but returns given cells."""

    def __init__(self, base: Pipeline, boxes: NDArray[np.float64]) -> None:
        """Args: base: pipeline with the engines. boxes: (K, 4) xyxy, pixels of every view."""
        super().__init__(
            base.engines,
            base.manifest,
            backend=base.backend,
            images_per_call=base.images_per_call,
            boxes_per_call=base.boxes_per_call,
        )
        self._given = boxes

    def detect(self, views: Sequence[EncodedView], config: SegmentConfig) -> list[Detections]:
        """Run the detector and return the given boxes."""
        sure = np.ones(len(self._given), np.float32)
        return [replace(one, boxes=self._given, scores=sure) for one in super().detect(views, config)]


def time_steps(segmenter: Segmenter, case: Case) -> StepTimes:
    """Return the seconds by step of one image; masks are kept for any IoU estimate."""
    config = replace(segmenter.config, normalize=False, iou_threshold=-1e9)
    image, boxes, steps = case.image(), case.boxes(), StepTimes()
    last = time.perf_counter()

    def done(step: str) -> None:
        nonlocal last
        now = time.perf_counter()
        steps[step], last = now - last, now

    calls, detector = segmenter.pipeline.calls, segmenter.manifest.has_detector
    normalized = normalize_contrast(image)
    done("contrast")
    inputs = batch_inputs([normalized], segmenter.manifest, detector=detector)
    done("input")
    (encoded,) = calls.encode(inputs, [(case.side, case.side)])
    done("encode")
    candidates = calls.detect([encoded]) if detector else []
    done("detect")
    for one in candidates:
        select_boxes(one.boxes_cxcywh_norm, one.logits, config)
    done("choose")
    masks = [part for _, part in calls.decode([encoded], [boxes], full=config.mask_window == "full")]
    done("decode")
    sides = (LOGITS_PER_TOKEN * segmenter.manifest.grid_size, segmenter.manifest.image_size)
    assembly = Assembly(encoded.size_hw, encoded.frame_hw, sides, len(boxes), config)
    for part in masks:
        assembly.add(part)
    assembly.finish(boxes, np.ones(len(boxes), np.float32), np.arange(len(boxes)))
    done("assemble")
    return steps


def images_per_second(segmenter: Segmenter, side: int, images: int, cells: int | None = None) -> tuple[float, float]:
    """Measure images and cells per second of ``Segmenter.stream``.

    Each image is the sample with another rotation or reflection. An uncounted run comes first: with one image, or on a
    GPU with all images, because every new number of images or boxes is slow there.

    Args:
        segmenter: the segmenter to measure.
        side: side of the images, pixels.
        images: number of images.
        cells: given cells per image, whose masks are all kept; None: the cells that the model finds.
    """
    case = Case(side, cells or 0)
    image, config = case.image(), whole_views(segmenter.config)
    if cells is not None:
        config = replace(config, iou_threshold=-1e9)
        segmenter = Segmenter.from_pipeline(GivenCells(segmenter.pipeline, case.boxes()), config)
    together = max(IMAGES_TOGETHER, segmenter.pipeline.images_per_call)
    views = [np.rot90(image if n % 8 < 4 else image[:, ::-1], n % 4) for n in range(images)]
    before = views if segmenter.backend in ON_GPU else views[:1]
    for _ in segmenter.stream(before, config=config, images_together=together):
        pass
    start = time.perf_counter()
    found = sum(len(result) for result in segmenter.stream(views, config=config, images_together=together))
    seconds = time.perf_counter() - start
    return images / seconds, found / seconds


def whole_views(config: SegmentConfig) -> SegmentConfig:
    """Return settings with one view per image, so that the work depends only on the number of images."""
    return replace(config, view_diameter_px=None, diameter_px=None, diameter_um=None)


def _known(backends: list[str] | None) -> list[str] | None:
    for name in backends or ():
        if name not in BACKENDS:
            raise typer.BadParameter(f"{name!r} is not one of {', '.join(map(repr, BACKENDS))}.")
    return backends


def bench_command(
    model: ModelOption = BUILTIN_NAME,
    backend: Annotated[
        list[str] | None, typer.Option(help="Backend, as in 'segment'; repeatable; default: auto.", callback=_known)
    ] = None,
    cpu_precision: CpuPrecisionOption = "auto",
    cuda_graphs: Annotated[
        bool, typer.Option("--cuda-graphs", help="Also measure 'cuda' and 'tensorrt-rtx' with CUDA graphs.")
    ] = False,
    threads: ThreadsOption = None,
    size: Annotated[
        list[int] | None, typer.Option(help="Side of the images, pixels; repeatable; default: 512.", min=16)
    ] = None,
    cells: Annotated[
        list[int] | None,
        typer.Option(
            help="Cells per image; repeatable; default: 0, 10, 100, 300, 1000. Throughput uses the found cells, and "
            "given numbers up to 300.",
            min=0,
        ),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(help="Images per encoder call in throughput; repeatable; default: that of the backend.", min=1),
    ] = None,
    warmup: Annotated[int, typer.Option(help="Uncounted runs of every case.", min=0)] = 1,
    runs: Annotated[int, typer.Option(help="Counted runs of every case.", min=1)] = 5,
    images: Annotated[int, typer.Option(help="Images per throughput run; 0: no throughput.", min=0)] = 16,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Directory for the record and plots.", metavar="DIR")
    ] = None,
) -> None:
    """Measure latency by step and throughput of an engine directory on this machine."""
    names = backend or ["auto"]
    options = BackendOptions(threads=threads, cpu_precision=cpu_precision)
    try:
        segmenters = load(engine_directory(model), names, options, cuda_graphs=cuda_graphs)
        sizes, counts = size or [512], cells or [0, 10, 100, 300, 1000]
        latency = measure_latency(segmenters, sizes, counts, warmup, runs)
        given = [count for count in counts if 0 < count <= MOST_IN_STREAMS]
        throughput = measure_throughput(segmenters, sizes, images, given, batch or [])
        with_boxes = {name: one for name, one in segmenters.items() if one.manifest.has_detector}
        agreement = measure_agreement(with_boxes) if with_boxes else []
    except ConfigError as error:
        fail(error, code=2)
    except SegmenterError as error:
        fail(error)
    _show(latency, throughput, agreement)
    if out is not None:
        first = next(iter(segmenters.values()))
        content = {
            "warmup": warmup,
            "runs": runs,
            "precision": first.manifest.precision,
            "image_size": first.manifest.image_size,
            "chosen_backends": {name: segmenter.backend for name, segmenter in segmenters.items()},
            "latency": latency,
            "throughput": throughput,
            "agreement": agreement,
        }
        path = write_record(out, "bench", content, command=["cellsam-engine", "bench"])
        from benchmarks.plots import plot_latency

        plot_latency(path.with_suffix(".png"), latency)
        typer.echo(path)


def load(engine: Path | None, names: list[str], options: BackendOptions, *, cuda_graphs: bool) -> dict[str, Segmenter]:
    """Load the segmenters to measure, by name.

    Args:
        engine: the engine directory; None for the built-in model.
        names: names of the backends.
        options: options of all backends.
        cuda_graphs: also load the backends ``WITH_GRAPHS`` with CUDA graphs.

    Raises:
        ConfigError: ``cuda_graphs`` is set without such a backend.
    """
    found = {}
    for name in names:
        found[name] = Segmenter(engine, backend=name, options=options)
        if cuda_graphs and found[name].backend in WITH_GRAPHS:
            with_graphs = replace(options, cuda_graphs=True)
            found[f"{name}, CUDA graphs"] = Segmenter(engine, backend=found[name].backend, options=with_graphs)
    if cuda_graphs and len(found) == len(set(names)):
        measured = ", ".join(map(repr, found))
        raise ConfigError(
            f"cuda_graphs needs the backend 'cuda' or 'tensorrt-rtx'; got {measured}. Add one, or omit cuda_graphs.",
            kind="conflict",
            field="cuda_graphs",
        )
    return found


def measure_latency(
    segmenters: Mapping[str, Segmenter], sizes: list[int], cells: list[int], warmup: int, runs: int
) -> list[dict[str, Any]]:
    """Return percentiles in ms, by step and in total, for every backend, size and number of cells."""
    records = []
    for case in (Case(side, count) for side in sizes for count in cells):
        found: dict[str, list[StepTimes]] = {name: [] for name in segmenters}
        for turn in range(warmup + runs):
            for name, segmenter in segmenters.items():
                steps = time_steps(segmenter, case)
                if turn >= warmup:
                    found[name].append(steps)
        records += [
            {
                "backend": name,
                "side_px": case.side,
                "cells": case.cells,
                "total_ms": percentiles_ms([sum(one.values()) for one in steps_of]),
                "host_ms": percentiles_ms([sum(one[step] for step in HOST_STEPS) for one in steps_of]),
                "steps_ms": {step: percentiles_ms([one[step] for one in steps_of]) for step in STEPS},
            }
            for name, steps_of in found.items()
        ]
    return records


def measure_throughput(
    segmenters: Mapping[str, Segmenter], sizes: list[int], images: int, cells: list[int], batches: list[int]
) -> list[dict[str, Any]]:
    """Measure images, megapixels and cells per second of a stream, for every backend and size.

    Args:
        segmenters: segmenters by name.
        sizes: sides of the images, pixels.
        images: number of images per stream; 0 measures nothing.
        cells: given numbers of cells, in addition to the cells that are found (``given_cells`` None in the rows).
        batches: images per encoder call, limited by the engines; if empty, the number stays unchanged.
    """
    records: list[dict[str, Any]] = []
    with_detector = {name: one for name, one in segmenters.items() if one.manifest.has_detector}
    for side in sizes if images else []:
        for name, segmenter in with_detector.items():
            measured = set()
            for batch in batches or [segmenter.pipeline.images_per_call]:
                limited = with_images_per_call(segmenter, batch)
                together = limited.pipeline.images_per_call
                if together in measured:
                    continue
                measured.add(together)
                for given in (None, *cells):
                    rate, cell_rate = images_per_second(limited, side, images, given)
                    records.append(
                        {
                            "backend": name,
                            "side_px": side,
                            "images_per_call": together,
                            "given_cells": given,
                            "images": images,
                            "images_per_s": round(rate, 3),
                            "megapixels_per_s": round(rate * side**2 / 1e6, 3),
                            "cells_per_s": round(cell_rate, 1),
                        }
                    )
    return records


def with_images_per_call(segmenter: Segmenter, count: int) -> Segmenter:
    """Return the same engines with another number of images per encoder call, limited by the engines."""
    base = segmenter.pipeline
    limited = Pipeline(
        base.engines,
        base.manifest,
        backend=base.backend,
        images_per_call=count,
        boxes_per_call=base.boxes_per_call,
    )
    return Segmenter.from_pipeline(limited, segmenter.config)


def _show(latency: list[dict[str, Any]], throughput: list[dict[str, Any]], agreement: list[dict[str, Any]]) -> None:
    console = Console()
    table = Table("backend", "side", "cells", "p50", "p90", "host", *STEPS, title="ms of one image; steps: median")
    for row in latency:
        steps = [f"{row['steps_ms'][step]['p50']:.1f}" for step in STEPS]
        times = (row["total_ms"]["p50"], row["total_ms"]["p90"], row["host_ms"]["p50"])
        table.add_row(row["backend"], str(row["side_px"]), str(row["cells"]), *(f"{t:.1f}" for t in times), *steps)
    console.print(table)
    if throughput:
        rates = Table(
            *("backend", "side", "images per call", "cells", "images/s", "megapixels/s", "cells/s"),
            title="throughput of a stream",
        )
        for row in throughput:
            cells = "as found" if row["given_cells"] is None else str(row["given_cells"])
            values = (f"{row[key]:.2f}" for key in ("images_per_s", "megapixels_per_s", "cells_per_s"))
            rates.add_row(row["backend"], str(row["side_px"]), str(row["images_per_call"]), cells, *values)
        console.print(rates)
    for row in agreement:
        console.print(
            f"{row['matched']:.1%} of the cells of {row['backend']} and {row['against']} match, at a mean IoU of "
            f"{row['mean_iou']}"
        )
