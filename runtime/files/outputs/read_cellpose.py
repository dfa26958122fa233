"""Readers of Cellpose's masks: ``NAME_seg.npy`` without running code from the file, and ``NAME_masks.tif`` or ``.png``.

A ``_seg.npy`` file is a pickle, and unpickling runs whatever functions a pickle names. This reader knows the few names
that numpy writes for arrays, and replaces each by a description, from which it builds the arrays itself. Any other name
raises an error, and no code of the file or of numpy's unpickling runs.

Source: MouseLand/cellpose, ``cellpose/io.py`` (``masks_flows_to_seg``, ``imread``) and ``cellpose/gui/io.py``
(``_load_seg``); NEP 1 and ``numpy.lib.format`` for the file.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.provenance import METADATA_KEY
from runtime.types import I32, Bool

SEG_ENDING = "_seg.npy"


@dataclass(frozen=True, kw_only=True, slots=True)
class SegFile:
    """Content of a ``_seg.npy`` file."""

    masks: I32
    """(H, W), or (Z, H, W) of a stack: 0 background, positive numbers of cells, perhaps with gaps."""
    is_manual: Bool
    """(n,): entry k is True if the user drew cell ``k + 1``; (0,) if the file does not record it."""
    image: str | None
    """Path of the image when the file was written."""
    made_by: str = ""
    """JSON of what made the masks; empty if the file does not say."""


def read_masks(path: str | Path) -> I32:
    """Read the label map of a ``_seg.npy``, TIFF or PNG file.

    Returns:
        (H, W), or (Z, H, W) of a stack: 0 background, positive numbers of cells, perhaps with gaps.

    Raises:
        InputError: the file does not exist, is damaged or of another type, or contains something other than labels.
    """
    path = Path(path)
    if path.name.lower().endswith(SEG_ENDING):
        return read_seg(path).masks
    readers: dict[str, Callable[[Path], NDArray[Any]]] = {".tif": _tiff, ".tiff": _tiff, ".png": _png}
    read = readers.get(path.suffix.lower())
    if read is None:
        raise InputError(
            f"{path} has type {path.suffix or 'none'!r}; expected {SEG_ENDING}, {', '.join(readers)}.",
            kind="unsupported",
        )
    with _damage_named(path):
        masks = read(path)
    return _as_labels(path, masks)


def read_seg(path: str | Path) -> SegFile:
    """Read a ``_seg.npy`` file without running code from it.

    Raises:
        InputError: the file does not exist, is damaged, has no masks, or contains anything but arrays and plain values.
    """
    path = Path(path)
    with _damage_named(path), path.open("rb") as file:
        content = _unpickled(file)
    if not isinstance(content, dict) or not isinstance(content.get("masks"), _Array):
        raise InputError(
            f"{path} contains no masks; expected the dictionary of Cellpose's {SEG_ENDING} files. Save it again in "
            "Cellpose.",
            kind="wrong_type",
        )
    with _damage_named(path):
        masks = content["masks"].built()
        manual = content.get("ismanual")
        drawn = manual.built() if isinstance(manual, _Array) else np.zeros(0, np.bool_)
    if masks.dtype.kind in "if" and masks.min(initial=0) == -1:  # the first versions of Cellpose count from -1
        masks = masks + 1
    image, made_by = content.get("filename"), content.get(METADATA_KEY)
    return SegFile(
        masks=_as_labels(path, masks),
        is_manual=drawn.astype(np.bool_) if drawn.dtype.kind in "biu" and drawn.ndim == 1 else np.zeros(0, np.bool_),
        image=str(image) if isinstance(image, str | PurePath) else None,
        made_by=made_by if isinstance(made_by, str) else "",
    )


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turn errors while reading into an ``InputError`` that names the file."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path} is not a file; check the path.", kind="not_found") from error
    except _ForeignNameError as error:
        raise InputError(
            f"{path} contains {error}; expected arrays and plain values, the only content that is read. Save the file "
            "again in Cellpose, or give the masks as TIFF.",
            kind="unsupported",
        ) from error
    except Exception as error:  # unpickling and decoders of damaged files raise any class
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}: {error}); it is damaged or of another type. Copy it "
            "again.",
            kind="damaged",
        ) from error


def _as_labels(path: Path, masks: NDArray[Any]) -> I32:
    """Convert masks to int32.

    Raises:
        InputError: these are not 2 or 3 axes of whole numbers from 0.
    """
    whole = masks.dtype.kind in "biu" or (masks.dtype.kind == "f" and bool((masks == np.floor(masks)).all()))
    if masks.ndim not in (2, 3) or not whole or masks.min(initial=0) < 0 or masks.max(initial=0) >= 1 << 31:
        raise InputError(
            f"{path} has masks of shape {masks.shape} and type {masks.dtype}; expected whole numbers from 0, one for "
            "each pixel of a plane or stack.",
            kind="wrong_shape",
        )
    return masks.astype(np.int32)


def _tiff(path: Path) -> NDArray[Any]:
    import tifffile

    masks: NDArray[Any] = tifffile.imread(path)
    return masks


def _png(path: Path) -> NDArray[Any]:
    from runtime.files.formats.pictures import read_picture

    return read_picture(path)


class _ForeignNameError(Exception):
    """A pickle names something that the reader does not know."""


class _Plain:
    """Replacement for a class of numpy that a pickle names only as an argument."""


@dataclass(slots=True)
class _DType:
    """Description of a numpy data type, as pickled: ``numpy.dtype(code, align, copy)``, then its state."""

    code: str
    align: object = False
    copy: object = True
    byte_order: str = "="

    def __setstate__(self, state: Any) -> None:
        _version, order, subarray, names, fields = state[:5]
        if subarray is not None or names is not None or fields is not None:
            raise ValueError("data types with fields are not supported")
        self.byte_order = order

    def built(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = np.dtype(str(self.code))
        if dtype.kind not in "biuf":
            raise ValueError(f"an array has type {dtype}; expected numbers")
        return dtype.newbyteorder("=" if self.byte_order == "|" else self.byte_order)  # type: ignore[arg-type]


@dataclass(slots=True)
class _Array:
    """Description of a numpy array, as pickled: an empty array, then its state."""

    shape: tuple[int, ...] = ()
    dtype: _DType | None = None
    fortran: bool = False
    values: Any = field(default=b"", repr=False)

    def __setstate__(self, state: Any) -> None:
        _version, self.shape, self.dtype, self.fortran, self.values = state

    def built(self) -> NDArray[Any]:
        if not isinstance(self.dtype, _DType):
            raise ValueError("an array has no data type")
        flat: NDArray[Any] = np.frombuffer(self.values, self.dtype.built())
        return flat.reshape(self.shape, order="F" if self.fortran else "C")


def _empty_array(*_: object) -> _Array:
    return _Array()


def _array_of_buffer(values: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    return _Array(shape, dtype, order == "F", values)


def _scalar(dtype: Any, values: Any = b"") -> _Array:
    return _Array((), dtype, values=values)


def _bytes_of_text(text: str, _encoding: str) -> bytes:
    return text.encode("latin1")  # how protocols below 3 write bytes


_NAMES: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Plain,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _bytes_of_text,
    ("pathlib", "PosixPath"): PurePosixPath,
    ("pathlib", "WindowsPath"): PureWindowsPath,
    **{
        (f"numpy.{core}.{module}", name): known
        for core in ("core", "_core")
        for module, name, known in (
            ("multiarray", "_reconstruct", _empty_array),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _array_of_buffer),
        )
    },
}
"""Replacements for the names that a pickle may contain."""


class _NamesOnly(pickle.Unpickler):
    """Unpickler that resolves the names of ``_NAMES`` and no others."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise _ForeignNameError(f"{module}.{name}")
        return _NAMES[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise _ForeignNameError("a reference to another file")


def _unpickled(file: BinaryIO) -> Any:
    """Return the object of a ``.npy`` file with one Python object, arrays as descriptions."""
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if shape != () or dtype != np.dtype(object):
        raise ValueError(f"it is an array of {dtype} of shape {shape}, not the dictionary that Cellpose writes")
    found = _NamesOnly(file).load()
    if not isinstance(found, _Array) or not isinstance(found.values, list) or len(found.values) != 1:
        raise ValueError("it does not contain one object")
    return found.values[0]
