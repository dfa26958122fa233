"""Conversion of an image with normalised contrast to the inputs of both branches of the model.

Each channel is resized once, for both branches. All later steps of a branch are one pass over its pixels: they are
monotone, so the extremes that they need follow from those of the resized channel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from runtime.ops.branch_kernels import nonzero_range, quantize_values, stretch_values, values_above
from runtime.ops.resize import UNCHANGED, Scaling, resize_plane
from runtime.types import F32, Profile

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)
# SAM's statistics of 8-bit images (segment_anything.modeling.Sam).
SAM_MEAN = np.array([123.675, 116.28, 103.53], np.float32)
SAM_STD = np.array([58.395, 57.12, 57.375], np.float32)

STRETCH_PERCENTILE = 99.5  # mask branch of the released code, all channels together
MIN_MAX_EPS = np.float32(1e-6)  # kornia.enhance.normalize_min_max

_STEP = 8
"""Every so many pixels per axis, one is sampled to guess a percentile."""

_Step = tuple[np.float32, np.float32]
"""A value to subtract, and a divisor of the difference."""

_NO_STEP = np.float32(0), np.float32(1)

SizeHW = tuple[int, int]


class PreprocessSpec(Protocol):
    """Settings of the manifest for preprocessing."""

    @property
    def image_size(self) -> int:
        """Side of the model input, in pixels."""

    @property
    def profile(self) -> Profile:
        """Name of the sequence of steps."""

    @property
    def renormalize(self) -> bool:
        """See ``mask_branch_input``."""


class BranchInputs(NamedTuple):
    """Model inputs of one image, (3, S, S) float32 each, or of B images, (B, 3, S, S).

    A single array if it serves both branches.
    """

    mask: F32
    box: F32 | None

    def part(self, members: slice) -> BranchInputs:
        """Return the inputs of some of the B images."""
        mask = self.mask[members]
        return BranchInputs(mask, mask if self.box is self.mask else None if self.box is None else self.box[members])


def branch_inputs(
    normalized: F32, spec: PreprocessSpec, *, frame_hw: SizeHW | None = None, detector: bool = True
) -> BranchInputs:
    """Compute the input of the mask branch and, unless ``detector`` is False, that of the box branch.

    Args:
        normalized: (H, W, 3) float32 in [0, 1], from ``normalize_contrast``.
        spec: the manifest.
        frame_hw: size of the frame that becomes (S, S), at least that of the image; the image is its upper left part,
            and the rest is 0. Default: the image.
        detector: whether to compute the input of the box branch.

    Returns:
        The inputs, (3, S, S) each.
    """
    frames = None if frame_hw is None else [frame_hw]
    both = batch_inputs([normalized], spec, frames_hw=frames, detector=detector)
    mask = both.mask[0]
    return BranchInputs(mask, mask if both.box is both.mask else None if both.box is None else both.box[0])


def batch_inputs(
    images: Sequence[F32],
    spec: PreprocessSpec,
    *,
    frames_hw: Sequence[SizeHW] | None = None,
    detector: bool = True,
    make: Callable[[tuple[int, ...]], F32] | None = None,
) -> BranchInputs:
    """Compute the inputs of B images, (B, 3, S, S) each.

    Args:
        images, spec, frames_hw, detector: as in ``branch_inputs``.
        make: returns arrays of a shape to write to; default, new ones.
    """
    frames = frames_hw or [(image.shape[0], image.shape[1]) for image in images]
    shape, make = (len(images), 3, spec.image_size, spec.image_size), make or _new
    mask = make(shape)
    if spec.profile == "paper":
        for image, frame, out in zip(images, frames, mask, strict=True):
            _write_paper(image, frame, out)
        return BranchInputs(mask, mask if detector else None)
    box = make(shape) if detector else None
    for index, (image, frame) in enumerate(zip(images, frames, strict=True)):
        planes = _resized(image, frame, mask[index])
        if box is not None:
            _write_box(planes, box[index], spec.renormalize)
        _write_mask(planes, mask[index], spec.renormalize)
    return BranchInputs(mask, box)


def paper_input(normalized: F32, size: int, frame_hw: SizeHW | None = None) -> F32:
    """Compute the input of both branches in the ``paper`` profile.

    Args:
        normalized: (H, W, 3) float32 in [0, 1], from ``normalize_contrast``.
        size: side of the model input, in pixels.
        frame_hw: size of the frame, see ``branch_inputs``.

    Returns:
        (3, size, size) float32.
    """
    out = _new((3, size, size))
    _write_paper(normalized, frame_hw or (normalized.shape[0], normalized.shape[1]), out)
    return out


def mask_branch_input(normalized: F32, size: int, frame_hw: SizeHW | None = None, *, renormalize: bool = True) -> F32:
    """Compute the input of the mask branch in the ``cellsam-1.2`` profile; other arguments as in ``paper_input``.

    Args:
        renormalize: apply ImageNet statistics and a min-max scaling before SAM's statistics, as the released code does
            for weights that contain ``model_cp``.
    """
    out = _new((3, size, size))
    planes = _resized(normalized, frame_hw or (normalized.shape[0], normalized.shape[1]), out)
    _write_mask(planes, out, renormalize)
    return out


def box_branch_input(normalized: F32, size: int, frame_hw: SizeHW | None = None, *, renormalize: bool = True) -> F32:
    """Compute the input of the box branch in the ``cellsam-1.2`` profile; arguments as in ``mask_branch_input``."""
    out = _new((3, size, size))
    planes = _resized(normalized, frame_hw or (normalized.shape[0], normalized.shape[1]), out)
    _write_box(planes, out, renormalize)
    return out


def _new(shape: tuple[int, ...]) -> F32:
    return np.empty(shape, np.float32)


def _write_paper(normalized: F32, frame_hw: SizeHW, out: F32) -> None:
    for channel, target in enumerate(out):
        scaling = np.float32(255), SAM_MEAN[channel], SAM_STD[channel]
        _resize(normalized[..., channel], frame_hw, target, scaling)


class _Plane(NamedTuple):
    """A resized channel."""

    values: F32 | None
    """(S, S) in [0, 1]; None if the channel is blank."""
    nonzero: int = 0
    """Number of pixels above 0."""
    least: np.float32 = np.float32(0)
    """Lowest value above 0."""
    high: np.float32 = np.float32(0)
    """Highest value."""

    @property
    def low(self) -> np.float32:
        """Lowest value."""
        return self.least if self.values is not None and self.nonzero == self.values.size else np.float32(0)


def _resized(normalized: F32, frame_hw: SizeHW, out: F32) -> list[_Plane]:
    """Resize all channels; the part of ``out`` (3, S, S) that belongs to a blank channel is not written."""
    planes = []
    for channel, target in enumerate(out):
        plane = normalized[..., channel]
        if not plane.any():
            planes.append(_Plane(None))
            continue
        resize_plane(plane, frame_hw, target, UNCHANGED)
        count, *bits = nonzero_range(target.view(np.uint32))
        planes.append(_Plane(target, count, *np.array(bits, np.uint32).view(np.float32)))
    return planes


def _resize(plane: F32, frame_hw: SizeHW, out: F32, scaling: Scaling) -> None:
    """Resize and rescale one channel; a blank one has the same value everywhere."""
    if plane.any():
        resize_plane(plane, frame_hw, out, scaling)
    else:
        factor, mean, std = scaling
        out[:] = (np.float32(0) * factor - mean) / std


def _write_mask(planes: Sequence[_Plane], out: F32, renormalize: bool) -> None:
    """Write the input of the mask branch, (3, S, S), over the resized channels, which are parts of it."""
    low, high = _stretch_range(planes)
    stretch = (low, high - low) if high > low else _NO_STEP
    for channel, plane in enumerate(planes):
        steps = [stretch]
        if renormalize:
            ends = np.array([plane.low, plane.high]).clip(low, high)
            steps.append((IMAGENET_MEAN[channel], IMAGENET_STD[channel]))
            steps.append(_min_max(*_after(ends, steps)))
        steps.append((SAM_MEAN[channel] / 255, SAM_STD[channel] / 255))
        if plane.values is None:
            out[channel] = _after(np.zeros(1, np.float32).clip(low, high), steps)
        else:
            steps += [_NO_STEP] * (4 - len(steps))
            stretch_values(plane.values, (low, high), np.array(steps, np.float32))


def _write_box(planes: Sequence[_Plane], out: F32, renormalize: bool) -> None:
    """Write the input of the box branch, (3, S, S); the resized channels may be parts of it."""
    chains = [_box_steps(channel, plane, renormalize) for channel, plane in enumerate(planes)]
    sources = [0, 1, 2]
    if renormalize:
        # With a single stain, both the nuclear and the whole-cell channel show it.
        dark = [
            not _after(_in_8_bits(np.array([plane.high])), steps).any()
            for plane, steps in zip(planes, chains, strict=True)
        ]
        sources = [0, 2, 2] if dark[1] else [0, 1, 1] if dark[2] else sources
    for channel in set(sources):
        values, steps = planes[channel].values, chains[channel]
        if values is None:
            out[channel] = _after(np.zeros(1, np.float32), steps)
        else:
            steps += [_NO_STEP] * (3 - len(steps))
            quantize_values(values, np.array(steps, np.float32), out[channel])
    for channel, source in enumerate(sources):
        if channel != source:
            out[channel] = out[source]


def _box_steps(channel: int, plane: _Plane, renormalize: bool) -> list[_Step]:
    """Return the steps of the box branch after values are in 8 bits."""
    steps = [(SAM_MEAN[channel], SAM_STD[channel])]
    if renormalize:
        steps.append((IMAGENET_MEAN[channel], IMAGENET_STD[channel]))
        steps.append(_min_max(*_after(_in_8_bits(np.array([plane.low, plane.high])), steps)))
    return steps


def _in_8_bits(values: F32) -> F32:
    out: F32 = np.floor(values * np.float32(255))
    return out


def _after(values: F32, steps: Sequence[_Step]) -> F32:
    """Subtract and divide step by step, in float32."""
    for subtracted, divisor in steps:
        values = (values - subtracted) / divisor
    return values


def _min_max(low: np.float32, high: np.float32) -> _Step:
    """Return the step that rescales a channel to [0, 1]; a constant channel becomes 0."""
    return low, high - low + MIN_MAX_EPS


def _stretch_range(planes: Sequence[_Plane]) -> tuple[np.float32, np.float32]:
    """Return the lowest and the ``STRETCH_PERCENTILE`` value above 0 of all channels; 0 if there is none."""
    shown = [plane.values for plane in planes if plane.values is not None and plane.nonzero]
    if not shown:
        return np.float32(0), np.float32(0)
    count = sum(plane.nonzero for plane in planes)
    place = (count - 1) * (STRETCH_PERCENTILE / 100)
    share = place - math.floor(place)
    before, after = _highest(shown, count, count - math.floor(place))
    # Interpolates from the nearer end and in the types of numpy.percentile.
    step = float(after - before)
    high = float(before) + step * share if share < 0.5 else float(after) - step * (1 - share)
    return min(plane.least for plane in planes if plane.nonzero), np.float32(high)


def _highest(planes: Sequence[F32], count: int, rank: int) -> tuple[np.float32, np.float32]:
    """Return the value of a rank, counted from the highest value (1), and of the rank above it, if any.

    Args:
        planes: values that are not negative.
        count: number of values above 0, at least ``rank``.
    """
    sample = np.concatenate([plane[::_STEP, ::_STEP].ravel() for plane in planes])
    sample = sample[sample > 0]
    likely = min(len(sample), math.ceil(1.5 * rank / count * len(sample)))
    bounds = [np.partition(sample, -likely)[-likely]] if likely else []
    for bound in (*bounds, np.float32(0)):
        parts = [values_above(plane, bound) for plane in planes]
        found = np.concatenate([values for values, _ in parts])
        equal = sum(number for _, number in parts)
        if rank <= len(found) + equal:
            break
    ranks = (rank, max(1, rank - 1))
    inside = [len(found) - one for one in ranks if one <= len(found)]
    if inside:
        found.partition(inside)
    below, above = (found[len(found) - one] if one <= len(found) else bound for one in ranks)
    return below, above
