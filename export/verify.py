"""Comparison of each engine with the unreduced PyTorch model in float64, on a real image.

PyTorch in float64 is the truth. Weights can amplify rounding, as a steep attention does for a few queries. Two float32
computations of such weights can differ by far more than a fixed tolerance, and neither is wrong. An output that
misses the fixed tolerance is therefore judged by what float32 can reach. It fails if it is further from the truth than
``Tolerance.rounding_factor`` times PyTorch's own float32.

One float32 run does not show what float32 can reach. If a single query or mask causes the largest errors, both
computations draw them from the same wide distribution, and PyTorch's draw may be close to zero. Over 160 seeds of a
small model, the largest error of a reduced graph was up to 57 times that of one PyTorch run. It was at most 2.3 times
the worst of nine runs with changes in the last place of inputs and weights, which change every rounding. A factor of 4
leaves room above that and still finds small faults (``benchmarks/results/export_seeds_*.json``).

Polygraphy's comparisons use one absolute and one relative tolerance per output. They have no reference in float64 and
no limit that follows from rounding, so they would reject such weights or accept faults. ``export.saved_data`` writes
the same inputs and outputs for Polygraphy, whose strength is the search for the layer that differs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.errors import VerificationError
from export.references import exact_outputs, references, rerounded_outputs
from export.sample_image import verification_image
from runtime.engines.backends.base import BackendOptions, Engine
from runtime.engines.backends.load import load_engine
from runtime.engines.manifest import EngineName, Manifest
from runtime.ops.boxes import LOGITS_PER_TOKEN, token_windows
from runtime.ops.preprocess import normalize_contrast
from runtime.types import F32, F64, Arrays
from training.model import CellSAM

RUNS = 8
"""Number of PyTorch runs in float32 with other rounding errors, besides the run with the original weights."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """Limits on differences between an engine's output and PyTorch's in float64."""

    rtol: float = 1e-3
    atol: float = 1e-3
    mismatches_per_million: float = 100.0
    """Elements that may differ by more than ``atol + rtol * |reference|``; with these two, the triple that bioimage.io
    defines (model spec 0.5)."""
    rounding_factor: float = 4.0
    """Elements may always differ by this many times the error of PyTorch's own float32; see the module for reasons."""

    def tail(self, error: F64) -> float:
        """Return the smallest error that no more elements exceed than may mismatch; NaN counts as the largest."""
        exceeding = int(error.size * self.mismatches_per_million / 1e6)
        rank = error.size - 1 - exceeding
        return float(np.partition(error.ravel(), rank)[rank])


@dataclass(frozen=True, slots=True)
class Truth:
    """Reference values of one output, computed by PyTorch."""

    exact: F64
    pytorch: F32
    """PyTorch's output in float32."""
    rounding_error: Callable[[], float]
    """Measures the largest error of PyTorch in float32 against float64; see ``EngineTruth.rounding_error``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputCheck:
    """The comparison of one output of one engine with PyTorch in float64."""

    engine: str
    output: str
    shape: tuple[int, ...]
    max_abs_error: float
    at: tuple[int, ...]
    """Index of the largest error."""
    reference: float
    """PyTorch's value there in float64."""
    found: float
    """The engine's value there."""
    tail_error: float
    """Error that no more elements exceed than may mismatch."""
    pytorch_max_abs_error: float
    """Largest error of PyTorch in float32."""
    pytorch_tail_error: float
    rounding_error: float | None
    """The largest ``pytorch_tail_error`` of several runs; None if the fixed tolerance was met without it."""
    mismatches_per_million: float
    """Elements beyond the allowed error."""
    passed: bool

    def __str__(self) -> str:
        verdict = "ok" if self.passed else "FAILED"
        return (
            f"{self.engine}.{self.output} {list(self.shape)}: {verdict}, largest error {self.max_abs_error:.3g} at "
            f"{list(self.at)} ({self.found:.6g} for {self.reference:.6g}), PyTorch's in float32 "
            f"{self.pytorch_max_abs_error:.3g}, {self.mismatches_per_million:.1f} mismatches per million"
        )


