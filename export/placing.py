"""Moving of a finished engine directory to its place, without losing existing content."""

from __future__ import annotations

from pathlib import Path

from export.errors import ExportError
from runtime.engines.backends.plan_record import BUILT_BY_ORT, PLANS, RTX_PLANS
from runtime.engines.manifest import MANIFEST_NAME, read_manifest
from runtime.engines.sums import SUMS_NAME
from runtime.errors import EngineError
from runtime.files.placing import move_into_place, remove_leftovers


def remove_leftovers_of(out: Path) -> None:
    """Delete what killed exports left of ``out``: beside it or, if its parents were not there yet, further up."""
    for parent in out.parents:
        remove_leftovers(parent, {out.name})


def check_target(out: Path, *, force: bool) -> None:
    """Check that engines may be placed at ``out``.

    A free path or an empty directory is always allowed, a pure engine directory only with ``force``.

    Args:
        out: absolute path, with links resolved.
        force: replace engines.

    Raises:
        ExportError: there is anything else at ``out``.
    """
    if Path.cwd().is_relative_to(out):
        raise ExportError(
            f"{out} is or contains the current directory; expected another directory. Give one below it as out=.",
            kind="conflict",
            field="out",
        )
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        manifest = read_manifest(out)
    except EngineError as error:
        raise ExportError(
            f"{out} exists and is not an engine directory, so it will not be replaced. Give another out=.",
            kind="exists",
            field="out",
        ) from error
    # Plans were built from these engines and are removed with them.
    own = {
        MANIFEST_NAME,
        SUMS_NAME,
        PLANS,
        RTX_PLANS,
        BUILT_BY_ORT,
        *(engine.file for engine in manifest.engines.values()),
    }
    others = sorted(path.name for path in out.iterdir() if path.name not in own)
    if others:
        raise ExportError(
            f"{out} contains files other than engines ({', '.join(others[:5])}), so it will not be replaced. "
            "Move them, or give another out=.",
            kind="exists",
            field="out",
        )
    if not force:
        raise ExportError(
            f"{out} exists. Replace it with force=True, or give another out=.", kind="exists", field="force"
        )


def place_engines(partial: Path, out: Path, *, force: bool) -> None:
    """Rename ``partial`` to ``out``; existing engines are removed only after the new ones are in place.

    Both paths must be on one file system. ``out`` is checked again, because an export takes minutes.

    Raises:
        ExportError: ``out`` may not be replaced.
        SegmenterError: as in ``runtime.files.placing.move_into_place``.
    """
    check_target(out, force=force)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.is_dir() and not any(out.iterdir()):
        out.rmdir()
    publish(partial, out)


def publish(partial: Path, out: Path) -> None:
    """Make a private temporary directory readable for other users, and move it to ``out``.

    Raises:
        SegmenterError: as in ``runtime.files.placing.move_into_place``.
    """
    partial.chmod(0o755)
    move_into_place(partial, out)
