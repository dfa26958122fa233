"""Cells that fill the plane: monolayers, tissue with gaps and vessels, plant organs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from runtime.types import F32, I32
from training.data.synthetic import kernels
from training.data.synthetic.fields import log_uniform, smooth_field, texture
from training.data.synthetic.scene import Scene, scene_of

F64 = NDArray[np.float64]


def packed(
    rng: np.random.Generator,
    size_hw: tuple[int, int],
    diameter_px: float,
    *,
    order: tuple[float, float] = (0.55, 0.8),
    bend: tuple[float, float] = (0.05, 0.35),
    stretch: tuple[float, float] = (1.0, 1.6),
    gap_px: tuple[float, float] = (0.0, 0.0),
    missing: tuple[float, float] = (0.0, 0.05),
    size_range: float = 1.0,
) -> Scene:
    """Fill the field with the Voronoi regions of spaced seeds in a bent and stretched plane.

    Args:
        rng: source of all randomness.
        size_hw: size of the field (height, width), pixels.
        diameter_px: median diameter.
        order: range of the smallest distance of seeds, as a share of the diameter; regular from about 0.75.
        bend: range of the displacement of the plane, as a share of the diameter.
        stretch: range of the elongation in one direction.
        gap_px: range of the width of the background between cells.
        missing: range of the share of cells that are left out.
        size_range: ratio of the largest to the smallest cell size across the field.
    """
    labels, seeds = _regions_of_seeds(
        rng,
        size_hw,
        diameter_px,
        order=rng.uniform(*order),
        bend=rng.uniform(*bend),
        stretch=log_uniform(rng, *stretch),
        size_range=size_range,
    )
    kept = rng.random(len(seeds)) >= rng.uniform(*missing)
    return _domed(rng, _apart(_only(labels, kept), rng.uniform(*gap_px)), diameter_px)


def tissue(rng: np.random.Generator, size_hw: tuple[int, int], diameter_px: float) -> Scene:
    """Fill the field with packed cells, with vessels, loose stroma and empty areas between nests."""
    labels, seeds = _regions_of_seeds(
        rng,
        size_hw,
        diameter_px,
        order=rng.uniform(0.5, 0.8),
        bend=rng.uniform(0.15, 0.45),
        stretch=log_uniform(rng, 1.0, 1.6),
        size_range=1.0,
    )
    ground = texture(rng, size_hw, float(rng.uniform(3, 9)) * diameter_px, 2)
    cut = np.quantile(ground[::4, ::4], rng.uniform(0.0, 0.5)) if rng.random() < 0.7 else -np.inf
    lonely = rng.random(len(seeds)) < 0.2
    kept = (ground[tuple(seeds.astype(int).T)] >= cut) | lonely
    kept &= rng.random(len(seeds)) >= rng.uniform(0, 0.25)
    return _domed(rng, _apart(_only(labels, kept), rng.uniform(0, 1.5)), diameter_px)


def _only(labels: I32, kept: NDArray[np.bool_]) -> I32:
    """Return the labels of the kept regions only."""
    table = np.concatenate(([0], np.where(kept, np.arange(1, len(kept) + 1), 0))).astype(np.int32)
    return table[labels]


def _apart(labels: I32, gap_px: float) -> I32:
    """Return labels with gaps between them, each in one part."""
    if gap_px > 0:
        labels[kernels.inner_distance(labels) < gap_px / 2] = 0
    return one_part_each(labels)


def _domed(rng: np.random.Generator, labels: I32, diameter_px: float) -> Scene:
    """Return a scene of cells of height 1 that slope down towards their outlines."""
    scene = scene_of(labels, np.zeros(labels.shape, np.float32), diameter_px)
    low, reach = np.float32(rng.uniform(0.3, 0.9)), np.float32(rng.uniform(0.1, 0.45) * diameter_px)
    rest = 1 - np.minimum(scene.depth / reach, 1)
    thickness = scene.inside * (low + (1 - low) * np.sqrt(1 - rest * rest))
    return replace(scene, thickness=thickness.astype(np.float32))


def _regions_of_seeds(
    rng: np.random.Generator,
    size_hw: tuple[int, int],
    diameter_px: float,
    *,
    order: float,
    bend: float,
    stretch: float,
    size_range: float,
) -> tuple[I32, F64]:
    """Return regions, (H, W) 1..n, and the seed of each, (n, 2); see ``packed``."""
    local = np.exp(np.log(size_range) / 2 * np.clip(smooth_field(rng, size_hw, 0.35 * min(size_hw)) / 1.5, -1, 1))
    seeds, sizes = _seeds(rng, size_hw, diameter_px, order, local)
    labels = _regions(rng, seeds, sizes, size_hw, (diameter_px, bend, stretch, rng.uniform(0, np.pi)))
    return labels, seeds


def _seeds(
    rng: np.random.Generator, size_hw: tuple[int, int], diameter_px: float, order: float, local: F32
) -> tuple[F64, F64]:
    # Dart throwing with a smallest distance of ``order`` diameters fills up to 0.7 of the densest packing.
    dense = int(size_hw[0] * size_hw[1] / (np.pi / 4 * diameter_px**2) * 1.15 * float(np.mean(1 / local**2))) + 1
    candidates = rng.uniform(0, size_hw, (7 * dense, 2))
    scale = local[tuple(candidates.astype(int).T)].astype(np.float64)
    chosen = kernels.scatter(candidates, scale * diameter_px * order / 2, dense)
    return candidates[chosen], scale[chosen] * np.exp(0.08 * rng.standard_normal(len(chosen)))


def _regions(
    rng: np.random.Generator,
    seeds: F64,
    sizes: F64,
    size_hw: tuple[int, int],
    shape: tuple[float, float, float, float],
) -> I32:
    diameter, bend, factor, angle = shape
    y, x = np.mgrid[: size_hw[0], : size_hw[1]].astype(np.float32)
    reach = np.float32(bend * diameter * 0.5)
    y = y + reach * texture(rng, size_hw, 0.8 * diameter, 2)
    x = x + reach * texture(rng, size_hw, 0.8 * diameter, 2)
    # Distances of both pixels and seeds shrink along the long axis of the cells.
    along, across = factor**-0.5, factor**0.5
    c, s = np.cos(angle), np.sin(angle)
    yy, xx, yx = s * s * along + c * c * across, c * c * along + s * s * across, s * c * (along - across)
    bent_seeds = np.stack((yy * seeds[:, 0] + yx * seeds[:, 1], yx * seeds[:, 0] + xx * seeds[:, 1]), axis=1)
    bent_y, bent_x = np.float32(yy) * y + np.float32(yx) * x, np.float32(yx) * y + np.float32(xx) * x
    return kernels.regions(seeds, bent_seeds, sizes, bent_y, bent_x)


def one_part_each(labels: I32) -> I32:
    """Keep the largest part of every label, numbered 1..n; parts that touch at a corner count as one."""
    parts = kernels.parts(labels)
    areas = np.bincount(parts.ravel())
    owner = np.zeros(len(areas), np.int64)
    owner[parts] = labels
    order = np.argsort(areas, kind="stable")
    largest = np.zeros(int(labels.max(initial=0)) + 1, np.int64)
    largest[owner[order]] = order
    kept = (largest[owner] == np.arange(len(areas))) & (owner > 0)
    out: I32 = (np.cumsum(kept) * kept).astype(np.int32)[parts]
    return out
