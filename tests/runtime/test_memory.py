"""Memory scales with the pixels of an image, whatever its shape, its type and the settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

BASE_MIB = 400
"""Memory of the process with the built-in engines, and of one call."""

BYTES_PER_PIXEL = 40
"""Memory per pixel, in addition to the image."""

MEASURE = """
import gc, json, sys
from dataclasses import replace
import numpy as np
from runtime import InputError, Segmenter

def mib(key):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(key)) / 1024

def image_of(size_hw, dtype, channels):
    rng = np.random.default_rng(0)
    y, x = (np.arange(length) % 40 - 20 for length in size_hw)
    image = np.empty((*size_hw, channels), dtype)
    for rows in np.array_split(np.arange(size_hw[0]), max(1, size_hw[0] // 64)):
        cells = (y[rows, None] ** 2 + x**2 < 200) * 150 + rng.integers(0, 40, (len(rows), size_hw[1]))
        image[rows] = cells[..., None]
    return image

segmenter = Segmenter(backend="cpu")
segmenter(image_of((99, 99), "uint8", 1))  # compiles
segmenter(image_of((99, 99), "float32", 1), config=replace(segmenter.config, diameter_px=9.0))
print(json.dumps((0, "")), flush=True)
for line in sys.stdin:
    size_hw, dtype, channels, changes = json.loads(line)
    gc.collect()
    image = image_of(size_hw, dtype, channels)
    with open("/proc/self/clear_refs", "w") as peaks:
        peaks.write("5")
    try:
        segmenter(image, config=replace(segmenter.config, **changes))
    except InputError as error:
        message = str(error)
    else:
        message = ""
    print(json.dumps((mib("VmHWM") - image.nbytes / 2**20, message)), flush=True)
"""


class Measured:
    """A process that segments images and reports the memory used."""

    def __init__(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "2"}
        root = Path(__file__).parents[2]
        self.process = subprocess.Popen(
            [sys.executable, "-c", MEASURE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root,
            env=environment,
        )  # fmt: skip
        self._answer()

    def _answer(self) -> tuple[float, str]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the process has ended"
        peak, message = json.loads(line)
        return peak, message

    def peak_mib(self, size_hw: tuple[int, int], dtype: str, channels: int, **changes: object) -> tuple[float, str]:
        """Return the peak of a call, and its error message."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps((size_hw, dtype, channels, changes)) + "\n")
        self.process.stdin.flush()
        return self._answer()


EVERYTHING = {"box_threshold": 0.0, "nms_iou": 1.0, "iou_threshold": -1e9, "mask_threshold": 1e-9, "min_area_px": 0}
"""Keep all boxes, each with a mask as large as its window."""


@pytest.fixture(scope="module")
def measured() -> Iterator[Measured]:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("Linux is needed to read and reset a process's memory peak")
    one = Measured()
    yield one
    one.process.kill()
    one.process.wait()


@settings(max_examples=4, deadline=None, phases=[Phase.explicit, Phase.generate])  # each takes seconds
@given(
    short=st.integers(1, 300),
    long=st.integers(1, 3000),
    tall=st.booleans(),
    dtype=st.sampled_from(["uint8", "uint16", "float32", "float64"]),
    channels=st.integers(1, 3),
    diameter=st.none() | st.floats(30, 3000),
)
@example(20, 16000, False, "uint8", 1, None)
@example(100, 60000, True, "uint8", 1, None)
@example(1, 1385, False, "uint8", 1, None)
@example(1, 1_000_000, True, "uint8", 1, 3000.0)
@example(2000, 2000, False, "float32", 1, 1300.0)
@example(1000, 1200, False, "float64", 3, 40.0)
def test_memory_follows_pixels(
    measured: Measured, short: int, long: int, tall: bool, dtype: str, channels: int, diameter: float | None
) -> None:
    size_hw = (long, short) if tall else (short, long)
    if diameter is not None:
        diameter = min(diameter, 50.0 * long)
    peak, error = measured.peak_mib(size_hw, dtype, channels, diameter_px=diameter)
    assert not error
    assert peak <= BASE_MIB + BYTES_PER_PIXEL * short * long / 2**20


@pytest.mark.parametrize(
    ("shown", "refused"),
    [
        ({"view_diameter_px": None}, True),
        ({"view_diameter_px": None, "mask_window": "full"}, True),
        ({"diameter_px": 300.0}, False),
    ],
)
def test_settings_that_keep_everything_are_rejected_in_time(
    measured: Measured, shown: dict[str, object], refused: bool
) -> None:
    peak, error = measured.peak_mib((1500, 1500), "uint8", 1, **EVERYTHING, **shown)
    assert "the masks of this image take more than 81 MiB" in error or not refused
    assert peak <= BASE_MIB + BYTES_PER_PIXEL * 1500**2 / 2**20
