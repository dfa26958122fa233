"""Where the command begins, before anything else is imported: how a process ends that is told to stop, or fails.

Exit codes: 130 for Ctrl-C (SIGINT), 143 for SIGTERM, 1 for an error that nothing foresaw; one line each on stderr.
"""

from __future__ import annotations

import sys

from runtime.commands.printable import printable
from runtime.commands.signals import Stopped, leave_at_once, stop_in_order


def main() -> None:
    """Entry point of the console script."""
    leave_at_once()
    try:
        from runtime.commands.app import run  # takes a second

        stop_in_order()
        run()
    except (KeyboardInterrupt, Stopped) as error:
        leave_at_once()
        sys.stderr.write("interrupted\n")
        sys.exit(error.exit_code if isinstance(error, Stopped) else 130)
    except Exception as error:  # no traceback for users: it goes into a file
        sys.stderr.write(f"{_last_words(error)}\n")
        sys.exit(1)


def _last_words(error: Exception) -> str:
    """What happened, and the file with the traceback."""
    said = printable(f"{type(error).__name__}: {error}").replace("\n", " ")
    try:
        import tempfile
        import traceback

        with tempfile.NamedTemporaryFile(
            "w", prefix="cellsam-engine-", suffix=".log", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as log:
            log.write(f"{sys.argv}\nPython {sys.version}\n")
            traceback.print_exception(error, file=log)
    except (OSError, MemoryError, ImportError) as second:
        return f"error: unforeseen {said} (and no log could be written: {second})."
    return f"error: unforeseen {said}. Details are in {log.name}; please report them."


if __name__ == "__main__":
    main()
