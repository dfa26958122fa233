"""The golden cases: outputs of the released CellSAM code on seeded weights, and how close ours must come."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.seeded_weights import save_released

HERE = Path(__file__).parent
NAMES = ("upstream_shared_vit_seed0", "upstream_separate_vit_seed1")

RTOL, ATOL, MISMATCHES_PER_MILLION = 1e-3, 1e-3, 100
"""float32 on another library: bioimage.io's triple (model spec 0.5), for every output but the logits of boxes."""

LOGITS_ATOL = 1e-2
"""Tolerance of the box logits. The seeded head is steep (``class_gain``), so rounding of the features moves all logits
of an image together. On another processor than that of the golden files, PyTorch is up to 0.0027 off and onnxruntime
up to 0.0036. On equal features, each is within 0.0013 of float64."""

SCORE_MARGIN = 2.5e-3
"""Maximum change of a score due to ``LOGITS_ATOL``: a quarter of it, as the sigmoid's steepest slope is 1/4."""


@dataclass(frozen=True)
class GoldenCase:
    """One golden file and the released checkpoint with the weights it was made with."""

    name: str
    arrays: dict[str, NDArray[Any]]
    checkpoint: Path

    @property
    def trunk(self) -> str:
        return str(self.arrays["mode"])


def load_arrays(name: str) -> dict[str, NDArray[Any]]:
    with np.load(HERE / f"{name}.npz") as file:
        return dict(file)


def make_case(name: str, directory: Path) -> GoldenCase:
    """Rebuild the weights (1.1 GB) into ``directory``."""
    arrays = load_arrays(name)
    path = save_released(directory / f"{name}.pt", arrays)
    return GoldenCase(name, arrays, path)


def assert_close(found: NDArray[Any], expected: NDArray[Any], what: str, *, atol: float = ATOL) -> None:
    """The tolerance triple; a failure says the largest error, where it is, and the share of elements out."""
    assert found.shape == expected.shape, f"{what}: shape {found.shape}, expected {expected.shape}"
    error = np.abs(found.astype(np.float64) - expected)
    out = ~(error <= atol + RTOL * np.abs(expected))
    per_million = 1e6 * out.mean()
    at = np.unravel_index(int(np.argmax(error)), error.shape)
    assert per_million <= MISMATCHES_PER_MILLION, (
        f"{what}: {per_million:.0f} mismatches per million; largest error {error[at]:.4g} at {at}: "
        f"{found[at]:.6g} for {expected[at]:.6g}"
    )
