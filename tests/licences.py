"""List the licences of an environment's packages and check that all of them are permissive: ``make licences``.

    python tests/licences.py --python .venv/bin/python

``pip-licenses`` reads the licences that the packages declare. The check fails if a package declares no licence, or one
that is not known to be permissive, so that the base install contains no copyleft. Libraries inside wheels, such as the
Fortran runtime of numpy and scipy, are listed in the licence files of their packages.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

PERMISSIVE = re.compile(
    r"((the|new|modified|simplified|[23]-clause) )*"
    r"(0?bsd|apache|blueoak|boost|bsl-1\.0|cc0|hpnd|historical permission|isc|mit|psf|python software foundation"
    r"|python-2\.0|public domain|unlicense|zlib)\b",
)
"""Beginnings of names of permissive licences, in lower case: SPDX identifiers, PyPI classifiers and common names."""

COPYLEFT = re.compile(r"gpl|general public|mpl|mozilla|epl-|eclipse|eupl|cddl|osl-|cecill|share.?alike|-sa-")

EXCEPTION = re.compile(r"gpl-3\.0(-or-later|-only)? with gcc-exception-3\.1")
"""Licence of GCC's runtime libraries; its exception lets programs of any licence use them."""

Row = Mapping[str, str]
"""``Name``, ``Version`` and ``License`` of a package."""


def is_permissive(licence: str) -> bool:
    """Return whether a package may be used under permissive licences alone.

    Args:
        licence: an SPDX expression, or names separated by semicolons or commas, all of which must be permissive.
    """
    if " OR " in licence and "(" not in licence:
        return any(is_permissive(choice) for choice in licence.split(" OR "))
    names = [name.strip(" ()").lower() for name in re.split(r"; | AND | OR |, ", licence)]
    return all(EXCEPTION.fullmatch(n) or (PERMISSIVE.match(n) and not COPYLEFT.search(n)) for n in names)


def read_licences(python: Path) -> list[Row]:
    """List the packages and licences of an interpreter's environment with ``pip-licenses``."""
    command = [sys.executable, "-m", "piplicenses", "--python", str(python), "--from", "mixed", "--format", "json"]
    rows: list[Row] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each package; return 0 if all are permissive, else 1."""
    parser = argparse.ArgumentParser(prog="python tests/licences.py", description=__doc__)
    parser.add_argument("--python", type=Path, required=True, help="interpreter of the environment")
    rows = read_licences(parser.parse_args(arguments).python)
    for row in rows:
        sys.stdout.write(f"{row['Name']} {row['Version']}: {row['License']}\n")
    wrong = [row for row in rows if not is_permissive(row["License"])]
    for row in wrong:
        sys.stderr.write(
            f"{row['Name']} {row['Version']} has licence {row['License']!r}; expected a permissive one. Remove the "
            "package from the base install, or add its licence to PERMISSIVE in tests/licences.py if it is one.\n"
        )
    if not rows:
        sys.stderr.write("the environment has no packages; expected some. Install cellsam-engine into it.\n")
    return 1 if wrong or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
