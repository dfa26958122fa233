"""Reading of npz arrays row by row, because the arrays of TissueNet do not fit into a workstation's memory."""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from training.data.errors import DataError


class NpzRows:
    """One array of an npz file, read row by row; reading rows in ascending order takes one pass over the file.

    Args:
        path: the npz file, compressed or not.
        name: name of the array.

    Raises:
        DataError: the file is not an npz file, lacks the array, or has it with objects or in Fortran order.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        self._file: IO[bytes] | None = None
        try:
            self._archive = zipfile.ZipFile(path)
            file = self._open()
            version = npy.read_magic(file)
            read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            self.shape, fortran, self._dtype = read_header(file)
            self._start = file.tell()
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise self._damaged(error) from error
        if fortran or self._dtype.hasobject or len(self.shape) < 2:
            raise DataError(
                f"{path.name}[{name}] is {self._dtype}, {self.shape}; expected rows of numbers in C order. "
                "Download the file again.",
                kind="damaged",
            )
        self._row_bytes = math.prod(self.shape[1:]) * self._dtype.itemsize

    def read(self, row: int, *, last: int | None = None) -> NDArray[Any]:
        """Read one row, or one position of its last axis.

        Raises:
            DataError: the file is damaged.
        """
        try:
            file = self._file or self._open()
            file.seek(self._start + row * self._row_bytes)
            data = file.read(self._row_bytes)
        except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            self._file = None  # a broken stream cannot be read further
            raise self._damaged(error) from error
        if len(data) != self._row_bytes:
            raise self._damaged(EOFError(f"row {row} is truncated"))
        array = np.frombuffer(data, self._dtype).reshape(self.shape[1:])
        return array if last is None else array[..., last]

    def _open(self) -> IO[bytes]:
        self._file = self._archive.open(f"{self._name}.npy")
        return self._file

    def _damaged(self, error: Exception) -> DataError:
        return DataError(f"{self._path.name}[{self._name}] cannot be read ({error}); download the file again.")
