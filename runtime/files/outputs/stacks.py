"""Results of stacks and movies: one label image, one table, and the files of the Cell Tracking Challenge.

Source: celltrackingchallenge.net, "Naming and file content conventions", for ``res_track.txt`` and ``mask000.tif``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.errors import ConfigError
from runtime.files.formats.stack import StackAxis
from runtime.files.outputs.cellpose import write_seg
from runtime.files.outputs.pyramid import label_dtype
from runtime.files.outputs.tables import Row, table_columns, table_rows, write_rows
from runtime.files.placing import write_whole
from runtime.files.plain import resolution_tags, tiff_description
from runtime.provenance import Provenance, distinct
from runtime.results import Segmentation
from runtime.types import I32, Arrays


@dataclass(frozen=True, kw_only=True, slots=True)
class StackOutput:
    """Data from which the results of a stack are written."""

    results: Sequence[Segmentation]
    """The cells of each plane."""
    numbers: Sequence[I32]
    """For each plane, the labels in the stack of its cells, (n,)."""
    planes: Sequence[int]
    """Numbers of the planes in the file."""
    axis: StackAxis
    parents: Mapping[int, int] = field(default_factory=dict)
    """The label of the mother cell, of cells that came from a division."""
    pixel_size_um: float | None = None
    measured: Sequence[Arrays] = ()
    """For each plane, further columns of the table; empty if nothing was measured."""
    image: Path | None = None

    @property
    def provenance(self) -> tuple[Provenance, ...]:
        """Origin of the result; empty if unknown."""
        return distinct(result.provenance for result in self.results)

    def frames(self) -> Iterator[I32]:
        """Yield the label map of each plane, (H, W), with the labels of the stack."""
        for result, numbers in zip(self.results, self.numbers, strict=True):
            looked_up: I32 = np.concatenate([np.zeros(1, np.int32), numbers])[result.labels]
            yield looked_up

    def labels(self) -> I32:
        """Return the label image, (planes, H, W)."""
        return np.stack(list(self.frames()))

    def rows(self) -> Iterator[Row]:
        """Yield the table row of each cell of each plane, without hidden instances."""
        for place, (number, result, numbers) in enumerate(zip(self.planes, self.results, self.numbers, strict=True)):
            measured = self.measured[place] if self.measured else None
            rows = table_rows(result, self.pixel_size_um, measured)
            for label, row in zip(numbers.tolist(), rows, strict=False):  # rows of hidden instances come last
                yield (number, label, *row[1:], self.parents.get(label, 0))

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of ``rows``."""
        measured = self.measured[0] if self.measured else None
        return (self.axis.column, *table_columns(measured), "parent")


def write_stack_tiff(path: Path, output: StackOutput) -> None:
    """Write the label image of a stack as TIFF, axes TYX or ZYX, with 16 bits if the labels fit, else 32."""
    import tifffile

    labels = output.labels()
    write_whole(
        path,
        lambda temporary: tifffile.imwrite(
            temporary,
            labels.astype(label_dtype(labels)),
            compression="zlib",
            photometric="minisblack",
            metadata=tiff_description(output.provenance, f"{output.axis.letter}YX"),
            **resolution_tags(output.pixel_size_um),
        ),
    )


def write_stack_table(path: Path, output: StackOutput) -> None:
    """Write the table of a stack as CSV, atomically."""
    write_whole(path, lambda temporary: write_rows(temporary, output.rows(), output.columns))


def write_tracks(path: Path, frames: Sequence[I32], parents: Mapping[int, int] | None = None) -> None:
    """Write a directory of the Cell Tracking Challenge, atomically.

    Args:
        path: the directory. It contains ``mask000.tif`` and so on, 16 bits, and ``res_track.txt`` with a line ``L B E
            P`` for each track: label, first frame, last frame, label of the parent or 0.
        frames: label map of each frame.
        parents: the parent of each track that has one.

    A track of the challenge has no gaps. A cell that was missed in a frame continues as a child of its earlier track.

    Raises:
        ConfigError: there are more than 65535 tracks.
    """
    import tifffile

    split, lines = _without_gaps(frames, parents or {})
    if len(lines) > np.iinfo(np.uint16).max:
        raise ConfigError(
            f"there are {len(lines)} tracks; expected at most 65535 for the format ctc. Leave it out.", field="formats"
        )

    def write(folder: Path) -> None:
        folder.mkdir()
        digits = max(3, len(str(len(split) - 1)))
        for number, frame in enumerate(split):
            tifffile.imwrite(folder / f"mask{number:0{digits}d}.tif", frame.astype(np.uint16), compression="zlib")
        text = "".join(f"{' '.join(map(str, line))}\n" for line in lines)
        (folder / "res_track.txt").write_text(text, encoding="ascii", newline="\n")

    write_whole(path, write)


def _without_gaps(
    frames: Sequence[I32], parents: Mapping[int, int]
) -> tuple[list[NDArray[np.integer]], list[tuple[int, int, int, int]]]:
    """Split tracks at frames without their cell; return the frames and the lines of ``res_track.txt``."""
    highest = max((int(frame.max(initial=0)) for frame in frames), default=0)
    now: dict[int, int] = {}
    lines: dict[int, tuple[int, int, int, int]] = {}
    found: list[NDArray[np.integer]] = []
    for number, frame in enumerate(frames):
        renamed = np.arange(highest + 1)
        for label in np.unique(frame[frame > 0]).tolist():
            current = now.get(label)
            if current is None or lines[current][2] < number - 1:
                name = label if current is None else max(highest, *lines) + 1
                # The part of a parent's track that is the latest at the division.
                parent = now.get(parents.get(label, 0), 0) if current is None else current
                now[label], lines[name] = name, (name, number, number, parent)
            else:
                _, begin, _, parent = lines[current]
                lines[current] = (current, begin, number, parent)
            renamed[label] = now[label]
        found.append(renamed[frame])
    return found, sorted(lines.values())


STACK_WRITERS: dict[str, Callable[[Path, StackOutput], None]] = {
    "tiff": write_stack_tiff,
    "csv": write_stack_table,
    "ctc": lambda path, output: write_tracks(path, list(output.frames()), output.parents),
    "cellpose": lambda path, output: write_seg(path, output.labels(), str(output.image), provenance=output.provenance),
    "cellpose-tif": write_stack_tiff,
}
"""Writers of stacks by the names of ``OUTPUT_FORMATS``."""


def check_stack_formats(formats: Sequence[str]) -> None:
    """Raise a ``ConfigError`` if stacks cannot be written in a format."""
    wrong = [name for name in formats if name not in STACK_WRITERS]
    if wrong:
        raise ConfigError(
            f"formats has {', '.join(wrong)} together with planes; expected formats among {', '.join(STACK_WRITERS)}. "
            "Leave the others out.",
            kind="unsupported",
            field="formats",
        )
