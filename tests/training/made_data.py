"""A small built dataset of bright discs on a dark background."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from training.data.format import write_index, write_summary, write_tile
from training.data.records import TileRecord
from training.data.tiles import Tile


def disc_tile(seed: int, side: int = 160) -> Tile:
    """Return discs in the upper left part of a tile; the rest is padding."""
    rng = np.random.default_rng(seed)
    image = np.zeros((3, 512, 512), np.float32)
    labels = np.zeros((512, 512), np.int32)
    y, x = np.mgrid[:side, :side]
    for number in range(1, 7):
        radius = rng.uniform(8, 16)
        cy, cx = rng.uniform(radius, side - radius, 2)
        inside = ((y - cy) ** 2 + (x - cx) ** 2 < radius**2) & (labels[:side, :side] == 0)
        labels[:side, :side][inside] = number
        image[2, :side, :side][inside] = rng.uniform(0.5, 1.0)
    present = np.unique(labels[labels > 0])
    for new, old in enumerate(present, start=1):
        labels[labels == old] = new
    return Tile(image=image, labels=labels, y0=0, x0=0, height=side, width=side)


def make_dataset(root: Path, tiles: int = 6, name: str = "discs") -> Path:
    """Write a built dataset with one split and return its directory."""
    records = []
    for seed in range(tiles):
        tile = disc_tile(seed)
        write_tile(root / "train", f"disc{seed}", tile)
        records.append(
            TileRecord(
                tile_id=f"disc{seed}",
                image_id=f"disc{seed}",
                object_set=f"disc{seed}",
                y0=0,
                x0=0,
                height=tile.height,
                width=tile.width,
                objects=int(tile.labels.max()),
                dataset=name,
                group="Nuclear",
            )
        )
    write_index(root / "train", records)
    write_summary(root, {"name": name, "group": "Nuclear"})
    return root
