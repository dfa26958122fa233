"""Snapshot of an image's labels, a TIFF, so that a project opens without replaying its whole journal."""

from __future__ import annotations

import zlib
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from runtime.correction.journal import SCHEMA, Base
from runtime.errors import InputError
from runtime.files.formats.base import damage_named
from runtime.files.placing import write_whole
from runtime.types import I32


def write_snapshot(path: Path, labels: I32, base: Base) -> None:
    """Write labels as a compressed TIFF, atomically; it is on the disk when the function returns.

    Args:
        path: the file.
        labels: (H, W).
        base: the point of the journal; its checksum is computed.

    Raises:
        OSError: the file cannot be written; an earlier snapshot stays.
    """
    import tifffile

    labels = np.ascontiguousarray(labels, "<i4")
    description = msgspec.json.encode(replace(base, crc32=zlib.crc32(labels.data)))
    write_whole(
        path,
        lambda temporary: tifffile.imwrite(
            temporary,
            labels,
            compression="zlib",
            compressionargs={"level": 1},  # higher levels take several times longer
            photometric="minisblack",
            description=description,
            metadata=None,
        ),
        sync=True,
    )


def read_base(path: Path) -> Base | None:
    """Read the point of the journal that a snapshot is from, without the labels; None if there is no snapshot.

    Raises:
        InputError: the file is damaged.
    """
    import tifffile

    if not path.exists():
        return None
    with damage_named(path), tifffile.TiffFile(path) as file:
        base = msgspec.json.decode(file.pages.first.description, type=Base)
    if base.schema != SCHEMA:
        raise InputError(
            f"{path} has schema {base.schema}; expected {SCHEMA}. Open the project with the version of cellsam-engine "
            "that wrote it.",
            kind="wrong_version",
        )
    return base


def read_snapshot(path: Path, size_hw: tuple[int, int]) -> tuple[I32, Base] | None:
    """Read labels, (H, W), and the point of the journal that they are from; None if there is no snapshot.

    Raises:
        InputError: the file is damaged, or its labels have another size or checksum.
    """
    import tifffile

    base = read_base(path)
    if base is None:
        return None
    with damage_named(path):
        labels = np.ascontiguousarray(tifffile.imread(path), np.int32)
    if labels.shape != size_hw or zlib.crc32(labels.astype("<i4", copy=False).data) != base.crc32:
        raise InputError(
            f"{path} has other labels than its description; expected {size_hw[0]} x {size_hw[1]} pixels with the "
            f"checksum {base.crc32}. Restore it from a copy.",
            kind="damaged",
        )
    return labels, base
