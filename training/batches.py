"""Training batches from built tiles: drawing of tiles, augmentation, targets.

Every sample depends only on (seed, sample number). An interrupted run therefore resumes at its step, and any number of
processes together draw the same samples as one process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate
from torch.utils.data import DataLoader, Dataset, Sampler

from runtime.ops.model_input import paper_input
from runtime.types import F32, I32
from training.data.format import Sample, TileSet
from training.data.synthetic import MadeSamples
from training.recipe import AugmentConfig, Recipe

MIN_CELL_PX = 12
"""Smallest area of a cell, in pixels of the model input; smaller fragments that a crop leaves are not cells."""


MOST_PADDED = 1.2
"""Largest ratio of a view at the scale of the cells to its field; padding teaches little."""


_KNOT_DISTANCE_PX = 48
"""Distance of the knots of an elastic displacement: about a cell, so that cells bend rather than shake or shift."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of B training images and their cells."""

    pixel_values: Tensor
    """(B, 3, S, S)"""
    boxes: list[Tensor]
    """Boxes of each image's cells, (T, 4) cxcywh, fractions of S."""
    labels: Tensor
    """(B, S, S) int32; cell t of an image has label t + 1."""
    numbers: list[int]
    """Numbers of the samples."""

    def to(self, device: Any) -> Batch:
        """Return the batch on another device."""
        return Batch(
            self.pixel_values.to(device), [b.to(device) for b in self.boxes], self.labels.to(device), self.numbers
        )


