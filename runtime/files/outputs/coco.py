"""Label maps as COCO annotations: boxes, areas, run-length encoded masks.

Sources: cocodataset.org, "Data format"; for compressed run lengths pycocotools ``common/maskApi.c`` (``rleEncode``,
``rleToString``), whose output the tests contain as golden strings.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.files.placing import write_whole
from runtime.types import I32

CATEGORY = {"id": 1, "name": "cell", "supercategory": "cell"}


def write_coco(path: Path, images: Iterable[tuple[str, I32]], description: str) -> None:
    """Write the labels of several images as COCO JSON, atomically; one image is in memory at a time.

    Image and annotation ids count from 1. The attribute ``label`` of an annotation is the label of the cell.

    Args:
        path: the file to write.
        images: file name and labels, (H, W) int32, of each image.
        description: description of the data.
    """
    listed: list[dict[str, Any]] = []
    count = 0

    def write(temporary: Path) -> None:
        nonlocal count
        with temporary.open("w", encoding="utf-8") as file:
            file.write(f'{{"info":{dump({"description": description})},"licenses":[],\n"categories":{dump([CATEGORY])}')
            file.write(',\n"annotations":[')
            for number, (name, labels) in enumerate(images, start=1):
                listed.append({"id": number, "file_name": name, "width": labels.shape[1], "height": labels.shape[0]})
                values = np.unique(labels[labels > 0]).tolist()
                for label, annotation in zip(values, annotations_of(labels), strict=True):
                    count += 1
                    named = {"id": count, "image_id": number, "attributes": {"label": label}, **annotation}
                    file.write((",\n" if count > 1 else "\n") + dump(named))
            file.write('\n],\n"images":[')
            file.write(",".join("\n" + dump(image) for image in listed) + "\n]}\n")

    write_whole(path, write)


def annotations_of(labels: I32) -> Iterator[dict[str, Any]]:
    """Yield the COCO annotations of a label map, in the order of the labels.

    Args:
        labels: (H, W) int32, 0 background, 1..n.

    Yields:
        ``bbox`` [x, y, width, height] and ``area`` in pixels, ``segmentation`` as compressed run
        lengths, ``iscrowd`` 0.
    """
    from scipy.ndimage import find_objects

    for index, box in enumerate(find_objects(labels), start=1):
        if box is None:
            continue
        rows, columns = box
        mask = labels[box] == index
        size = (rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start)
        yield {
            "category_id": CATEGORY["id"],
            "iscrowd": 0,
            "bbox": [size[1], size[0], size[3], size[2]],
            "area": int(mask.sum()),
            "segmentation": {
                "size": [labels.shape[0], labels.shape[1]],
                "counts": compress_counts(run_lengths(mask, (size[0], size[1]), (labels.shape[0], labels.shape[1]))),
            },
        }


def run_lengths(mask: NDArray[np.bool_], offset_yx: tuple[int, int], size_hw: tuple[int, int]) -> list[int]:
    """Return the lengths of the runs of a mask in column order, starting with zeros, as in COCO.

    Args:
        mask: (h, w) window of the mask with at least one true pixel.
        offset_yx: upper left corner of the window in the image.
        size_hw: image size (height, width) in pixels.
    """
    x, y = np.nonzero(mask.T)
    position = (x + offset_yx[1]) * size_hw[0] + y + offset_yx[0]
    breaks = np.flatnonzero(np.diff(position) != 1)
    starts = position[np.concatenate(([0], breaks + 1))]
    stops = position[np.concatenate((breaks, [len(position) - 1]))] + 1
    edges = np.concatenate(([0], np.stack((starts, stops), axis=1).ravel(), [size_hw[0] * size_hw[1]]))
    lengths: list[int] = np.diff(edges).tolist()
    return lengths if lengths[-1] else lengths[:-1]


def compress_counts(counts: Sequence[int]) -> str:
    """Encode run lengths in COCO's printable form.

    From the fourth on, a length is stored as its difference from the one two before. Each character carries 5 bits, low
    bits first, with bit 6 set if more follow, plus 48.
    """
    out = []
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        while True:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            out.append(chr(48 + (bits | 32 if more else bits)))
            if not more:
                break
    return "".join(out)


def dump(value: Any) -> str:
    """Encode a value as JSON without spaces."""
    return json.dumps(value, separators=(",", ":"))
