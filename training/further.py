"""Recipe for fine-tuning a model on a few images."""

from __future__ import annotations

from dataclasses import replace

from runtime.config import SegmentConfig
from training.model import ModelConfig
from training.recipe import NANO, AugmentConfig, Recipe

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