class TrainingSamples(Dataset[tuple[F32, F32, I32, int]]):
    """Augmented samples: sample n is a random tile or a mosaic of four, and depends only on (seed, n).

    Datasets, and images with different channels within them (colour among gray ones), are drawn in proportion to the
    square root of their share, so that rare ones are seen often enough. ``Recipe.dataset_weights`` changes this.

    A share of ``Recipe.synthetic_share`` of the views shows images made on the fly.

    Raises:
        ValueError: a weight names a dataset or a group of made images that does not exist.
    """

    def __init__(self, tiles: TileSet, recipe: Recipe) -> None:
        self._tiles, self._recipe = tiles, recipe
        kinds = [(tiles.records[n].dataset, _used_channels(tiles[n].image[:, ::16, ::16])) for n in range(len(tiles))]
        counts = Counter(kinds)
        factors = recipe.dataset_weights
        if missing := sorted(factors.keys() - {dataset for dataset, _ in kinds}):
            raise ValueError(f"dataset_weights names {', '.join(missing)}; expected datasets of the training data.")
        weight = np.array([factors.get(kind[0], 1.0) * counts[kind] ** -0.5 for kind in kinds])
        self._cumulative = np.cumsum(weight / weight.sum())
        self._made = MadeSamples(recipe.synthetic_weights) if recipe.synthetic_share else None
        # A blank tile counts as one channel.
        self.channels = tuple(sorted({max(len(used), 1) for _, used in kinds}))
        """Numbers of channels of the tiles, ascending, without images made on the fly."""

    def __getitem__(self, number: int) -> tuple[F32, F32, I32, int]:
        """Return pixel values (3, S, S), boxes (T, 4), labels (S, S) and the number of a sample."""
        rng = np.random.default_rng((self._recipe.seed, number))
        size = self._recipe.model.image_size
        if rng.random() < self._recipe.augment.mosaic:
            parts = [self._draw(size // 2, rng) for _ in range(4)]
            labels = _join(*_distinct([part[1] for part in parts]))
            image = _join(*(part[0] for part in parts))
        else:
            image, labels = self._draw(size, rng)
        boxes, labels = boxes_of(labels)
        return paper_input(image, size), boxes, labels, number

    def _draw(self, size: int, rng: np.random.Generator) -> tuple[F32, I32]:
        if self._made is not None and rng.random() < self._recipe.synthetic_share:
            return augment(self._made.draw(rng), size, self._recipe.augment, rng)
        index = min(int(np.searchsorted(self._cumulative, rng.random())), len(self._tiles) - 1)
        return augment(self._tiles[index], size, self._recipe.augment, rng)


def _used_channels(image: NDArray[Any]) -> tuple[int, ...]:
    """Return the channels of a (C, H, W) image that are not blank."""
    return tuple(np.flatnonzero(image.any(axis=(1, 2))).tolist())


def _join(a: NDArray[Any], b: NDArray[Any], c: NDArray[Any], d: NDArray[Any]) -> NDArray[Any]:
    """Join four arrays as the quadrants of one."""
    return np.concatenate((np.concatenate((a, b), axis=1), np.concatenate((c, d), axis=1)), axis=0)


def _distinct(label_maps: Sequence[I32]) -> list[I32]:
    """Shift labels so that no two maps share a label."""
    out, highest = [], 0
    for labels in label_maps:
        out.append(np.where(labels > 0, labels + np.int32(highest), 0).astype(np.int32))
        highest += int(labels.max(initial=0))
    return out


class StepSampler(Sampler[list[int]]):
    """Sample numbers of each step from ``first_step`` on: this process's part of the global batch."""

    def __init__(self, batch_size: int, steps: int, *, first_step: int = 0, rank: int = 0, processes: int = 1) -> None:
        """Args: batch_size: over all processes. steps: of the whole run. first_step: steps already done.

        Raises:
            ValueError: the batch cannot be divided equally among the processes.
        """
        if batch_size % processes:
            raise ValueError(f"batch_size is {batch_size}; expected a multiple of the {processes} processes.")
        self._batch_size, self._steps, self._first = batch_size, steps, first_step
        self._share = slice(rank * batch_size // processes, (rank + 1) * batch_size // processes)

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self._first, self._steps):
            yield list(range(step * self._batch_size, (step + 1) * self._batch_size))[self._share]

    def __len__(self) -> int:
        return self._steps


def training_loader(samples: TrainingSamples, sampler: StepSampler, *, workers: int = 0) -> DataLoader[Any]:
    """Return a loader of the batches of the remaining steps."""
    return DataLoader(
        samples,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def collate(samples: list[tuple[F32, F32, I32, int]]) -> Batch:
    """Stack samples into a batch."""
    return Batch(
        torch.from_numpy(np.stack([s[0] for s in samples])),
        [torch.from_numpy(s[1]) for s in samples],
        torch.from_numpy(np.stack([s[2] for s in samples])),
        [s[3] for s in samples],
    )


def plain(sample: Sample, size: int) -> tuple[F32, I32]:
    """Resize a tile without its padding as at inference: image (size, size, 3), labels (size, size)."""
    return augment(sample, size, AugmentConfig(flips=False), np.random.default_rng(0))


def augment(sample: Sample, size: int, config: AugmentConfig, rng: np.random.Generator) -> tuple[F32, I32]:
    """Draw one view of a tile.

    Args:
        sample: the tile; its zero padding is excluded.
        size: side of the result, pixels.
        config: ranges of the changes.
        rng: source of all randomness.

    Returns:
        Image (size, size, 3) float32 in [0, 1] and labels (size, size) int32.
    """
    height, width = sample.record.height, sample.record.width
    used = _used_channels(sample.image[:, :height, :width])
    labels = np.ascontiguousarray(sample.labels[:height, :width])
    box = _view((height, width), _view_sides(labels, size, config, rng), rng)
    planes = [np.ascontiguousarray(sample.image[c, :height, :width]) for c in used]
    used, planes = _other_channels(used, planes, config, rng)
    if config.rotated and rng.random() < config.rotated:
        degrees = rng.uniform(-45, 45)
        planes = [np.clip(_rotated(p, degrees, box, Image.Resampling.BICUBIC), 0, 1) for p in planes]
        labels = _rotated(labels, degrees, box, Image.Resampling.NEAREST)
    planes = [_cut(plane, box, size, Image.Resampling.BILINEAR) for plane in planes]
    labels = _cut(labels, box, size, Image.Resampling.NEAREST)
    turns, mirror = (int(rng.integers(4)), bool(rng.integers(2))) if config.flips else (0, False)
    planes, labels = [_turned(plane, turns, mirror) for plane in planes], _turned(labels, turns, mirror)
    if config.elastic_px:
        planes, labels = _warped(planes, labels, rng.random() * config.elastic_px, rng)
    if config.shading:
        light = np.exp(np.float32(rng.random() * config.shading) * _smooth(1, size, size // 3, rng)[0])
        planes = [plane * light for plane in planes]
    if config.sharpening:
        share, blur_px = np.float32(rng.random() * config.sharpening), rng.uniform(1, 4)
        planes = [plane + share * (plane - ndimage.gaussian_filter(plane, blur_px)) for plane in planes]
    if config.shading or config.sharpening:
        planes = [np.clip(plane, 0, 1) for plane in planes]
    image = np.zeros((size, size, 3), np.float32)
    sigma = rng.random() * config.blur_px
    noise = np.float32(rng.random() * config.noise)
    for channel, plane in zip(used, planes, strict=True):  # a blank channel stays blank
        gamma = np.float32(np.exp(rng.uniform(-1, 1) * config.gamma))
        plane = ndimage.gaussian_filter(plane, sigma) if sigma > 0.3 else plane
        image[..., channel] = plane**gamma + noise * rng.standard_normal(plane.shape, np.float32)
    return np.clip(image, 0, 1), labels


def _other_channels(
    used: tuple[int, ...], planes: list[F32], config: AugmentConfig, rng: np.random.Generator
) -> tuple[tuple[int, ...], list[F32]]:
    """Draw polarity and channels; shares of 0 draw no number, so recorded trainings keep their random numbers."""
    if len(planes) == 1 and config.inverted and rng.random() < config.inverted:
        return used, [1 - planes[0]]
    if used == (1, 2) and config.membrane_alone and rng.random() < config.membrane_alone:
        return (2,), planes[1:]
    if used == (1, 2) and config.channels_swapped and rng.random() < config.channels_swapped:
        return used, planes[::-1]
    return used, planes


def _turned(plane: NDArray[Any], turns: int, mirror: bool) -> NDArray[Any]:
    turned = np.rot90(plane, turns)
    return np.ascontiguousarray(turned[:, ::-1] if mirror else turned)


def _warped(planes: Sequence[F32], labels: I32, deviation_px: float, rng: np.random.Generator) -> tuple[list[F32], I32]:
    """Warp square planes and their labels by one smooth displacement, mirrored at the border."""
    size = labels.shape[0]
    middles = (torch.arange(size) + 0.5) * (2 / size) - 1
    plain_grid = torch.stack(torch.meshgrid(middles, middles, indexing="xy"))
    shift = torch.from_numpy(_smooth(2, size, _KNOT_DISTANCE_PX, rng)) * (2 * deviation_px / size)
    grid = (plain_grid + shift).permute(1, 2, 0)[None]

    def sampled(plane: NDArray[Any], mode: str) -> NDArray[Any]:
        values = torch.from_numpy(plane.astype(np.float32))[None, None]
        return grid_sample(values, grid, mode, "reflection", align_corners=False)[0, 0].numpy()

    return [sampled(plane, "bilinear") for plane in planes], sampled(labels, "nearest").astype(np.int32)


def _smooth(count: int, size: int, distance: int, rng: np.random.Generator) -> F32:
    """Return smooth random surfaces (count, size, size) through standard normal knots ``distance`` pixels apart."""
    knots = torch.from_numpy(rng.standard_normal((1, count, *[size // distance + 2] * 2), np.float32))
    return interpolate(knots, (size, size), mode="bicubic", align_corners=True)[0].numpy()


def _view_sides(labels: I32, size: int, config: AugmentConfig, rng: np.random.Generator) -> tuple[float, float]:
    """Draw the height and width of the visible part of the field, in pixels of the field."""
    areas = np.bincount(labels.ravel())[1:]
    areas = areas[areas > 0]
    # The order of the draws must not change, so that recorded trainings can be repeated.
    if config.diameter_px is None or not len(areas):
        zoom = np.exp(rng.uniform(*np.log(config.zoom)))
        stretch = np.exp(rng.uniform(-config.aspect, config.aspect) / 2)
        height, width = labels.shape[0] / zoom, labels.shape[1] / zoom
    else:
        stretch = np.exp(rng.uniform(-config.aspect, config.aspect) / 2)
        wanted = np.exp(rng.uniform(*np.log(config.diameter_px)))
        diameter = 2 * np.sqrt(np.median(areas) / np.pi)
        height = width = min(size * diameter / wanted, MOST_PADDED * max(labels.shape))
    return height * stretch, width / stretch


def _view(
    size_hw: tuple[int, int], sides: tuple[float, float], rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Place the view: draw a rectangle (left, top, right, bottom) in pixels of the field, which may reach beyond it."""
    height, width = sides
    # A crop lies inside the field; a larger view contains all of it.
    top = rng.uniform(min(0, size_hw[0] - height), max(0, size_hw[0] - height))
    left = rng.uniform(min(0, size_hw[1] - width), max(0, size_hw[1] - width))
    return left, top, left + width, top + height


def _rotated(plane: NDArray[Any], degrees: float, box: tuple[float, ...], method: Image.Resampling) -> NDArray[Any]:
    """Rotate a plane about the centre of a rectangle; pixels from outside the plane are 0."""
    centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    return np.asarray(Image.fromarray(plane).rotate(degrees, method, center=centre))


def _cut(plane: NDArray[Any], box: tuple[float, ...], size: int, method: Image.Resampling) -> NDArray[Any]:
    """Resize a rectangle of a plane to (size, size); pixels outside the plane are 0."""
    left, top, right, bottom = box
    pad_x = int(np.ceil(max(0.0, -left, right - plane.shape[1])))
    pad_y = int(np.ceil(max(0.0, -top, bottom - plane.shape[0])))
    if pad_x or pad_y:
        plane = np.pad(plane, ((pad_y, pad_y), (pad_x, pad_x)))
    inner = (left + pad_x, top + pad_y, right + pad_x, bottom + pad_y)
    limited = (max(inner[0], 0), max(inner[1], 0), min(inner[2], plane.shape[1]), min(inner[3], plane.shape[0]))
    return np.asarray(Image.fromarray(plane).resize((size, size), method, box=limited))


def boxes_of(labels: I32) -> tuple[F32, I32]:
    """Return the boxes of the cells of a label map, without tiny fragments.

    Returns:
        (T, 4) cxcywh as fractions of the side, and the labels renumbered so that cell t has label t + 1.
    """
    size = labels.shape[0]
    areas = np.bincount(labels.ravel())
    boxes, numbers = [], np.zeros(len(areas), np.int32)
    for value, region in enumerate(ndimage.find_objects(labels), start=1):
        if region is None or areas[value] < MIN_CELL_PX:
            continue
        y, x = region
        boxes.append([x.start + x.stop, y.start + y.stop, 2 * (x.stop - x.start), 2 * (y.stop - y.start)])
        numbers[value] = len(boxes)
    fractions = np.array(boxes, np.float32).reshape(-1, 4) / np.float32(2 * size)
    return fractions, numbers[labels]
