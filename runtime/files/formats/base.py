"""Base class of file readers: bounds checks, errors that name the file, and closing."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from runtime.errors import InputError
from runtime.extras import install_command

Array = NDArray[np.generic]
Reader = TypeVar("Reader", bound="FileReader")

RGB = ("red", "green", "blue")
"""Channel names of an image that its file declares as a colour image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageInfo:
    """Description of an image, known before any pixel is read."""

    size_hw: tuple[int, int]
    """Height and width, pixels."""
    dtype: np.dtype[Any]
    channels: tuple[str, ...]
    """Names of the channels: numbers from "0" if the file does not name them, ``RGB`` for colour images."""
    pixel_size_um: float | None = None
    """Side of a pixel, micrometres; the geometric mean if pixels are not square."""
    levels: tuple[tuple[int, int], ...] = ()
    """Sizes of the levels of a pyramid, the largest first; one size if there is no pyramid."""


class FileReader(ABC):
    """``ImageReader`` for one file; several threads may read at a time."""

    def __init__(self, path: Path, info: ImageInfo) -> None:
        self.path = path
        self.name = str(path)
        self.size_hw = info.size_hw
        self.dtype = info.dtype
        self.channels = info.channels
        self.pixel_size_um = info.pixel_size_um
        self.levels = info.levels or (info.size_hw,)

    @property
    def stack(self) -> Mapping[str, int]:
        """Length of the axes T (time) and Z of the file that are longer than 1."""
        return {}

    def read(
        self, top: int, left: int, height: int, width: int, channels: Sequence[int] | None = None
    ) -> NDArray[np.generic]:
        """Read a part of the image.

        Args:
            top: first row.
            left: first column.
            height: rows.
            width: columns.
            channels: indices of the channels, in the order of the result; default: all.

        Returns:
            (height, width, C) in the file's dtype.

        Raises:
            InputError: the part does not lie in the image, the file is damaged, or this part of it cannot be read.
        """
        rows, columns = self.size_hw
        if min(top, left) < 0 or min(height, width) < 1 or top + height > rows or left + width > columns:
            raise InputError(
                f"{self.name}: rows {top} to {top + height} and columns {left} to {left + width} were requested; "
                f"expected a part of {rows} x {columns} pixels.",
                kind="out_of_range",
            )
        with damage_named(self.path):
            return self._read(
                (top, left, height, width), tuple(range(len(self.channels)) if channels is None else channels)
            )

    def read_all(self) -> NDArray[np.generic]:
        """Read the whole image, (H, W, C)."""
        return self.read(0, 0, *self.size_hw)

    def absent_chunks(self) -> tuple[int, int]:
        """Count the missing chunks, which read as a fill value, and all chunks that were checked."""
        return 0, 0

    @abstractmethod
    def _read(self, part: tuple[int, int, int, int], channels: tuple[int, ...]) -> Array:
        """Read a part (top, left, height, width) that lies in the image."""

    def close(self) -> None:  # noqa: B027 - most readers hold nothing
        """Close the file."""

    def __enter__(self: Reader) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn any error of a library into an ``InputError`` that names the file and what to do."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # each library raises its own errors for damaged files
        if isinstance(error, OSError) and error.errno is not None:  # a system error; Pillow's errors have no number
            raise InputError(
                f"{path} cannot be read ({error.strerror}); check its permissions and its disk.", kind="unreadable"
            ) from error
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}: {error}); it is damaged or has a wrong suffix.",
            kind="damaged",
        ) from error


def optional_package(module: str, package: str, purpose: str, *, extra: str = "formats") -> ModuleType:
    """Import a package that the base install lacks.

    Args:
        module: name to import.
        package: name to install.
        purpose: what needs it, for the message.
        extra: the extra of this package that installs it.

    Raises:
        InputError: the package or one of its dependencies is not installed; the message states what to install.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: a shared library that the package loads
        raise InputError(
            f"{purpose} needs the package {package}, which cannot be imported ({error}). "
            f"Install it: {install_command(extra)}.",
            kind="not_installed",
        ) from error


def channel_names(count: int, given: Sequence[str]) -> tuple[str, ...]:
    """Return the names of a file, or numbers from "0" if the file does not name every channel."""
    return tuple(given) if len(given) == count else tuple(str(number) for number in range(count))


def distinct_names(names: Sequence[str]) -> tuple[str, ...]:
    """Append the channel number to names that several channels share."""
    return tuple(f"{name}_{number}" if names.count(name) > 1 else name for number, name in enumerate(names))


def check_opaque(alpha: Array, path: Path) -> None:
    """Raise an ``InputError`` unless an alpha channel is opaque."""
    opaque = (1 << 8 * alpha.dtype.itemsize) - 1 if alpha.dtype.kind == "u" else 1
    if not np.all(alpha == opaque):
        raise InputError(
            f"{path} has a transparent alpha channel; flatten it or save it without alpha.", kind="unsupported"
        )
