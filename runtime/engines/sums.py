"""``SHA256SUMS``: a list of hashes of the manifest and all engine files of a directory.

The format is that of GNU coreutils, so ``sha256sum -c SHA256SUMS`` checks it, too. The hash of this file identifies the
whole directory, except for plans that ``cellsam-engine build`` adds.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from runtime.errors import EngineError

SUMS_NAME = "SHA256SUMS"

_MOST_BYTES = 1 << 16
"""Size limit; a list has about five lines."""

_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/\\]+)")


def sums_content(hashes: Mapping[str, str]) -> bytes:
    """Return the content of ``SHA256SUMS``. Args: hashes: hex sha256 by file name."""
    return "".join(f"{digest}  {name}\n" for name, digest in hashes.items()).encode()


def read_sums(directory: Path, sha256: str | None = None) -> dict[str, str] | None:
    """Read the hex sha256 by file name; return None if the directory has no list, as written by older exports.

    Args:
        directory: the engine directory.
        sha256: hex sha256 that the list itself must have; None accepts any.

    Raises:
        EngineError: the list is unreadable or damaged, or does not match ``sha256``.
    """
    content = _read(directory)
    if sha256 is not None:
        _check_pin(directory, content, sha256)
    if content is None:
        return None
    path = directory / SUMS_NAME
    lines = content.decode("utf-8", "replace").splitlines()
    matches = [_LINE.fullmatch(line) for line in lines]
    hashes = {match[2]: match[1] for match in matches if match}
    if len(hashes) != len(lines):
        raise EngineError(
            f"{path} has lines other than a sha256 and a file name, or repeats a name; expected the list that the "
            "export wrote. Export the engines again."
        )
    return hashes


def check_sums(directory: Path, sums: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Compare the list with the hashes in the manifest and the manifest's own hash.

    Args:
        directory: the engine directory.
        sums: result of ``read_sums``.
        found: the expected hashes.

    Raises:
        EngineError: a file has another hash, is not listed, or should not be; the message names it.
    """
    for name in [*found, *(sums.keys() - found.keys())]:
        if sums.get(name) != found.get(name):
            raise EngineError(
                f"{directory / name} was altered after its export, or {SUMS_NAME} was: the list has "
                f"{_short(sums.get(name))}, expected {_short(found.get(name))}. Export the engines again."
            )


def sums_sha256(directory: Path) -> str | None:
    """Compute the hex sha256 of ``SHA256SUMS``, which identifies the whole directory; return None without the file.

    Raises:
        EngineError: the file cannot be read.
    """
    content = _read(directory)
    return None if content is None else hashlib.sha256(content).hexdigest()


def _read(directory: Path) -> bytes | None:
    path = directory / SUMS_NAME
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise EngineError(f"{path} cannot be read: {error}.", kind="unreadable") from error
    if len(content) > _MOST_BYTES:
        raise EngineError(
            f"{path} has more than {_MOST_BYTES:,} bytes; expected a few lines. Export the engines again."
        )
    return content


def _check_pin(directory: Path, content: bytes | None, sha256: str) -> None:
    if content is None:
        raise EngineError(
            f"{directory} has no {SUMS_NAME}; expected one with sha256={sha256!r}. Export the engines again, or "
            "leave out sha256=.",
            kind="not_found",
            field="sha256",
        )
    found = hashlib.sha256(content).hexdigest()
    if found != sha256.strip().lower():
        raise EngineError(
            f"{directory / SUMS_NAME} has the sha256 {found}; expected {sha256!r}. These are other engines: use the "
            "intended ones, or pass the hash of these as sha256=.",
            kind="mismatch",
            field="sha256",
        )


def _short(digest: str | None) -> str:
    return "none" if digest is None else f"{digest[:16]}..."
