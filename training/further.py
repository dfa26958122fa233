"""Recipes for fine-tuning a model on a few images."""

from __future__ import annotations

from dataclasses import replace

from runtime.config import SegmentConfig
from training.model import ModelConfig
from training.recipe import NANO, AugmentConfig, Parts, Recipe

_SCALES = (0.35, 1.55)
"""Range of cell diameters in training views, as multiples of the view diameter; as in the last training of the built-in
model."""


def further_recipe(model: ModelConfig, settings: SegmentConfig | None) -> Recipe:
    """Return a recipe for stage 1 from trained weights: a low rate, few steps, and strong augmentation.

    Args:
        model: sizes of the weights.
        settings: settings of the weights; their view diameter sets the scale of the training views.
    """
    shown = None if settings is None else settings.view_diameter_px
    augment = AugmentConfig(
        zoom=(0.9, 1.8),
        diameter_px=None if shown is None else (_SCALES[0] * shown, _SCALES[1] * shown),
        mosaic=0.4,
        aspect=0.3,
        rotated=0.5,
        elastic_px=7.0,
        shading=0.35,
        sharpening=1.0,
        gamma=0.4,
        noise=0.03,
        blur_px=1.0,
    )
    stage1 = replace(NANO.stage1, steps=600, learning_rate=1e-4, encoder_learning_rate=1e-4, warmup_steps=50)
    return replace(NANO, model=model, stage1=stage1, augment=augment)


def short_recipe(model: ModelConfig, settings: SegmentConfig | None, *, steps: int, parts: Parts = "all") -> Recipe:
    """Return a recipe for stage 1 that learns a new kind of cells in few steps and keeps what the weights know.

    The rates are higher than in ``further_recipe``, the average of the weights spans a tenth of the run, and a quarter
    of the views are synthetic images of all groups, against forgetting.

    Args:
        model: sizes of the weights.
        settings: settings of the weights.
        steps: training steps.
        parts: parts to train.
    """
    recipe = further_recipe(model, settings)
    stage1 = replace(
        recipe.stage1,
        steps=steps,
        learning_rate=3e-4,
        encoder_learning_rate=1e-4,
        warmup_steps=min(20, steps // 5),
        ema_decay=max(0.0, 1 - 10 / steps),
    )
    return replace(recipe, stage1=stage1, synthetic_share=0.25, parts_in_stage1=parts)
