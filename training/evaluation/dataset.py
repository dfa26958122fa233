"""Images with true labels on disk, and the datasets and groups to which they belong.

Two layouts are read:

- ``ROOT/<dataset>/<id>_img.png`` and ``<id>_mask.png``, with an optional ``manifest.csv`` in ROOT or beside it
  (columns ``img``, ``mask``: paths relative to the manifest, ``dataset``, ``id``, ``modality``, optional ``group``).
- The output of ``data build`` (``training.data.format``), or a directory of several: tiles of 512 pixels whose contrast
  is already equalised.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.files.plain import read_image
from runtime.types import I32
from training.evaluation.matching import check_labels

NO_CELLS = "No cells"
"""Group of images in which every predicted cell is wrong (``training.evaluation.no_cells``)."""

PAPER_GROUPS: Mapping[str, str] = {
    "tissuenet": "Tissue",
    "brifiseg": "Cell Culture",
    "cellpose": "Cell Culture",
    "livecell": "Cell Culture",
    "phase400": "Cell Culture",
    "usiigaci_phase": "Cell Culture",
    "deepbacs": "Bacteria",
    "omnipose": "Bacteria",
    "yeastnet": "Yeast",
    "yeaz": "Yeast",
    "bbbc039": "Nuclear",
    "dsb2018": "Nuclear",
    "dsb": "Nuclear",
    "no_cells": NO_CELLS,
}
"""Group of each dataset in the paper (Fig. 2a), and of those of this project."""

UNGROUPED = "Other"
"""Group of unknown datasets."""

MODALITIES = ("histology", "cytology", "fluorescence", "phase", "brightfield")
"""Words that name the parts of a mixed dataset, searched for in this order in a manifest's modality."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Paths and names of one image and its true labels."""

    id: str
    dataset: str
    subset: str
    """The dataset, or one of its modalities if it has several: ``dsb2018 histology``."""
    group: str
    """One of the paper's groups: Tissue, Cell Culture, Bacteria, Yeast, Nuclear; ``Other`` if unknown."""
    image_path: Path
    labels_path: Path
    tile_hw: tuple[int, int] | None = None
    """Size without padding, for tiles of ``data build`` only. Such an image has channels first on disk and equalised
    contrast."""


def find_samples(root: str | Path, *, split: str = "test") -> list[Sample]:
    """Return all samples below a directory, sorted by dataset and id.

    Args:
        root: a directory in one of the layouts above.
        split: split of a ``data build`` output to read.

    Raises:
        InputError: the directory or its samples are missing, an image has no mask, or a manifest lists a missing file.
        training.data.DataError: a build is damaged or not finished.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(
            f"{root} is not a directory; expected one with DATASET/ID_img.png and ID_mask.png.", kind="not_found"
        )
    built = (root / "dataset.json").is_file() or any(root.glob("*/dataset.json"))
    samples = _tiles(root, split) if built else _folder_samples(root)
    if not samples:
        raise InputError(
            f"{root} contains no samples; expected DATASET/ID_img.png with DATASET/ID_mask.png, or the output of "
            "'data build'.",
            kind="not_found",
        )
    return sorted(samples, key=lambda s: (s.dataset, s.id))


def read_sample(sample: Sample) -> tuple[NDArray[np.generic], I32]:
    """Read one sample.

    Returns:
        The image (H, W) or (H, W, C), and the true labels (H, W) int32; for a tile, without padding.

    Raises:
        InputError: a file is missing or damaged, or image and labels have different sizes.
    """
    image, labels = read_image(sample.image_path), check_labels(read_image(sample.labels_path), "true")
    if sample.tile_hw is not None:
        part = tuple(slice(size) for size in sample.tile_hw)
        image, labels = np.moveaxis(image, 0, -1)[part], labels[part]
    if image.shape[:2] != labels.shape:
        raise InputError(
            f"{sample.labels_path.name} has shape {labels.shape}, its image {image.shape[:2]}; expected the same size.",
            kind="wrong_shape",
        )
    return image, labels.astype(np.int32)


def select(samples: Iterable[Sample], datasets: Iterable[str]) -> list[Sample]:
    """Return the samples of the named datasets or subsets; all if none is named.

    Raises:
        InputError: no sample has one of the names.
    """
    samples, names = list(samples), set(datasets)
    known = {name for s in samples for name in (s.dataset, s.subset)}
    if names - known:
        raise InputError(
            f"no image belongs to {', '.join(sorted(names - known))}; expected some of {', '.join(sorted(known))}.",
            kind="not_found",
        )
    return [s for s in samples if not names or names & {s.dataset, s.subset}]


def _tiles(root: Path, split: str) -> list[Sample]:
    from training.data import read_split
    from training.data.format import tile_path

    tiles = read_split(root, split)  # type: ignore[arg-type]  # it checks the name itself
    return [
        Sample(
            id=record.tile_id,
            dataset=record.dataset,
            subset=record.dataset,
            group=record.group,
            image_path=tile_path(directory, "images", record.tile_id),
            labels_path=tile_path(directory, "labels", record.tile_id),
            tile_hw=(record.height, record.width),
        )
        for record, directory in zip(tiles.records, tiles.roots, strict=True)
    ]


def _folder_samples(root: Path) -> list[Sample]:
    rows, mixed = _read_manifest(root)
    samples = []
    for image in sorted(root.glob("*/*_img.png")):
        row = rows.get(image.resolve(), {})
        dataset = row.get("dataset") or image.parent.name
        modality = row.get("modality", "")
        samples.append(
            Sample(
                id=image.name.removesuffix("_img.png"),
                dataset=dataset,
                subset=f"{dataset} {_modality_word(modality)}" if dataset in mixed else dataset,
                group=row.get("group") or _group(dataset, modality),
                image_path=image,
                labels_path=_partner(image, image.with_name(image.name.replace("_img.png", "_mask.png"))),
            )
        )
    return samples


def _partner(image: Path, labels: Path) -> Path:
    if not labels.is_file():
        raise InputError(f"{image} has no true labels; expected {labels}.", kind="not_found")
    return labels


def _read_manifest(root: Path) -> tuple[dict[Path, dict[str, str]], set[str]]:
    """Return the rows of the manifest by image path, and the datasets with several modalities in any split."""
    path = next((p for p in (root / "manifest.csv", root.parent / "manifest.csv") if p.is_file()), None)
    if path is None:
        return {}, set()
    with path.open(newline="", encoding="utf-8") as file:
        entries = list(csv.DictReader(file))
    modalities: dict[str, set[str]] = defaultdict(set)
    rows = {}
    for number, row in enumerate(entries, start=2):
        missing = [column for column in ("img", "dataset", "modality") if not row.get(column)]
        if missing:
            raise InputError(
                f"{path}, line {number}, has no {', '.join(missing)}; complete the manifest.", kind="damaged"
            )
        modalities[row["dataset"]].add(_modality_word(row["modality"]))
        image = (path.parent / row["img"]).resolve()
        if root.resolve() in image.parents:
            if not image.is_file():
                raise InputError(
                    f"{path}, line {number}, lists {row['img']}, which is missing; copy the data again.",
                    kind="not_found",
                )
            rows[image] = row
    return rows, {dataset for dataset, words in modalities.items() if len(words) > 1}


def _modality_word(modality: str) -> str:
    text = modality.lower()
    return next((word for word in MODALITIES if word in text), re.sub(r"[^a-z0-9]+", " ", text).strip() or "unknown")


def _group(dataset: str, modality: str) -> str:
    return PAPER_GROUPS.get(dataset.lower(), "Nuclear" if "nuclei" in modality.lower() else UNGROUPED)
