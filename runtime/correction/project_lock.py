"""Lock of a project directory, with a note that tells others who has the project open."""

from __future__ import annotations

import getpass
import json
import os
import socket
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

from runtime.correction.journal import ProjectError
from runtime.files.locks import lock_file
from runtime.files.placing import write_whole

LOCK_NAME = "lock"
NOTE_NAME = "opened_by.json"


class ProjectLock:
    """The lock of a project, held until ``release`` or the end of the process."""

    def __init__(self, directory: Path) -> None:
        """Lock a project for this process.

        Raises:
            ProjectError: another process has the project open.
        """
        self._file: IO[bytes] = (directory / LOCK_NAME).open("a+b")
        try:
            lock_file(self._file)
        except OSError as error:
            self._file.close()
            raise ProjectError(
                f"{directory} is open in another process{_read_note(directory)}; expected a project that only this "
                "process changes. Close it there, or work in the same server.",
                kind="busy",
            ) from error
        self._note = directory / NOTE_NAME
        note = {"user": _user(), "host": socket.gethostname(), "process": os.getpid(), "since": _now()}
        write_whole(self._note, lambda path: path.write_text(json.dumps(note), encoding="utf-8"))

    def release(self) -> None:
        """Release the lock."""
        if not self._file.closed:
            self._note.unlink(missing_ok=True)
            self._file.close()


def _read_note(directory: Path) -> str:
    """Describe the process that has a project open; empty if there is no note."""
    try:
        note = json.loads((directory / NOTE_NAME).read_text(encoding="utf-8"))
        return f" ({note['user']} on {note['host']}, process {note['process']}, since {note['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no name for this number
        return "unknown"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
