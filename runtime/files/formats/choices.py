"""Choice of an image in a file that contains several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runtime.errors import InputError


def choose_series(path: Path, found: Sequence[tuple[str, str]], wanted: int | str | None) -> int:
    """Return the number of the chosen series.

    Args:
        path: the file, for messages.
        found: name and description of each series.
        wanted: a name or number; may be None if there is one series.

    Raises:
        InputError: there are no series, the chosen one does not exist, or there are several and none was chosen.
    """
    if not found:
        raise InputError(f"{path} contains no image that can be read as its type. Copy it again.", kind="damaged")
    if wanted is None and len(found) == 1:
        return 0
    numbers = {str(number): number for number in range(len(found))}
    names = [name for name, _ in found]
    if wanted is not None and names.count(str(wanted)) == 1:
        return names.index(str(wanted))
    if str(wanted) in numbers:
        return numbers[str(wanted)]
    listed = "; ".join(f"{number}: {description}" for number, (_, description) in enumerate(found))
    came = f"contains {len(found)} series" if wanted is None else f"has no series {wanted!r}"
    raise InputError(
        f"{path} {came}; expected one image. Choose one with series= ({listed}).",
        kind="not_found" if wanted is not None else "missing",
        field="series",
    )


def check_level(path: Path, level: int, count: int) -> int:
    """Return the level of a pyramid if it exists, else raise an ``InputError``."""
    if not 0 <= level < count:
        raise InputError(
            f"{path} has levels 0 to {count - 1}, but level {level} was requested.", kind="not_found", field="level"
        )
    return level
