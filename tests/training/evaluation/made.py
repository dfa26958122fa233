"""Synthetic images and label maps with known cells."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from PIL import Image

from runtime.ops.preprocess import normalize_contrast
from runtime.types import I32


def label_maps(side: int = 6, cells: int = 4) -> st.SearchStrategy[I32]:
    """Draw small label maps, some empty, whose labels need not be dense."""
    return hnp.arrays(np.int32, (side, side), elements=st.integers(0, cells))


def row_of_squares(count: int, side: int = 10, gap: int = 2) -> I32:
    """Return ``count`` squares in a row, labelled 1..count from left to right."""
    labels = np.zeros((side + 2 * gap, count * (side + gap) + gap), np.int32)
    for index in range(count):
        left = gap + index * (side + gap)
        labels[gap : gap + side, left : left + side] = index + 1
    return labels


def discs(size: int = 64) -> I32:
    """Return five cells: three separate and two that touch."""
    rows, columns = np.indices((size, size))
    labels = np.zeros((size, size), np.int32)
    for label, (y, x, radius) in enumerate([(12, 12, 7), (12, 45, 8), (50, 14, 9), (46, 38, 8), (46, 53, 8)], start=1):
        labels[(rows - y) ** 2 + (columns - x) ** 2 <= radius**2] = label
    return labels


def bright_image(labels: I32, seed: int = 0) -> NDArray[np.uint8]:
    """Return bright cells on a dark, noisy background."""
    noise = np.random.default_rng(seed).normal(0, 6, labels.shape)
    return np.clip(30 + 150 * (labels > 0) + noise, 0, 255).astype(np.uint8)


def write_pair(folder: Path, name: str, labels: I32, image: NDArray[np.uint8] | None = None) -> Path:
    """Write ``<name>_img.png`` and ``<name>_mask.png`` (16 bits), and return the path of the image."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}_img.png"
    Image.fromarray(bright_image(labels) if image is None else image).save(path)
    Image.fromarray(labels.astype(np.uint16)).save(folder / f"{name}_mask.png")
    return path


def write_tile(directory: Path, name: str, image: NDArray[np.uint8], labels: I32) -> Path:
    """Write one padded test tile in the format of ``data build``, and return the directory."""
    split = directory / "test"
    height, width = labels.shape
    padding = ((0, 512 - height), (0, 512 - width))
    for kind in ("images", "labels"):
        (split / kind).mkdir(parents=True, exist_ok=True)
    channels = np.moveaxis(normalize_contrast(image), -1, 0)
    np.save(split / "images" / f"{name}.npy", np.pad(channels, ((0, 0), *padding)))
    np.save(split / "labels" / f"{name}.npy", np.pad(labels, padding))
    record = {"tile_id": name, "image_id": name, "object_set": name, "y0": 0, "x0": 0, "height": height}
    record |= {"width": width, "objects": int(labels.max()), "dataset": "yeaz", "group": "Yeast"}
    (split / "tiles.jsonl").write_text(json.dumps(record) + "\n")
    (directory / "dataset.json").write_text(json.dumps({"schema": 1, "name": "yeaz", "group": "Yeast"}))
    return directory