def compare(engine: str, output: str, truth: Truth, found: F32, tolerance: Tolerance) -> OutputCheck:
    """Compare one output with the truth: shape, then values; NaN never matches.

    Raises:
        VerificationError: the shapes differ.
    """
    exact = truth.exact
    if found.shape != exact.shape:
        raise VerificationError(
            f"{engine}.{output} has shape {list(found.shape)}; expected {list(exact.shape)}, as from PyTorch. "
            "Export the engines again."
        )
    error, pytorch_error = np.abs(found - exact), np.abs(truth.pytorch - exact)
    allowed: F64 = tolerance.atol + tolerance.rtol * np.abs(exact)
    per_million, rounding = _beyond(error, allowed), None
    if per_million > tolerance.mismatches_per_million:
        rounding = truth.rounding_error()
        if np.isfinite(rounding):  # an overflow must not excuse errors
            per_million = _beyond(error, np.maximum(allowed, tolerance.rounding_factor * rounding))
    at = np.unravel_index(int(np.argmax(np.where(np.isnan(error), np.inf, error))), error.shape)
    return OutputCheck(
        engine=engine,
        output=output,
        shape=tuple(found.shape),
        max_abs_error=float(error[at]),
        at=tuple(int(i) for i in at),
        reference=float(exact[at]),
        found=float(found[at]),
        tail_error=tolerance.tail(error),
        pytorch_max_abs_error=float(pytorch_error.max()),
        pytorch_tail_error=tolerance.tail(pytorch_error),
        rounding_error=rounding,
        mismatches_per_million=per_million,
        passed=per_million <= tolerance.mismatches_per_million,
    )


def _beyond(error: F64, allowed: F64) -> float:
    """Count the elements per million whose error exceeds the allowed one."""
    return 1e6 * int(np.count_nonzero(~(error <= allowed))) / error.size


@dataclass(frozen=True)
class EngineTruth:
    """An engine's input and PyTorch's outputs for it, in float64 and float32."""

    model: CellSAM
    engine_name: EngineName
    feeds: Arrays
    exact: dict[str, F64]
    pytorch: dict[str, F32]
    tolerance: Tolerance

    def outputs(self) -> dict[str, Truth]:
        """Return the reference values by output name."""
        return {
            name: Truth(exact, self.pytorch[name], partial(self.rounding_error, name))
            for name, exact in self.exact.items()
        }

    def rounding_error(self, output: str) -> float:
        """Return the largest tail of PyTorch's float32 errors over ``RUNS`` + 1 runs, which are computed on demand."""
        return self._rounding_errors[output]

    @cached_property
    def _rounding_errors(self) -> dict[str, float]:
        runs = [rerounded_outputs(self.model, self.engine_name, self.feeds, seed) for seed in range(RUNS)]
        return {
            name: max(self.tolerance.tail(np.abs(run[name] - exact)) for run in (self.pytorch, *runs))
            for name, exact in self.exact.items()
        }


def engine_truths(
    model: CellSAM,
    manifest: Manifest,
    image: NDArray[np.generic] | None,
    tolerance: Tolerance,
    on_engine: Callable[[str], None] = lambda name: None,
) -> Iterator[EngineTruth]:
    """Compute the outputs of each engine in float64; inputs are PyTorch's float32 outputs of earlier engines.

    See ``verify_engines`` for the arguments.
    """
    normalized = normalize_contrast(verification_image() if image is None else image)
    for engine_name, feeds, pytorch in references(model, manifest, normalized):
        on_engine(engine_name)
        yield EngineTruth(model, engine_name, feeds, exact_outputs(model, engine_name, feeds), pytorch, tolerance)


