"""Whether a new engine replaces the old one: F1 with a paired bootstrap over images. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from runtime.correction.engine_versions import VersionState
from runtime.types import F64, I64
from training.evaluation.matching import Counts

CONFIDENCE = 0.9
"""Share of the resamples in which the new engine must be better on the corrected images."""

TOLERANCE = 0.01
"""Largest loss of F1 on the sample set of the built-in model."""

RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Pair:
    """Counts of the old and the new engine on the same images, in the same order."""

    old: tuple[Counts, ...]
    new: tuple[Counts, ...]

    def __post_init__(self) -> None:
        if len(self.old) != len(self.new):
            raise ValueError(f"got {len(self.old)} and {len(self.new)} images; expected the same images.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """Change of the F1 from the old to the new engine; counts are summed over images."""

    images: int
    cells: int
    """Number of true cells."""
    old_f1: float
    new_f1: float
    better: float
    """Share of the resamples of images in which the F1 of the new engine is higher."""

    @property
    def gain(self) -> float:
        """F1 of the new engine minus that of the old one."""
        return self.new_f1 - self.old_f1


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """State of a new engine, and why."""

    state: VersionState
    reasons: tuple[str, ...]
    corrected: Change | None
    """None if there are too few corrected images to keep one out."""
    samples: Change

    def scores(self) -> dict[str, Any]:
        """Return the figures, ready for JSON."""
        corrected = None if self.corrected is None else asdict(self.corrected)
        return {"corrected": corrected, "samples": asdict(self.samples)}


def change_of(pair: Pair, *, resamples: int = RESAMPLES, seed: int = 0) -> Change:
    """Compare two engines by a paired bootstrap.

    Each resample draws as many images as there are, with replacement, and computes both F1 on them.

    Args:
        pair: the counts; at least one image.
        resamples: number of resamples.
        seed: seed of the draws.
    """
    old, new = _array(pair.old), _array(pair.new)
    draws = np.random.default_rng(seed).integers(len(old), size=(resamples, len(old)))
    weights = np.apply_along_axis(np.bincount, 1, draws, minlength=len(old))
    difference = _f1(weights @ new) - _f1(weights @ old)
    return Change(
        images=len(old),
        cells=int(old[:, [0, 2]].sum()),
        old_f1=float(_f1(old.sum(axis=0))),
        new_f1=float(_f1(new.sum(axis=0))),
        better=float((difference > 0).mean()),
    )


def decide(corrected: Pair | None, samples: Pair, *, few: bool) -> Verdict:
    """Decide on a new engine.

    With few corrected images, an engine that looks better is provisional, whatever the resamples say. Otherwise it is
    promoted if it is better on the corrected images in at least ``CONFIDENCE`` of the resamples. In both cases, an
    engine is rejected if it is no better, or if it loses more than ``TOLERANCE`` on the sample set.

    Args:
        corrected: counts on corrected images that the new engine was not trained on; None if there are none.
        samples: counts on the sample set of the built-in model.
        few: the images are too few for a promotion.
    """
    on_corrected = None if corrected is None else change_of(corrected)
    on_samples = change_of(samples)
    rejections = []
    if on_corrected is not None and on_corrected.gain <= 0:
        rejections.append(
            f"F1 on corrected images is {on_corrected.new_f1:.3f}, no higher than {on_corrected.old_f1:.3f}."
        )
    elif on_corrected is not None and not few and on_corrected.better < CONFIDENCE:
        rejections.append(
            f"The new engine is better on corrected images in {on_corrected.better:.0%} of the resamples; expected "
            f"{CONFIDENCE:.0%}."
        )
    if on_samples.gain < -TOLERANCE - 1e-9:
        rejections.append(
            f"F1 on the sample set falls by {-on_samples.gain:.3f}, from {on_samples.old_f1:.3f} to "
            f"{on_samples.new_f1:.3f}; at most {TOLERANCE:g} is accepted."
        )
    if rejections:
        return Verdict(state="rejected", reasons=tuple(rejections), corrected=on_corrected, samples=on_samples)
    state, reason = _acceptance(on_corrected, few)
    return Verdict(state=state, reasons=(reason,), corrected=on_corrected, samples=on_samples)


def _acceptance(change: Change | None, few: bool) -> tuple[VersionState, str]:
    if change is None:
        return "provisional", "No corrected image was kept out, so no score shows that the engine is better."
    if few:
        return "provisional", "The engine is better on images that were left out, but these are few."
    return "promoted", f"The new engine is better on corrected images in {change.better:.0%} of the resamples."


def _array(counts: Sequence[Counts]) -> I64:
    return np.array([(one.tp, one.fp, one.fn) for one in counts], np.int64).reshape(-1, 3)


def _f1(counts: I64) -> F64:
    """Return the F1 of (..., 3) sums of tp, fp, fn; 0 where there are no cells at all."""
    tp, rest = 2.0 * counts[..., 0], counts[..., 1] + counts[..., 2]
    found: F64 = np.asarray(tp / np.maximum(tp + rest, 1), np.float64)
    return found
