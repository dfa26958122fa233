"""Engine by engine: an engine against the unreduced PyTorch model in float64, on a real image.

The truth is PyTorch in float64. Two float32 computations of the same weights can differ by far more than a fixed
tolerance where the weights amplify rounding, as a steep attention does for a few queries; then neither is wrong. So an
output that misses the fixed tolerance is judged by what float32 can reach: it fails if it is further from the truth
than ``Tolerance.rounding_factor`` times PyTorch's own float32.

One float32 run does not say what float32 can reach. Where a single query or mask makes the largest errors, both
computations draw them from the same wide distribution, and PyTorch's draw may be next to zero: over 160 seeds of a
small model, the largest error of a reduced graph was up to 57 times that of one run of PyTorch. It was at most 2.3
times the worst of nine runs whose inputs and weights differ in the last place, and with them every rounding. A factor
of 4 leaves room above that and still finds small faults (``benchmarks/results/export_seeds_*.json``).
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
"""Of PyTorch in float32 with other roundings, beside the one with the weights as they are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tolerance:
    """How far an engine's output may be from PyTorch's in float64."""

    rtol: float = 1e-3
    atol: float = 1e-3
    mismatches_per_million: float = 100.0
    """Elements that may be off by more than ``atol + rtol * |reference|``: with these two, bioimage.io's triple (model
    spec 0.5)."""
    rounding_factor: float = 4.0
    """Elements may be off by this many times the error of PyTorch's own float32 in any case; see above for why."""

    def tail(self, error: F64) -> float:
        """The least error that no more elements exceed than may mismatch; NaN counts as the largest."""
        exceeding = int(error.size * self.mismatches_per_million / 1e6)
        rank = error.size - 1 - exceeding
        return float(np.partition(error.ravel(), rank)[rank])


@dataclass(frozen=True, slots=True)
class Truth:
    """An output of PyTorch."""

    exact: F64
    pytorch: F32
    """In float32."""
    rounding_error: Callable[[], float]
    """Measures how far PyTorch in float32 is from float64 at its worst; see ``Rounding``."""


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
    """Exceeded by no more elements than may mismatch."""
    pytorch_max_abs_error: float
    """Largest error of PyTorch in float32."""
    pytorch_tail_error: float
    rounding_error: float | None
    """The largest ``pytorch_tail_error`` of several runs; None if the fixed tolerance was kept without it."""
    mismatches_per_million: float
    """Elements beyond what is allowed."""
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
        raise VerificationError(f"{engine}.{output} has shape {list(found.shape)}; PyTorch gives {list(exact.shape)}.")
    error, pytorch_error = np.abs(found - exact), np.abs(truth.pytorch - exact)
    allowed: F64 = tolerance.atol + tolerance.rtol * np.abs(exact)
    per_million, rounding = _beyond(error, allowed), None
    if per_million > tolerance.mismatches_per_million:
        rounding = truth.rounding_error()
        if np.isfinite(rounding):  # an overflow excuses nothing
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
    """Elements per million with a larger error than is allowed."""
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
        """By name."""
        return {
            name: Truth(exact, self.pytorch[name], partial(self.rounding_error, name))
            for name, exact in self.exact.items()
        }

    def rounding_error(self, output: str) -> float:
        """The largest tail of PyTorch's errors in float32 over ``RUNS`` + 1 runs, which are made when first asked."""
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
    """Compute every engine's outputs in float64; each gets PyTorch's float32 output for the engine before.

    The arguments are those of ``verify_engines``.
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
    """Run every engine of a directory on the CPU and compare it with the PyTorch model in float64.

    Every engine gets PyTorch's own float32 output for the engine before, so that an error shows where it arises.

    Args:
        directory: where the engine files lie.
        manifest: says which there are and how the image is prepared.
        model: the unreduced model, float32.
        image: what to run on; default, the image that comes with the package.
        tolerance: default, ``Tolerance()``.
        on_engine: called with the name of each engine before it runs.

    Returns:
        One check per output, passed or not.

    Raises:
        VerificationError: an output of another name or shape.
    """
    tolerance = tolerance or Tolerance()
    checks = []
    for truth in engine_truths(model, manifest, image, tolerance, on_engine):
        checks += check_engine(load_named_engine(directory, manifest, truth.engine_name), truth, manifest)
    return checks


def load_named_engine(directory: Path, manifest: Manifest, engine_name: EngineName, backend: str = "cpu") -> Engine:
    """Load one engine of a directory, as the backend runs it by default."""
    spec = manifest.engines[engine_name]
    return load_engine(directory / spec.file, spec, backend=backend, options=BackendOptions())


def check_engine(engine: Engine, truth: EngineTruth, manifest: Manifest) -> list[OutputCheck]:
    """Run one engine and compare its outputs.

    Raises:
        VerificationError: an output of another name or shape.
    """
    return [compare(truth.engine_name, *outcome, truth.tolerance) for outcome in run_against(engine, truth, manifest)]


def run_against(engine: Engine, truth: EngineTruth, manifest: Manifest) -> list[tuple[str, Truth, F32]]:
    """Run one engine: the name of each output, the truth and what was found; of the mask decoder, windows as well.

    Raises:
        VerificationError: an output of another name.
    """
    found = engine(truth.feeds)
    truths = truth.outputs()
    if found.keys() != truths.keys():
        raise VerificationError(f"{truth.engine_name} gives {sorted(found)}; expected {sorted(truths)}.")
    outcomes = [(name, wanted, found[name]) for name, wanted in truths.items()]
    # Of a decoder that sees only windows, the fixed boxes come with some.
    if truth.engine_name == "mask_decoder" and truth.feeds["window_rows"].shape[1] == manifest.grid_size:
        feeds, wanted = _window_case(truth, manifest)
        outcomes.append(("mask_logits[window]", wanted, engine(feeds)["mask_logits"]))
    return outcomes


def _window_case(truth: EngineTruth, manifest: Manifest) -> tuple[Arrays, Truth]:
    """Inputs for the boxes with the smallest windows, and the same part of the whole masks.

    The error of rounding is that of the whole masks: one mask alone may have little by chance.
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
