"""Engines that were made for a project: ``engines/`` with ``engines.json``, from which any program reads them.

- ``engines/v001/``, ``v002/`` ...: engine directories; ``v001.pt``: the checkpoint of one
- ``engines/engines.json``: what each was made from, its scores, whether it is used, and which one is current
- ``engines/work/``: intermediate results of an unfinished improvement
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from runtime.correction.journal import ProjectError
from runtime.files.placing import write_whole
from runtime.typed_json import convert

ENGINES_NAME = "engines"
HISTORY_NAME = "engines.json"
SCHEMA = 1

VersionState = Literal["promoted", "provisional", "rejected"]
"""Whether an engine was in use at some time, waits for a decision, or was found no better."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineVersion:
    """One engine."""

    version: str
    """Name such as ``v001``."""
    state: VersionState
    made_from: str
    """Name of the weights from which training started."""
    compared_with: str
    """The version that was current, or the name of the weights if there was none."""
    request: str
    """Hex sha256 of all inputs; equal inputs give the same engine."""
    images: tuple[str, ...] = ()
    """Corrected images that the engine was trained on."""
    held_out: tuple[str, ...] = ()
    """Corrected images on which it was compared. With leave-one-out, they are also in ``images``."""
    scores: dict[str, Any] = field(default_factory=dict)
    """Figures of the comparison, ready for JSON."""
    reasons: tuple[str, ...] = ()
    """Sentences that explain the state."""
    time: str = ""
    """UTC, ISO 8601."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineHistory:
    """Content of ``engines.json``."""

    versions: tuple[EngineVersion, ...] = ()
    """In the order in which they were made."""
    current: str | None = None
    """The version in use; None if it is the model that the project started with."""
    earlier: tuple[str | None, ...] = ()
    """Versions that were current before, oldest first; a rollback takes the last one."""
    schema: int = SCHEMA

    def version(self, name: str) -> EngineVersion:
        """Return a version.

        Raises:
            ProjectError: there is none with this name.
        """
        for one in self.versions:
            if one.version == name:
                return one
        known = ", ".join(one.version for one in self.versions) or "none"
        raise ProjectError(
            f"this project has no engine {name!r}; expected one of: {known}. Choose one of them.",
            kind="not_found",
            field="version",
        )

    def next_name(self) -> str:
        """Return the name of the next version."""
        return f"v{len(self.versions) + 1:03d}"

    def with_version(self, new: EngineVersion) -> EngineHistory:
        """Return the history with one more version, which becomes current if it is promoted."""
        added = replace(self, versions=(*self.versions, new))
        return added._using(new.version) if new.state == "promoted" else added

    def promote(self, name: str | None = None) -> EngineHistory:
        """Return the history with a provisional version in use.

        Args:
            name: the version; None means the last provisional one.

        Raises:
            ProjectError: there is no such version, or it is not provisional.
        """
        if name is None:
            waiting = [one.version for one in self.versions if one.state == "provisional"]
            if not waiting:
                raise ProjectError(
                    "this project has no provisional engine; expected one to promote. Correct images, mark them done, "
                    "and improve the model first.",
                    kind="not_found",
                    field="version",
                )
            name = waiting[-1]
        chosen = self.version(name)
        if chosen.state != "provisional":
            raise ProjectError(
                f"{name} is {chosen.state}; expected a provisional engine. Return to an earlier engine with "
                "'cellsam-engine improve PROJECT --rollback'.",
                kind="conflict",
                field="version",
            )
        promoted = replace(chosen, state="promoted")
        versions = tuple(promoted if one is chosen else one for one in self.versions)
        return replace(self, versions=versions)._using(name)

    def roll_back(self, name: str | None = None) -> EngineHistory:
        """Return the history with an earlier engine in use.

        Args:
            name: a promoted version; None means the one that was current before, which may be the first model.

        Raises:
            ProjectError: there is no earlier engine, no such version, or it was never promoted.
        """
        if name is not None:
            if self.version(name).state != "promoted":
                raise ProjectError(
                    f"{name} is {self.version(name).state}; expected an engine that was in use. Use a provisional one "
                    "with 'cellsam-engine improve PROJECT --promote'.",
                    kind="conflict",
                    field="version",
                )
            return self if name == self.current else self._using(name)
        if not self.earlier:
            raise ProjectError(
                "this project has no earlier engine; expected at least one promotion to undo. List the engines with "
                "'cellsam-engine improve PROJECT --list'.",
                kind="not_found",
                field="version",
            )
        return replace(self, current=self.earlier[-1], earlier=self.earlier[:-1])

    def _using(self, name: str) -> EngineHistory:
        return replace(self, current=name, earlier=(*self.earlier, self.current))


def engines_folder(project: Path) -> Path:
    """Return the folder of a project's engines, which need not exist."""
    return project / ENGINES_NAME


def current_engine(project: Path) -> Path | None:
    """Return the engine directory that a project uses; None if it has made none.

    Raises:
        ProjectError: ``engines.json`` is damaged.
    """
    name = read_history(project).current
    return None if name is None else engines_folder(project) / name


def read_history(project: Path) -> EngineHistory:
    """Read ``engines.json``; without one, the history is empty.

    Raises:
        ProjectError: the file is damaged or of another version.
    """
    path = engines_folder(project) / HISTORY_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        history = convert(content, EngineHistory)
    except FileNotFoundError:
        return EngineHistory()
    except (OSError, ValueError, RecursionError) as error:
        raise ProjectError(
            f"{path} is damaged ({error}); expected the file that cellsam-engine wrote. Restore it from a copy.",
            kind="damaged",
        ) from error
    if history.schema != SCHEMA:
        raise ProjectError(
            f"{path} has schema {history.schema}; expected {SCHEMA}. Use the version of cellsam-engine that wrote it.",
            kind="wrong_version",
        )
    return history


def write_history(project: Path, history: EngineHistory) -> None:
    """Write ``engines.json`` atomically."""
    text = json.dumps(asdict(history), indent=1) + "\n"
    path = engines_folder(project) / HISTORY_NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), sync=True)
