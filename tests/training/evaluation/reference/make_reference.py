"""Write the reference files of this folder, with cellpose and pycocotools; see README.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.types import I32

HERE = Path(__file__).parent


def grid_of_cells(rng: np.random.Generator, cells: int, pitch: int) -> I32:
    """Return a grid of rectangles of random size, some of them touching."""
    labels = np.zeros((cells * pitch, cells * pitch), np.int32)
    for index in range(cells * cells):
        y, x = (v * pitch for v in divmod(index, cells))
        height, width = rng.integers(pitch // 2, pitch + 1, 2)
        labels[y : y + height, x : x + width] = index + 1
    return labels


def disturbed(rng: np.random.Generator, truth: I32) -> I32:
    """Shift, split, merge, drop and invent cells, and shuffle the labels."""
    labels = np.roll(truth, rng.integers(0, 2), axis=0)
    ids = np.unique(labels[labels > 0])
    for label in ids:
        fate = rng.random()
        rows, columns = np.nonzero(labels == label)
        if not rows.size:  # merged into another one
            continue
        if fate < 0.15:
            labels[labels == label] = 0
        elif fate < 0.3:
            cut = rows < np.median(rows)
            labels[rows[cut], columns[cut]] = labels.max() + 1
        elif fate < 0.45:
            labels[labels == rng.choice(ids)] = label
        elif fate < 0.6:
            grown = (slice(rows.min(), rows.max() + 2), slice(columns.min(), columns.max() + 2))
            labels[grown][labels[grown] == 0] = label
    shuffled = np.concatenate(([0], rng.permutation(labels.max()) + 1))
    return shuffled[labels].astype(np.int32)


def cellpose_reference(path: Path) -> None:
    from cellpose.metrics import average_precision

    rng = np.random.default_rng(7)
    truths = [grid_of_cells(rng, 5, 8) for _ in range(4)]
    predictions = [disturbed(rng, truth) for truth in truths]
    truths.append(truths[0])
    predictions.append(np.zeros_like(truths[0]))
    thresholds = np.array([0.2, 0.35, 0.5, 0.6, 0.75, 0.9])
    ap, tp, fp, fn = average_precision(truths, predictions, threshold=thresholds)
    _save(path, truths, predictions, thresholds=thresholds, ap=ap, tp=tp, fp=fp, fn=fn)


def pycocotools_reference(path: Path) -> None:
    rng = np.random.default_rng(11)
    # The first image has more cells than COCO's usual limit of 100 detections.
    truths = [grid_of_cells(rng, 12, 10), grid_of_cells(rng, 4, 12), grid_of_cells(rng, 5, 9)]
    predictions = [disturbed(rng, truth) for truth in truths]
    # One digit gives tied scores.
    scores = [rng.random(len(np.unique(p)) - 1).round(1) for p in predictions]
    named = {f"scores_{i}": values for i, values in enumerate(scores)}
    _save(path, truths, predictions, figures=_pycocotools(truths, predictions, scores), **named)


def _pycocotools(truths: list[I32], predictions: list[I32], scores: list[NDArray[Any]]) -> list[float]:
    from pycocotools import mask
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def annotations(maps: list[I32], values: list[NDArray[Any]] | None) -> list[dict[str, Any]]:
        found = []
        for image, labels in enumerate(maps):
            for place, label in enumerate(np.unique(labels[labels > 0])):
                rle = mask.encode(np.asfortranarray(labels == label, dtype=np.uint8))
                one = {"id": len(found) + 1, "image_id": image, "category_id": 1, "segmentation": rle, "iscrowd": 0}
                score = {} if values is None else {"score": float(values[image][place])}
                found.append({**one, **score, "area": float(mask.area(rle))})
        return found

    sides = []
    for maps, values in ((truths, None), (predictions, scores)):
        side = COCO()
        images = [{"id": i, "height": m.shape[0], "width": m.shape[1]} for i, m in enumerate(maps)]
        side.dataset = {"images": images, "categories": [{"id": 1}], "annotations": annotations(maps, values)}
        side.createIndex()
        sides.append(side)
    evaluation = COCOeval(*sides, iouType="segm")
    evaluation.params.maxDets = [1, 100, 10_000]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, 0, 0, 2].mean(axis=1)
    return [float(precision.mean()), float(precision[0]), float(precision[5])]


def _save(path: Path, truths: list[I32], predictions: list[I32], **arrays: Any) -> None:
    maps = {f"{name}_{i}": m.astype(np.uint16) for name, ms in (("truth", truths), ("predicted", predictions))
            for i, m in enumerate(ms)}  # fmt: skip
    np.savez_compressed(path, **maps, **arrays)


if __name__ == "__main__":
    cellpose_reference(HERE / "cellpose_average_precision.npz")
    pycocotools_reference(HERE / "pycocotools_segm.npz")
