"""Whether a directory holds a run that the asked one may go on with."""

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
"""Lightning's checkpoint of the last step that was saved."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A run that a directory holds."""

    steps: int
    """Steps done at its last checkpoint."""


def record_of(out: Path, number: int) -> Path:
    """The recipe that a stage was begun with, as JSON."""
    return out / f"stage{number}.json"


def check_begun(out: Path, number: int, recipe: Recipe) -> Begun | None:
    """Check that a directory holds no run, or one that the recipe goes on with.

    The number of steps of the stage may have grown. Fields that only one of the recipes has, as after an update of the
    package, are passed over.

    Args:
        out: directory of the run.
        number: the stage.
        recipe: what is asked for.

    Returns:
        The run; None if there is no checkpoint.

    Raises:
        RecipeError: the run is of another stage or recipe, or has more steps; the difference is named. Or its
            checkpoint or recipe cannot be read.
    """
    last, record = out / LAST, record_of(out, number)
    if not last.is_file():
        return None
    if not record.is_file():
        raise RecipeError(
            f"{out} holds a run of another stage than {number}; give each stage a directory of its own.",
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
            f"{out} holds a run of another recipe: {'; '.join(changed)}. Give the recipe that it was begun with "
            f"({record.name} in it), or another directory, where its weights may be the ones to start from.",
            kind="conflict",
            field="out",
        )
    wanted = (recipe.stage1 if number == 1 else recipe.stage2).steps
    if wanted < steps:
        raise RecipeError(
            f"{out} holds a run that has done {steps} steps; the recipe has {wanted}. Give as many or more to go on, "
            "or another directory.",
            kind="conflict",
            field="steps",
        )
    return Begun(steps)


def _changes(recipe: Recipe, begun: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Fields that both recipes have and that differ: in words, and by name."""
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
        # Lightning's own file of this directory; nothing in it is run.
        return int(torch.load(last, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, KeyError, TypeError, ValueError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise RecipeError(
            f"{last} cannot be read ({first}); remove it to begin anew.", kind="damaged", field="out"
        ) from error
