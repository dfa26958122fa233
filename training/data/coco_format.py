"""Splits of a built dataset as COCO JSON.

Source: cocodataset.org, "Data format".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from runtime.files.outputs.coco import CATEGORY, annotations_of, dump
from runtime.types import I32
from training.data.records import TileRecord


def write_coco(path: Path, records: Sequence[TileRecord], read_labels: Callable[[str], I32], *, size_px: int) -> None:
    """Write one split as COCO JSON; labels are read tile by tile, so memory stays small.

    Image and annotation ids count from 1 in the order of the records. ``file_name`` is relative to the JSON file.

    Args:
        path: the file to write.
        records: the tiles of the split.
        read_labels: function from a tile id to its labels (size_px, size_px) int32.
        size_px: side of a tile, pixels.
    """
    with path.open("w", encoding="utf-8") as file:
        file.write('{"info":{"description":"cellsam-engine tiles"},"licenses":[],\n"categories":')
        file.write(dump([CATEGORY]) + ',\n"images":[')
        for number, record in enumerate(records, start=1):
            file.write(",\n" if number > 1 else "\n")
            image = {"id": number, "file_name": f"images/{record.tile_id}.npy", "width": size_px, "height": size_px}
            file.write(dump(image))
        file.write('\n],\n"annotations":[')
        annotation_id = 0
        for number, record in enumerate(records, start=1):
            for annotation in annotations_of(read_labels(record.tile_id)):
                annotation_id += 1
                file.write(",\n" if annotation_id > 1 else "\n")
                file.write(dump({"id": annotation_id, "image_id": number, **annotation}))
        file.write("\n]}\n")