def verify_engines(
    directory: Path,
    manifest: Manifest,
    model: CellSAM,
    *,
    image: NDArray[np.generic] | None = None,
    tolerance: Tolerance | None = None,
    on_engine: Callable[[str], None] = lambda name: None,
) -> list[OutputCheck]:
    """Run each engine of a directory on the CPU and compare it with the PyTorch model in float64.

    Each engine gets PyTorch's own float32 output of the engine before it, so an error shows where it arises.

    Args:
        directory: directory of the engine files.
        manifest: lists the engines and states how to prepare the image.
        model: the unreduced model, float32.
        image: image to run on; default, the image in the package.
        tolerance: default, ``Tolerance()``.
        on_engine: called with the name of each engine before it runs.

    Returns:
        One check per output, whether it passed or not.

    Raises:
        VerificationError: an output has an unexpected name or shape.
    """
    tolerance = tolerance or Tolerance()
    checks = []
    for truth in engine_truths(model, manifest, image, tolerance, on_engine):
        checks += check_engine(load_named_engine(directory, manifest, truth.engine_name), truth, manifest)
    return checks


def load_named_engine(directory: Path, manifest: Manifest, engine_name: EngineName, backend: str = "cpu") -> Engine:
    """Load one engine of a directory with the default options of the backend."""
    spec = manifest.engines[engine_name]
    return load_engine(directory / spec.file, spec, backend=backend, options=BackendOptions())


def check_engine(engine: Engine, truth: EngineTruth, manifest: Manifest) -> list[OutputCheck]:
    """Run one engine and compare its outputs.

    Raises:
        VerificationError: an output has an unexpected name or shape.
    """
    return [compare(truth.engine_name, *outcome, truth.tolerance) for outcome in run_against(engine, truth, manifest)]


def run_against(engine: Engine, truth: EngineTruth, manifest: Manifest) -> list[tuple[str, Truth, F32]]:
    """Run one engine and return name, truth and result of each output; the mask decoder also runs on windows.

    Raises:
        VerificationError: an output has an unexpected name.
    """
    found = engine(truth.feeds)
    truths = truth.outputs()
    if found.keys() != truths.keys():
        raise VerificationError(
            f"{truth.engine_name} has outputs {sorted(found)}; expected {sorted(truths)}. Export the engines again."
        )
    outcomes = [(name, wanted, found[name]) for name, wanted in truths.items()]
    # For a decoder that sees only windows, the fixed boxes already have windows.
    if truth.engine_name == "mask_decoder" and truth.feeds["window_rows"].shape[1] == manifest.grid_size:
        feeds, wanted = _window_case(truth, manifest)
        outcomes.append(("mask_logits[window]", wanted, engine(feeds)["mask_logits"]))
    return outcomes


def _window_case(truth: EngineTruth, manifest: Manifest) -> tuple[Arrays, Truth]:
    """Build inputs for the boxes with the smallest windows, and take the same part of the whole masks.

    The rounding error is that of the whole masks, because a single mask may have a small one by chance.
    """
    boxes: F32 = truth.feeds["boxes_xyxy_model"]
    origin, sides = token_windows(boxes, manifest.image_size, manifest.grid_size, full=False)
    side = int(sides.min())
    chosen = np.flatnonzero(sides == side)
    tokens = np.arange(side)
    part = {
        **truth.feeds,
        "image_index": truth.feeds["image_index"][chosen],
        "boxes_xyxy_model": boxes[chosen],
        "window_rows": origin[chosen, :1] + tokens,
        "window_cols": origin[chosen, 1:] + tokens,
    }
    length = side * LOGITS_PER_TOKEN
    masks, exact, pytorch = truth.outputs()["mask_logits"], [], []
    for box in chosen:
        row, column = origin[box] * LOGITS_PER_TOKEN
        cut = np.s_[box, row : row + length, column : column + length]
        exact.append(masks.exact[cut])
        pytorch.append(masks.pytorch[cut])
    return part, replace(masks, exact=np.stack(exact), pytorch=np.stack(pytorch))
