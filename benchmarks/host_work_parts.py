"""Host work of a call, step by step, timed without the engines: their outputs are recorded once and given back.

``python benchmarks/host_work_parts.py`` is run by ``benchmarks.host_work`` with the ``runtime`` of one source tree on
its path. It reads a number of repeats per line from standard input and writes the times of each step as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

import runtime
from runtime import Segmenter
from runtime.engines.backends.base import Engine
from runtime.files.plain import read_image
from runtime.pipeline.pipeline import BoxPrompts, Pipeline
from runtime.pipeline.prepare import prepare
from runtime.types import Tensor, Tensors

SIDE_PX = 512
MODEL_PX, GRID = 1024, 64
"""Model input and feature map of a ViT-B."""

Steps = dict[str, Callable[[], Any]]


class Recorded(Engine):
    """Engine that gives back the outputs of its calls in one run of another engine, in turn."""

    def __init__(self, engine: Engine) -> None:
        """Args: engine: runs until ``replay`` is called."""
        self.inputs, self.outputs = engine.inputs, engine.outputs
        self._engine, self._calls = engine, list[Tensors]()
        self._next: Iterator[Tensors] | None = None

    def replay(self) -> None:
        """Give back the recorded outputs from now on."""
        self._next = cycle(self._calls)

    def run(self, feeds: Mapping[str, Tensor], *, keep: Collection[str] = ()) -> Tensors:
        """See ``Engine``."""
        if self._next is None:
            self._calls.append(self._engine.run(feeds, keep=keep))
            return self._calls[-1]
        return next(self._next)


class Blank(Engine):
    """Encoder of a ViT-B whose outputs are 0."""

    def __init__(self, engine: Engine) -> None:
        """Args: engine: engine with the same inputs and outputs."""
        self.inputs, self.outputs = engine.inputs, engine.outputs
        self._zeros: Tensors = {
            name: np.zeros((1, 1, GRID, GRID), np.float32) for name in ("image_embedding", "patch_features")
        }

    def run(self, feeds: Mapping[str, Tensor], *, keep: Collection[str] = ()) -> Tensors:
        """See ``Engine``."""
        return self._zeros


def sample() -> Any:
    """Return a (512, 512) image of nuclei in tissue, tiled from the samples of the package, with over 100 cells."""
    root = Path(runtime.__file__).parent
    (path,) = root.rglob("fluorescence_img.png")
    image = read_image(path)
    while min(image.shape) < SIDE_PX:
        image = np.block([[image, image[:, ::-1]], [image[::-1], image[::-1, ::-1]]])
    return np.ascontiguousarray(image[:SIDE_PX, :SIDE_PX])


def input_steps() -> Steps:
    """Return the preparation of an image and of the inputs of a ViT-B, by profile and number of channels."""
    base = Segmenter(backend="cpu")
    plain = replace(base.config, view_diameter_px=None)
    one = sample()
    steps: Steps = {}
    for channels, image in ((1, one), (2, np.stack((one, one[::-1]), -1))):
        prepared = prepare(image, plain, ())
        steps[f"contrast, {channels} channel(s)"] = partial(prepare, image, plain, ())
        for profile in ("paper", "cellsam-1.2"):
            manifest = replace(base.manifest, image_size=MODEL_PX, profile=profile)
            blank = {name: Blank(engine) for name, engine in base.pipeline.engines.items()}
            steps[f"input {profile}, {channels} channel(s)"] = partial(
                Pipeline(blank, manifest).encode, [prepared.values]
            )
    return steps


def call_steps() -> tuple[Steps, dict[str, float]]:
    """Return the steps of a whole call on the built-in model, and the number of cells and the time of its engines."""
    base = Segmenter(backend="cpu")
    image = sample()
    base(image)
    before = time.process_time()
    cells = len(base(image).boxes)
    with_engines = time.process_time() - before
    steps: Steps = {}

    def recorded(run: Callable[[Segmenter], Any]) -> Segmenter:
        engines = {name: Recorded(engine) for name, engine in base.pipeline.engines.items()}
        segmenter = Segmenter.from_pipeline(Pipeline(engines, base.manifest), base.config)
        run(segmenter)
        for engine in engines.values():
            engine.replay()
        return segmenter

    whole = recorded(lambda segmenter: segmenter(image))
    steps["call"] = lambda: whole(image)
    steps["contrast"] = lambda: prepare(image, base.config, base.manifest.trained_channels)
    encoder = recorded(lambda segmenter: segmenter.encode(image))
    steps["encode"] = lambda: encoder.encode(image)
    views = base.encode(image)
    detector = recorded(lambda segmenter: segmenter.detect(views))
    steps["detect"] = lambda: detector.detect(views)
    prompts = [BoxPrompts.of_detector(found) for found in base.detect(views)]
    decoder = recorded(lambda segmenter: segmenter.pipeline.decode(views.views, prompts, base.config))
    steps["decode"] = lambda: decoder.pipeline.decode(views.views, prompts, base.config)
    return steps, {
        "cells": cells,
        "views": len(views),
        "boxes": sum(len(one.boxes) for one in prompts),
        "call_with_engines_cpu_ms": with_engines * 1e3,
    }


def times(step: Callable[[], Any], repeats: int) -> dict[str, list[float]]:
    """Return CPU and wall times of a step in ms."""
    cpu, wall = [], []
    for _ in range(repeats):
        started = time.thread_time(), time.perf_counter()
        step()
        cpu.append((time.thread_time() - started[0]) * 1e3)
        wall.append((time.perf_counter() - started[1]) * 1e3)
    return {"cpu_ms": cpu, "wall_ms": wall}


def main() -> None:
    """Answer one line of standard input after the other, beginning with a line on the call."""
    of_call, facts = call_steps()
    steps = input_steps() | of_call
    for step in steps.values():
        step()
    print(json.dumps(facts), flush=True)  # noqa: T201
    for line in sys.stdin:
        print(json.dumps({name: times(step, int(line)) for name, step in steps.items()}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
