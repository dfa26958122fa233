"""Putting a finished engine directory where it belongs, without ever losing what stood there."""

from __future__ import annotations

from pathlib import Path

from export.errors import ExportError
from runtime.engines.backends.plan_record import BUILT_BY_ORT, PLANS
from runtime.engines.manifest import MANIFEST_NAME, read_manifest
from runtime.engines.sums import SUMS_NAME
from runtime.errors import EngineError
from runtime.files.placing import move_into_place, remove_leftovers


def remove_leftovers_of(out: Path) -> None:
    """Delete what killed exports left of ``out``: beside it or, if its parents were not there yet, further up."""
    for parent in out.parents:
        remove_leftovers(parent, {out.name})


def check_target(out: Path, *, force: bool) -> None:
    """Check that engines may be put at ``out``.

    Free, or an empty directory: always. An engine directory with nothing else in it: with ``force``.

    Args:
        out: absolute, links resolved.
        force: replace engines.

    Raises:
        ExportError: anything else is there.
    """
    if Path.cwd().is_relative_to(out):
        raise ExportError(
            f"{out} is or holds the current directory; give a directory below it as out=.", kind="conflict", field="out"
        )
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        manifest = read_manifest(out)
    except EngineError as error:
        raise ExportError(
            f"{out} exists and is no engine directory; it will not be replaced. Give another out=.",
            kind="exists",
            field="out",
        ) from error
    # Plans were built from these engines, and go with them.
    own = {MANIFEST_NAME, SUMS_NAME, PLANS, BUILT_BY_ORT, *(engine.file for engine in manifest.engines.values())}
    others = sorted(path.name for path in out.iterdir() if path.name not in own)
    if others:
        raise ExportError(
            f"{out} holds files that are no engines ({', '.join(others[:5])}); it will not be replaced. "
            "Move them, or give another out=.",
            kind="exists",
            field="out",
        )
    if not force:
        raise ExportError(
            f"{out} exists. Replace it with force=True, or give another out=.", kind="exists", field="force"
        )


def place_engines(partial: Path, out: Path, *, force: bool) -> None:
    """Rename ``partial`` to ``out``; engines that stood there are removed only once the new ones do.

    Both lie on one file system. What stands at ``out`` is checked again: an export takes minutes.

    Raises:
        ExportError: ``out`` may not be replaced.
        SegmenterError: as ``runtime.files.placing.move_into_place``.
    """
    check_target(out, force=force)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.is_dir() and not any(out.iterdir()):
        out.rmdir()
    publish(partial, out)


def publish(partial: Path, out: Path) -> None:
    """Open a temporary directory, which is private, to other users, and move it to ``out``.

    Raises:
        SegmenterError: as ``runtime.files.placing.move_into_place``.
    """
    partial.chmod(0o755)
    move_into_place(partial, out)
