"""Settings of an improvement."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from export.improve.folds import few
from runtime.engines.backends.base import BackendName
from runtime.engines.builtin import BUILTIN_NAME
from runtime.errors import ConfigError
from training.recipe import Parts

STEPS = 400
"""Training steps with enough images."""

FEW_STEPS = 240
"""Training steps with few images, beside which there are those of leave-one-out."""

FOLD_STEPS = 100
"""Training steps of each training of leave-one-out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImproveConfig:
    """Settings of one improvement; the default ones take under 30 minutes on two cores for 20 images."""

    project: Path
    """Project directory. Its images that are done are the corrected images."""
    init: str = BUILTIN_NAME
    """Weights to start from: the name of the built-in model, or a checkpoint in our own format."""
    parts: Parts = "all"
    """Parts of the model to train."""
    steps: int | None = None
    """Training steps; default, ``STEPS``, or ``FEW_STEPS`` with few images."""
    fold_steps: int | None = None
    """Training steps of each training of leave-one-out; default, ``FOLD_STEPS``, or fewer if ``steps`` is fewer."""
    folds: int = 5
    """Largest number of images that are left out in turn; 0 for no score on corrected images."""
    recipe: Path | None = None
    """Recipe for stage 1 in place of ``training.further.short_recipe``; its number of steps is not used."""
    accelerator: str = "auto"
    """Accelerator, as named by Lightning."""
    backend: BackendName = "auto"
    """Backend that runs the engines."""

    def __post_init__(self) -> None:
        for name, value, least in (
            ("steps", self.steps, 1),
            ("fold_steps", self.fold_steps, 1),
            ("folds", self.folds, 0),
        ):
            if value is not None and value < least:
                raise ConfigError(f"{name} is {value}; expected {least} or more.", field=name)

    def steps_for(self, names: tuple[str, ...]) -> int:
        """Return the training steps for these corrected images."""
        return self.steps or (FEW_STEPS if few(names) else STEPS)

    def fold_steps_for(self, names: tuple[str, ...]) -> int:
        """Return the training steps of each training of leave-one-out."""
        return self.fold_steps or min(FOLD_STEPS, self.steps_for(names))

    def inputs(self) -> dict[str, Any]:
        """Return what the result depends on besides images and weights, ready for JSON."""
        recipe = None if self.recipe is None else self.recipe.read_text(encoding="utf-8")
        names = ("parts", "steps", "fold_steps", "folds")
        return {"recipe": recipe, **{name: getattr(self, name) for name in names}}
