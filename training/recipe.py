"""Training recipes as typed values, with presets for the paper's model and the built-in model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from runtime.errors import SegmenterError
from runtime.typed_json import FieldError, convert, refuse_unknown
from training.model import ModelConfig

Schedule = Literal["step", "cosine"]
Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
Parts = Literal["all", "detector", "masks"]
"""Parts of the model that stage 1 trains: all that it can, CellFinder, or the neck with the mask decoder."""


class RecipeError(SegmenterError, ValueError):
    """Error of a recipe file or value that cannot be used."""

    usual_kind = "invalid"


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """AdamW and its schedule."""

    steps: int
    """Optimizer steps of the whole run."""
    batch_size: int
    """Images per step, summed over all processes."""
    learning_rate: float
    encoder_learning_rate: float
    """Rate of the ViT, usually lower than that of the heads. 0 freezes the ViT."""
    weight_decay: float
    clip_norm: float | None
    """Largest norm of the gradient; None turns clipping off."""
    warmup_steps: int = 0
    schedule: Schedule = "step"
    drop_at: float = 0.8
    """``step``: fraction of the run after which the rate drops by ``drop_factor``."""
    drop_factor: float = 0.1
    ema_decay: float = 0.0
    """Decay of the running average of the weights, which is validated and exported; 0 turns averaging off."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise RecipeError(
                f"steps is {self.steps} and batch_size is {self.batch_size}; expected 1 or more.",
                kind="out_of_range",
                field="batch_size" if self.batch_size < 1 else "steps",
            )
        if not 0.0 <= self.ema_decay < 1.0:
            raise RecipeError(
                f"ema_decay is {self.ema_decay}; expected a value in [0, 1).", kind="out_of_range", field="ema_decay"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectionLossConfig:
    """Matching costs and loss weights of CellFinder.

    Defaults come from Anchor DETR's published code (Wang et al. 2022), which uses those of Deformable DETR (Zhu et al.
    2021).
    """

    class_cost: float = 2.0
    l1_cost: float = 5.0
    giou_cost: float = 2.0
    class_weight: float = 2.0
    l1_weight: float = 5.0
    giou_weight: float = 2.0
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    cell_class: int = 0
    """Index of the logit of the class "cell"."""
    score_is_iou: bool = False
    """Train the score of a matched query towards the IoU of its box instead of 1, so that scores rank boxes by their
    fit (Li et al. 2020, Generalized Focal Loss, quality focal loss)."""
    auxiliary_matches: int = 1
    """Queries matched to each cell in the auxiliary layers. Above 1, one-to-many matching gives these layers denser
    supervision (Jia et al. 2023, H-DETR); the last layer stays one-to-one and needs no suppression."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskLossConfig:
    """Loss weights of the mask decoder; defaults from SAM (Kirillov et al. 2023), appendix A, training algorithm."""

    focal_weight: float = 20.0
    dice_weight: float = 1.0
    iou_weight: float = 1.0
    cells_per_image: int = 16
    """Cells drawn per image and step; limits the decoder's memory."""
    window_margin_px: float | None = None
    """Distance around the prompt box within which focal and dice loss apply, as ``mask_window="box"`` does at
    inference; a hundredth of the focal loss stays on the whole map. None: the whole map, as in SAM. When training from
    scratch, small cells are lost in a whole map, because "no cell anywhere" is nearly right."""
    upsampling: int = 1
    """Factor by which the logits are enlarged before the losses, bilinearly as at inference. 1: masks are learned at
    the resolution of the logits, as in SAM. Outlines are then rounded to 4 model pixels, which is much for a cell of
    20."""
    box_jitter: float = 0.1
    """Standard deviation of the noise on the prompt boxes, as a fraction of their side, at most 20 pixels."""

    def __post_init__(self) -> None:
        if self.upsampling < 1:
            raise RecipeError(
                f"upsampling is {self.upsampling}; expected a whole number, 1 or more.",
                kind="out_of_range",
                field="upsampling",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """Random changes of a training image: geometry first, then intensities. Zeros leave images unchanged."""

    zoom: tuple[float, float] = (1.0, 1.0)
    """Range of the factor that enlarges the field (above 1, a crop) or shrinks it (below 1, padded)."""
    diameter_px: tuple[float, float] | None = None
    """Range of the median cell diameter in the view, model pixels, if the field is large enough. It replaces ``zoom``
    and keeps the aspect of the field, so views look like those of a detector that runs at the scale of its cells."""
    mosaic: float = 0.0
    """Share of the samples that join four views of half the size: small cells without padding."""
    aspect: float = 0.0
    """Largest relative change of the aspect ratio."""
    flips: bool = True
    """Flip, and rotate by quarter turns."""
    rotated: float = 0.0
    """Share of the views that are also rotated by up to 45 degrees; the part outside the field is blank."""
    elastic_px: float = 0.0
    """Largest standard deviation of a smooth displacement at its knots, which are about 48 model pixels apart. It gives
    cells other shapes (Ronneberger et al. 2015, U-Net, section 3.1). A few pixels at the border are mirrored."""
    shading: float = 0.0
    """Largest standard deviation of the logarithm of a smooth illumination at its knots, a third of the view apart."""
    sharpening: float = 0.0
    """Largest strength of unsharp masking with a Gaussian of 1 to 4 pixels, which varies halos and outlines."""
    gamma: float = 0.0
    """Range of the exponents, one per channel: exp(-gamma) to exp(gamma)."""
    noise: float = 0.0
    """Largest standard deviation of Gaussian noise, image units (0..1)."""
    blur_px: float = 0.0
    """Largest sigma of a Gaussian blur."""
    inverted: float = 0.0
    """Share of the one-channel views in which dark and bright are swapped."""
    membrane_alone: float = 0.0
    """Share of the views of a nuclear and a whole-cell channel that show the whole-cell channel alone."""
    channels_swapped: float = 0.0
    """Share of the other two-channel views whose channels are swapped."""

    def __post_init__(self) -> None:
        strengths = ("mosaic", "aspect", "rotated", "elastic_px", "shading", "sharpening", "gamma", "noise", "blur_px")
        wrong = {name: getattr(self, name) for name in strengths if not getattr(self, name) >= 0}
        if wrong:
            raise RecipeError(f"augment has {wrong}; expected 0 or more.", kind="out_of_range")
        shares = ("inverted", "membrane_alone", "channels_swapped")
        outside = {name: getattr(self, name) for name in shares if not 0 <= getattr(self, name) <= 1}
        if outside:
            raise RecipeError(f"augment has {outside}; expected shares in [0, 1].", kind="out_of_range")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """Recipe of one training: the model, both stages, the augmentation and the seed."""

    model: ModelConfig
    stage1: OptimizerConfig
    stage2: OptimizerConfig
    detection: DetectionLossConfig = field(default_factory=DetectionLossConfig)
    masks: MaskLossConfig = field(default_factory=MaskLossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    dataset_weights: Mapping[str, float] = field(default_factory=dict)
    """Factors by dataset name on how often it is drawn, relative to the square root of its share; 1 if absent."""
    synthetic_share: float = 0.0
    """Share of the views that show an image made on the fly (``training.data.synthetic``) instead of a tile."""
    synthetic_weights: Mapping[str, float] = field(default_factory=dict)
    """Factors by group name on how often a group of made images is drawn; 1 if absent, 0 excludes the group."""
    mask_weight_in_stage1: float = 0.0
    """Above 0, stage 1 also trains the mask decoder on ground-truth boxes: for models that do not start from SAM."""
    parts_in_stage1: Parts = "all"
    """Parts that stage 1 trains; ``masks`` needs ``mask_weight_in_stage1`` above 0. The others stay as they are."""
    train_decoder_in_stage2: bool = False
    """If True, stage 2 also trains the prompt encoder and the mask decoder; in the paper it trains the neck alone."""
    local_attention_init: bool = False
    """Start with anchors on a grid, attention near each anchor and fine prompt positions (``CellSAM.init_local``)."""
    precision: Precision = "32-true"
    seed: int = 0

    def __post_init__(self) -> None:
        if any(not weight > 0 for weight in self.dataset_weights.values()):
            raise RecipeError(
                f"dataset_weights is {dict(self.dataset_weights)}; expected values above 0.",
                kind="out_of_range",
                field="dataset_weights",
            )
        if not 0.0 <= self.synthetic_share <= 1.0:
            raise RecipeError(
                f"synthetic_share is {self.synthetic_share}; expected a value in [0, 1].",
                kind="out_of_range",
                field="synthetic_share",
            )
        if self.parts_in_stage1 == "masks" and not self.mask_weight_in_stage1 > 0:
            raise RecipeError(
                f"parts_in_stage1 is 'masks', but mask_weight_in_stage1 is {self.mask_weight_in_stage1}; expected a "
                "value above 0.",
                kind="conflict",
                field="parts_in_stage1",
            )
        if any(not weight >= 0 for weight in self.synthetic_weights.values()):
            raise RecipeError(
                f"synthetic_weights is {dict(self.synthetic_weights)}; expected values of 0 or more.",
                kind="out_of_range",
                field="synthetic_weights",
            )

    def to_json(self) -> str:
        """Return the recipe as JSON, as stored with a run."""
        return json.dumps(asdict(self), indent=2) + "\n"


# The paper's text lacks its numbers (appendix B); the published defaults of Anchor DETR and SAM replace them.
VIT_B = Recipe(
    model=ModelConfig(),
    # Paper: 500 epochs on 16 GPUs. Rates, decay, clipping and drop (at 40 of 50 epochs): Anchor DETR's main.py.
    stage1=OptimizerConfig(
        steps=500_000,
        batch_size=16,
        learning_rate=1e-4,
        encoder_learning_rate=1e-5,
        weight_decay=1e-4,
        clip_norm=0.1,
        drop_at=0.8,
    ),
    # Rate, decay and warm-up: SAM, appendix A. Not clipped: paper, appendix B.
    stage2=OptimizerConfig(
        steps=90_000,
        batch_size=16,
        learning_rate=8e-4,
        encoder_learning_rate=0.0,
        weight_decay=0.1,
        clip_norm=None,
        warmup_steps=250,
        drop_at=2 / 3,
    ),
    augment=AugmentConfig(zoom=(0.8, 1.5)),
    precision="bf16-mixed",
)

# Small enough to train on a CPU and to ship. It is trained from scratch, so it needs options that help a DETR converge.
NANO = Recipe(
    model=ModelConfig(
        image_size=512,
        encoder_dim=192,
        encoder_depth=4,
        encoder_heads=6,
        stem=(24, 48, 96),
        window_size=8,
        global_attention_blocks=(2,),
        embedding_dim=96,
        decoder_heads=4,
        decoder_mlp_dim=384,
        iou_head_dim=96,
        finder_dim=128,
        finder_heads=4,
        finder_ff_dim=512,
        finder_groups=16,
        finder_encoder_layers=1,
        finder_decoder_layers=2,
        position_cycles=16.0,
        anchors=1024,
        classes=1,
        queries="features",
        offset_scale=0.125,
        details=True,
        box_prior=True,
    ),
    stage1=OptimizerConfig(
        steps=3_600,
        batch_size=4,
        learning_rate=8e-4,
        encoder_learning_rate=8e-4,
        weight_decay=1e-2,
        clip_norm=1.0,
        warmup_steps=200,
        schedule="cosine",
        ema_decay=0.998,
    ),
    stage2=OptimizerConfig(
        steps=4_000,
        batch_size=4,
        learning_rate=2e-4,
        encoder_learning_rate=0.0,
        weight_decay=1e-2,
        clip_norm=None,
        warmup_steps=100,
        schedule="cosine",
        ema_decay=0.998,
    ),
    detection=DetectionLossConfig(auxiliary_matches=4),
    masks=MaskLossConfig(cells_per_image=6, window_margin_px=32.0, upsampling=2),
    augment=AugmentConfig(zoom=(0.9, 1.8), mosaic=0.4, aspect=0.3, gamma=0.4, noise=0.03, blur_px=1.0),
    mask_weight_in_stage1=1.0,
    train_decoder_in_stage2=True,
    local_attention_init=True,
    precision="bf16-mixed",
)

PRESETS: Mapping[str, Recipe] = {"vit_b": VIT_B, "nano": NANO}


def load_recipe(source: str | Path) -> Recipe:
    """Return a preset by name, or read a recipe from a JSON file.

    A file such as ``{"preset": "nano", "stage1": {"steps": 100}}`` changes values of a preset.

    Raises:
        RecipeError: the preset or file does not exist, the JSON is damaged, or a name or value is unknown.
    """
    if str(source) in PRESETS:
        return PRESETS[str(source)]
    path = Path(source)
    if not path.is_file():
        raise RecipeError(
            f"{source} is neither a preset ({', '.join(PRESETS)}) nor a file.", kind="not_found", field="recipe"
        )
    try:
        content = convert(json.loads(path.read_text(encoding="utf-8")), dict[str, Any])
        name = str(content.pop("preset", "nano"))
        if name not in PRESETS:
            raise FieldError(f"preset is {name!r}, expected one of {', '.join(PRESETS)}", "preset")
        return convert(_merged(PRESETS[name], content), Recipe)
    except (ValueError, RecursionError) as error:
        own = (
            error
            if isinstance(error, RecipeError)
            else RecipeError(kind="damaged", field=getattr(error, "field", None))
        )
        raise RecipeError(f"{path} is not a recipe: {error}.", kind=own.kind, field=own.field) from error


def _merged(value: Any, changes: Mapping[str, Any], place: str = "") -> dict[str, Any]:
    """Return the fields of a dataclass with changes, which may be nested."""
    refuse_unknown(changes, type(value), place)
    merged: dict[str, Any] = {one.name: getattr(value, one.name) for one in fields(value)} | dict(changes)
    for name in changes:
        if is_dataclass(current := getattr(value, name)) and isinstance(changes[name], Mapping):
            merged[name] = _merged(current, changes[name], f"{place}.{name}".lstrip("."))
    return merged
