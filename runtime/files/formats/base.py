"""What all readers share: checked bounds, errors that name the file, a lifetime."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
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
"""Names of the channels of an image whose file says that it is one in colour."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageInfo:
    """What a reader knows before it reads a pixel."""

    size_hw: tuple[int, int]
    """Pixels."""
    dtype: np.dtype[Any]
    channels: tuple[str, ...]
    """Names; numbers from "0" on where the file names none; ``RGB`` for images in colour."""
    pixel_size_um: float | None = None
    """Side of a pixel; the geometric mean where it is no square."""
    levels: tuple[tuple[int, int], ...] = ()
    """Sizes of the levels of a pyramid, the largest first; one where there is no pyramid."""


class FileReader(ABC):
    """An ``ImageReader`` of one file; several threads may read at a time."""

    def __init__(self, path: Path, info: ImageInfo) -> None:
        self.path = path
        self.name = str(path)
        self.size_hw = info.size_hw
        self.dtype = info.dtype
        self.channels = info.channels
        self.pixel_size_um = info.pixel_size_um
        self.levels = info.levels or (info.size_hw,)

    def read(
        self, top: int, left: int, height: int, width: int, channels: Sequence[int] | None = None
    ) -> NDArray[np.generic]:
        """Read a part of the image.

        Args:
            top: first row.
            left: first column.
            height: rows.
            width: columns.
            channels: places of the channels wanted, in the order wanted; default, all.

        Returns:
            (height, width, C) in the file's dtype.

        Raises:
            InputError: a part that does not lie in the image; a file that is damaged or cannot be read there.
        """
        rows, columns = self.size_hw
        if min(top, left) < 0 or min(height, width) < 1 or top + height > rows or left + width > columns:
            raise InputError(
                f"{self.name}: rows {top} to {top + height} and columns {left} to {left + width} were asked for; "
                f"expected a part of {rows} x {columns} pixels.",
                kind="out_of_range",
            )
        with damage_named(self.path):
            return self._read(
                (top, left, height, width), tuple(range(len(self.channels)) if channels is None else channels)
            )

    def read_all(self) -> NDArray[np.generic]:
        """The whole image, (H, W, C)."""
        return self.read(0, 0, *self.size_hw)

    def absent_chunks(self) -> tuple[int, int]:
        """Stored pieces of the image that are not there and read as a fill value, and all that were looked for."""
        return 0, 0

    @abstractmethod
    def _read(self, part: tuple[int, int, int, int], channels: tuple[int, ...]) -> Array:
        """``read`` of a part (top, left, height, width) that lies in the image."""

    def close(self) -> None:  # noqa: B027 - most readers hold nothing
        """Let go of the file."""

    def __enter__(self: Reader) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn whatever a library raises over a file into an ``InputError`` that names the file and what to do."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:  # each library raises its own kinds for damaged files
        if isinstance(error, OSError) and error.errno is not None:  # the system's; Pillow's own have no number
            raise InputError(
                f"{path} cannot be read ({error.strerror}); check its permissions and its disk.", kind="unreadable"
            ) from error
        raise InputError(
            f"{path} cannot be read ({type(error).__name__}: {error}); it is damaged or not what its name says.",
            kind="damaged",
        ) from error


def optional_package(module: str, package: str, purpose: str) -> ModuleType:
    """Import a package that the base install lacks.

    Raises:
        InputError: it is not installed, or what it needs is missing; the message says what to install.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError) as error:  # OSError: a shared library that the package loads
        raise InputError(
            f"{purpose} needs the package {package}, which cannot be imported ({error}). "
            f"Install it: {install_command('formats')}.",
            kind="not_installed",
        ) from error


def channel_names(count: int, given: Sequence[str]) -> tuple[str, ...]:
    """The names that a file gives, or numbers from "0" on where it does not name each channel."""
    return tuple(given) if len(given) == count else tuple(str(number) for number in range(count))


def distinct_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names of channels as they are, with the channel's number behind those that several channels have."""
    return tuple(f"{name}_{number}" if names.count(name) > 1 else name for number, name in enumerate(names))


def check_opaque(alpha: Array, path: Path) -> None:
    """Raise an ``InputError`` unless an alpha channel hides nothing."""
    opaque = (1 << 8 * alpha.dtype.itemsize) - 1 if alpha.dtype.kind == "u" else 1
    if not np.all(alpha == opaque):
        raise InputError(
            f"{path} has a transparent alpha channel; flatten it or save it without alpha.", kind="unsupported"
        )
