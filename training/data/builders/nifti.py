"""Single-plane NIfTI-1 files, as nnU-Net stores 2-D images.

Source: nifti.nimh.nih.gov, ``nifti1.h``: a 348-byte header; dim at byte 40, datatype at 70, vox_offset at 108,
scl_slope and scl_inter at 112, magic at 344. Values follow with the first axis fastest.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.errors import DataError

HEADER_BYTES = 348
DTYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4"}


def read_nifti_plane(path: Path) -> NDArray[Any]:
    """Read a ``.nii`` or ``.nii.gz`` file of one plane.

    Returns:
        (H, W) in the file's dtype, or float64 if the header scales the values.

    Raises:
        DataError: the file is damaged, has another format, or contains more than one plane.
    """
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        order = "<" if struct.unpack_from("<i", data)[0] == HEADER_BYTES else ">"
        (size,) = struct.unpack_from(f"{order}i", data)
        rank, *extent = struct.unpack_from(f"{order}8h", data, 40)
        (kind,) = struct.unpack_from(f"{order}h", data, 70)
        offset, slope, intercept = struct.unpack_from(f"{order}3f", data, 108)
        magic = data[344:347]
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise DataError(f"{path.name} cannot be read ({error}); download the file again.", kind="damaged") from error
    if size != HEADER_BYTES or magic != b"n+1" or kind not in DTYPES:
        raise DataError(
            f"{path.name} is not a single-file NIfTI-1 of plain numbers; expected .nii or .nii.gz.", kind="unsupported"
        )
    shape = [axis for axis in extent[:rank] if axis != 1]
    if len(shape) != 2:
        raise DataError(
            f"{path.name} has shape {tuple(extent[:rank])}; expected one plane (X, Y, 1).", kind="wrong_shape"
        )
    dtype = np.dtype(order + DTYPES[kind])
    count = shape[0] * shape[1]
    if len(data) < int(offset) + count * dtype.itemsize:
        raise DataError(f"{path.name} is truncated; download the file again.", kind="damaged")
    plane = np.frombuffer(data, dtype, count, int(offset)).reshape(shape[::-1])
    return plane if slope in (0.0, 1.0) and intercept == 0.0 else plane * slope + intercept
