"""Check whether a run can resume in a directory."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import torch

from runtime.jobs.differences import differences
from training.recipe import Recipe, RecipeError

LAST = "last.ckpt"
"""Name of Lightning's checkpoint of the last saved step."""


@dataclass(frozen=True, slots=True)
class Begun:
    """An earlier run in a directory."""

    steps: int
    """Number of steps done at its last checkpoint."""


def record_of(out: Path, number: int) -> Path:
    """Return the path of the recipe with which a stage was started, as JSON."""
    return out / f"stage{number}.json"


def check_begun(out: Path, number: int, recipe: Recipe) -> Begun | None:
    """Check that a directory contains no run, or a run that the recipe continues.

    The recipe may have more steps for this stage. Fields that only one of the recipes has, as after an update of the
    package, are ignored.

    Args:
        out: directory of the run.
        number: the stage.
        recipe: the requested recipe.

    Returns:
        The earlier run; None if there is no checkpoint.

    Raises:
        RecipeError: the run has another stage or recipe, or more steps, and the message names the difference; or its
            checkpoint or recipe cannot be read.
    """
    last, record = out / LAST, record_of(out, number)
    if not last.is_file():
        return None
    if not record.is_file():
        raise RecipeError(
            f"{out} contains a run of another stage than {number}; use a separate directory for each stage.",
            kind="conflict",
            field="out",
        )
    steps = _steps_of(last)
    try:
        begun = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{record} cannot be read ({error}); choose another directory.", kind="damaged") from error
    changed = sorted(words for words, name in _changes(recipe, begun) if name != f"stage{number}.steps")
    if changed:
        raise RecipeError(
            f"{out} contains a run with another recipe: {'; '.join(changed)}. Use the recipe with which it was started "
            f"({record.name} in it), or start from its weights in another directory.",
            kind="conflict",
            field="out",
        )
    wanted = (recipe.stage1 if number == 1 else recipe.stage2).steps
    if wanted < steps:
        raise RecipeError(
            f"{out} contains a run that has done {steps} steps; the recipe has {wanted}. Use as many or more to "
            "continue, or another directory.",
            kind="conflict",
            field="steps",
        )
    return Begun(steps)


def _changes(recipe: Recipe, begun: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the fields that both recipes have and that differ: a description and the name."""
    asked = json.loads(recipe.to_json())
    for name in asked.keys() & begun.keys():
        one, other = asked[name], begun[name]
        if is_dataclass(getattr(recipe, name)) and isinstance(other, Mapping):
            both = one.keys() & other.keys()
            one, other = ({key: section[key] for key in both} for section in (one, other))
        for field, now, before in differences({name: one}, {name: other}):
            yield f"{field} is {now!r} and was {before!r}", field


def _steps_of(last: Path) -> int:
    try:
        # Lightning wrote this file; nothing in it is run.
        return int(torch.load(last, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, KeyError, TypeError, ValueError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise RecipeError(
            f"{last} cannot be read ({first}); remove it to start again.", kind="damaged", field="out"
        ) from error
