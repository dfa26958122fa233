"""Writer of DeepCell Label's zip files: the image, its labels and the list of cells.

Source: vanvalenlab/deepcell-label, ``documentation/LABEL_FILE_FORMAT.md``.
"""

from __future__ import annotations

import hashlib
import io
import json
import uuid
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.files.label_files.deepcell_label import CELLS_ENTRY, IMAGE_ENTRY, LABELS_ENTRY
from runtime.files.outputs.imagej import EARLIEST
from runtime.files.placing import write_whole
from runtime.types import I32


def write_deepcell_label(path: Path, labels: I32, image: NDArray[Any]) -> None:
    """Write a zip file that DeepCell Label opens, atomically.

    Args:
        path: the zip file.
        labels: (H, W), 0 background.
        image: (H, W) or (H, W, C).
    """
    channels = image[..., np.newaxis] if image.ndim == 2 else image
    values = [int(value) for value in np.unique(labels) if value]
    cells = [{"value": value, "cell": value, "t": 0, "c": 0} for value in values]
    entries = {
        IMAGE_ENTRY: _ome_tiff(np.moveaxis(channels, -1, 0)[:, np.newaxis]),
        LABELS_ENTRY: _ome_tiff(labels.astype(np.int32)[np.newaxis, np.newaxis]),
        CELLS_ENTRY: json.dumps(cells).encode(),
    }

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as file:
            for name, content in entries.items():
                file.writestr(zipfile.ZipInfo(name, EARLIEST), content, zipfile.ZIP_DEFLATED)

    write_whole(path, write)


def _ome_tiff(array: NDArray[Any]) -> bytes:
    """Encode an array with the axes CZYX, without compression, since the zip file compresses it."""
    import tifffile

    array = np.ascontiguousarray(array)
    identity = uuid.uuid5(uuid.NAMESPACE_OID, hashlib.sha256(array.data).hexdigest())
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer, array, ome=True, photometric="minisblack", metadata={"axes": "CZYX", "UUID": str(identity)}
    )
    return buffer.getvalue()
