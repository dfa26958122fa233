"""Entry point of the command. It handles signals and unexpected errors before it imports anything else.

Exit codes: 130 for Ctrl-C (SIGINT), 143 for SIGTERM, 1 for an unexpected error. Each prints one line to stderr.
"""

from __future__ import annotations

import sys

from runtime.commands.printable import printable
from runtime.commands.signals import Stopped, leave_at_once, stop_in_order


def main() -> None:
    """Run the command line; the console script calls this function."""
    leave_at_once()
    try:
        from runtime.commands.app import run  # takes a second

        stop_in_order()
        run()
    except (KeyboardInterrupt, Stopped) as error:
        leave_at_once()
        sys.stderr.write("interrupted\n")
        sys.exit(error.exit_code if isinstance(error, Stopped) else 130)
    except Exception as error:  # users see one line; the traceback goes into a file
        sys.stderr.write(f"{_last_words(error)}\n")
        sys.exit(1)


def _last_words(error: Exception) -> str:
    """Write the traceback to a file; return a line with the error and the file's name."""
    summary = printable(f"{type(error).__name__}: {error}").replace("\n", " ")
    try:
        import tempfile
        import traceback

        with tempfile.NamedTemporaryFile(
            "w", prefix="cellsam-engine-", suffix=".log", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as log:
            log.write(f"{sys.argv}\nPython {sys.version}\n")
            traceback.print_exception(error, file=log)
    except (OSError, MemoryError, ImportError) as second:
        return f"error: unexpected {summary} (and no log could be written: {second})."
    return f"error: unexpected {summary}. Details are in {log.name}; please report them."


if __name__ == "__main__":
    main()
