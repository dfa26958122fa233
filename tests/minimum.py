"""Install exactly the lowest versions that pyproject.toml allows, and segment a sample with them: ``make test-min``.

    python -m tests.minimum [--venv DIR]

The program needs the package index, so ``make test`` does not run it. It fails if a lowest version cannot be installed,
is withdrawn (yanked), or does not work with the package.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]

_DEPENDENCIES = re.compile(r"^dependencies = \[\n(.*?)^\]", re.MULTILINE | re.DOTALL)


def lowest_versions(pyproject: str) -> list[str]:
    """Return ``name==version`` for every dependency of the base install on this Python.

    Args:
        pyproject: the text of ``pyproject.toml``; Python 3.10 cannot parse it.

    Raises:
        ValueError: a dependency has no lower bound.
    """
    found = _DEPENDENCIES.search(pyproject)
    if found is None:
        raise ValueError("pyproject.toml has no list of dependencies; expected one under [project].")
    pins = []
    for text in re.findall(r'^\s*"(.*)",', found[1], re.MULTILINE):
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        bounds = [one.version for one in requirement.specifier if one.operator in (">=", "==")]
        if len(bounds) != 1:
            raise ValueError(f"{text} has {len(bounds)} lower bounds; expected one.")
        pins.append(f"{requirement.name}=={bounds[0]}")
    return pins


def main(arguments: Sequence[str] | None = None) -> int:
    """Return exit code 0 if the lowest versions segment a sample."""
    parser = argparse.ArgumentParser(prog="python -m tests.minimum", description=__doc__)
    parser.add_argument("--venv", type=Path, help="make the environment here and keep it; default: for this run alone")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        place = given.venv or Path(scratch, "venv")
        _install(place, lowest_versions((ROOT / "pyproject.toml").read_text(encoding="utf-8")))
        cells = _segment(place / "bin", Path(scratch))
    sys.stdout.write(f"{cells} cells with the lowest versions\n")
    return 0 if cells else 1


def _install(place: Path, pins: Sequence[str]) -> None:
    venv.create(place, with_pip=True)
    pip = [str(place / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
    done = subprocess.run([*pip, "install", *pins, str(ROOT)], capture_output=True, text=True)
    if done.returncode or "yanked version" in done.stderr:
        raise SystemExit(f"{' '.join(pins)} cannot be installed:\n{done.stderr[-3000:]}")
    subprocess.run([*pip, "check"], check=True)


def _segment(programs: Path, scratch: Path) -> int:
    """Segment the first sample with the command, as users do; return the number of cells."""
    command = str(programs / "cellsam-engine")
    for arguments in (["--help"], ["segment", "--help"], ["info"]):
        subprocess.run([command, *arguments], check=True, stdout=subprocess.DEVNULL, cwd=scratch)
    listed = subprocess.run([command, "samples"], check=True, capture_output=True, text=True, cwd=scratch).stdout
    out = ["--out", str(scratch / "out"), "--backend", "cpu", "--overlay", "--measure"]
    segment = [command, "segment", listed.splitlines()[0], *out]
    output = subprocess.run(segment, check=True, capture_output=True, text=True, cwd=scratch).stdout
    found = re.search(r"\t(\d+) cells\t", output)
    return int(found[1]) if found else 0


if __name__ == "__main__":
    sys.exit(main())
