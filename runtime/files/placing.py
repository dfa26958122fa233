"""Atomic writing of files and directories, which never loses the files that they replace."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from runtime.errors import SegmenterError

PARTIAL = ".partial"
"""Suffix of files during writing; a leftover one belongs to a killed process."""


def write_whole(path: Path, write: Callable[[Path], object], *, sync: bool = False) -> None:
    """Write a file or directory atomically: under a temporary name, then rename it.

    Args:
        path: the file or directory; an existing one is replaced.
        write: writes to the path that it receives.
        sync: wait until the disk has the file, so that it survives a power failure; not for directories.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        write(temporary)
        if sync:
            with temporary.open("r+b") as file:
                os.fsync(file.fileno())
        move_into_place(temporary, path)
        if sync:
            sync_directory(path.parent)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Wait until the disk has the names of new or renamed files of a directory."""
    if os.name == "nt":  # Windows cannot open directories
        return
    number = os.open(directory, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without this operation
            os.fsync(number)
    finally:
        os.close(number)


def move_into_place(new: Path, path: Path) -> None:
    """Rename a file or directory, and replace one of the same kind at ``path``.

    A directory cannot be replaced in one step. The function renames the old one, renames the new one, then removes the
    old one. If the new one cannot be renamed, or the user interrupts the process, the old one gets its name back.

    Args:
        new: the new file or directory, on the same file system as ``path``.
        path: the final name.

    Raises:
        SegmenterError: the old directory could not be put back; the message states where it is.
        OSError: ``new`` could not be renamed; ``path`` is unchanged.
    """
    if not (new.is_dir() and path.is_dir()):
        new.replace(path)
        return
    old = path.with_name(f".{path.name}.{os.getpid()}.old{PARTIAL}")
    path.rename(old)
    try:
        new.rename(path)
    except BaseException as error:  # Ctrl-C too
        try:
            old.rename(path)
        except OSError as second:
            raise SegmenterError(
                f"{path} could not be replaced ({second}); its earlier content is in {old}. Rename {old.name} to "
                f"{path.name} to restore it."
            ) from error
        raise
    if old.is_symlink():
        old.unlink()
    else:
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def staged(path: Path, parent: Path | None = None) -> Iterator[Path]:
    """An empty directory to write ``path`` in; it does not outlive this, unless it is moved to its place.

    It is private, and ``held`` for as long: ``remove_leftovers`` finds what a killed process leaves of it.

    Args:
        path: what is to be written.
        parent: where the directory is made if need be, on the file system of ``path``; default, beside it.
    """
    directory = (parent or path.parent) / f".{path.name}.{os.getpid()}{PARTIAL}"
    shutil.rmtree(directory, ignore_errors=True)
    directory.parent.mkdir(parents=True, exist_ok=True)
    directory.mkdir(mode=0o700)
    try:
        with held(directory):
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


_TEMPORARY = re.compile(rf"\.(?P<name>.+?)\.(?P<process>\d+)(?P<old>\.old)?{re.escape(PARTIAL)}", re.DOTALL)
"""Names that ``write_whole``, ``move_into_place`` and ``staged`` give."""


def remove_leftovers(directory: Path, names: Collection[str] | None = None) -> None:
    """Delete what killed processes left of files and directories; what a live process is at work on stays.

    A directory that had stepped aside when the process was killed comes back if nothing has taken its place.

    Args:
        directory: where they are; it need not exist.
        names: the final names of what was written; default, all.
    """
    for leftover in directory.glob(f".*{PARTIAL}"):
        found = _TEMPORARY.fullmatch(leftover.name)
        if found is None or (names is not None and found["name"] not in names):
            continue
        if not is_abandoned(leftover, int(found["process"])):
            continue
        place = leftover.with_name(found["name"])
        if found["old"] and not place.exists():
            leftover.rename(place)
        elif leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


_ABANDONED_S = 24 * 3600.0
"""Without locks, a directory that has not changed for this long counts as abandoned."""

_JUST_MADE_S = 60.0
"""For this long after its creation, a directory may not be locked yet."""


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Lock a directory while this process works in it; the lock ends with the process, in any case."""
    if os.name == "nt":  # Windows cannot open directories
        yield
        return
    import fcntl

    number = os.open(directory, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(number)


def is_abandoned(directory: Path, process: int) -> bool:
    """Return whether no process works in a directory, or on a file, any more.

    Args:
        directory: a directory or file that a process made, perhaps ``held``.
        process: the number of that process, perhaps on another machine.
    """
    try:
        unchanged_s = time.time() - directory.stat().st_mtime
        if os.name == "nt":
            return unchanged_s > _ABANDONED_S
        free = _can_be_held(directory)
    except OSError:  # gone, or of another user
        return False
    if free is None:
        return unchanged_s > _ABANDONED_S
    return free and (unchanged_s > _JUST_MADE_S or not _is_alive(process))


def _can_be_held(directory: Path) -> bool | None:
    """Return whether no process holds a directory; None if the file system has no locks."""
    import fcntl

    number = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    finally:
        os.close(number)
    return True


def _is_alive(process: int) -> bool:
    """Return whether this machine has a process of this number."""
    try:
        os.kill(process, 0)
    except PermissionError:  # of another user
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True
