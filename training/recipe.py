"""Everything a training run depends on, as typed values, and the presets of the paper and of the built-in model."""

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


class RecipeError(SegmenterError, ValueError):
    """A recipe file or value that cannot be used."""

    usual_kind = "invalid"


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """AdamW and its schedule."""

    steps: int
    """Optimizer steps of the whole run."""
    batch_size: int
    """Images per step over all processes together."""
    learning_rate: float
    encoder_learning_rate: float
    """Rate of the ViT, lower than that of what is trained on it. 0 freezes the ViT."""
    weight_decay: float
    clip_norm: float | None
    """Largest norm of the gradient; None does not clip."""
    warmup_steps: int = 0
    schedule: Schedule = "step"
    drop_at: float = 0.8
    """``step``: fraction of the run after which the rate drops by ``drop_factor``."""
    drop_factor: float = 0.1
    ema_decay: float = 0.0
    """Decay of the running average of the weights that is validated and exported; 0 keeps no average."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise RecipeError(
                f"steps {self.steps} and batch_size {self.batch_size} must be 1 or more.",
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

    Defaults: Anchor DETR's published code (Wang et al. 2022), which takes them from Deformable DETR (Zhu et al. 2021).
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
    """Which logit means "cell"."""
    score_is_iou: bool = False
    """Train the score of a matched query towards the IoU of its box instead of towards 1, so that scores rank boxes by
    how well they fit (Li et al. 2020, Generalized Focal Loss, quality focal loss)."""
    auxiliary_matches: int = 1
    """Queries matched to each cell in the auxiliary layers; above 1, one-to-many matching gives them denser
    supervision (Jia et al. 2023, H-DETR), while the last layer stays one-to-one and needs no suppression."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskLossConfig:
    """Loss weights of the mask decoder. Defaults: SAM (Kirillov et al. 2023), appendix A, training algorithm."""

    focal_weight: float = 20.0
    dice_weight: float = 1.0
    iou_weight: float = 1.0
    cells_per_image: int = 16
    """Cells drawn per image and step; bounds the decoder's memory."""
    window_margin_px: float | None = None
    """Focal and dice loss only within this distance around the prompt box, where ``mask_window="box"`` looks at
    inference; a hundredth of the focal loss stays on the whole map. None: the whole map alike, as SAM. From nothing,
    small cells are lost in a whole map: "no cell anywhere" is nearly right."""
    upsampling: int = 1
    """Factor by which the logits are enlarged, bilinearly as at inference, before the losses see them. 1: masks are
    learned at the logits' own resolution, as SAM does, where the outline of a cell is rounded to 4 model pixels: much
    for one of 20."""
    box_jitter: float = 0.1
    """Standard deviation of the noise on the prompt boxes, as a fraction of the side, at most 20 pixels."""

    def __post_init__(self) -> None:
        if self.upsampling < 1:
            raise RecipeError(
                f"upsampling is {self.upsampling}; expected a whole number, 1 or more.",
                kind="out_of_range",
                field="upsampling",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """Random changes of a training image. Geometry first, then intensities; all zero trains on plain images."""

    zoom: tuple[float, float] = (1.0, 1.0)
    """Range of the factor by which the field is enlarged (above 1, a crop) or shrunk (below 1, padded)."""
    diameter_px: tuple[float, float] | None = None
    """Range of the median cell diameter in the view, model pixels, as far as the field is large enough; it then takes
    the place of ``zoom``, and the field keeps its aspect: what a detector sees that is run at its cells' scale."""
    mosaic: float = 0.0
    """Share of the samples that are four views at half the size, side by side: small cells without padding."""
    aspect: float = 0.0
    """Largest relative change of one side against the other."""
    flips: bool = True
    """Mirror and rotate by quarter turns."""
    rotated: float = 0.0
    """Share of the views that are also rotated by any angle up to 45 degrees; what lies outside the field is blank."""
    elastic_px: float = 0.0
    """Largest standard deviation of a smooth displacement at its knots, which are about 48 model pixels apart: the same
    cells in other shapes (Ronneberger et al. 2015, U-Net, section 3.1). A few pixels at the border are mirrored."""
    shading: float = 0.0
    """Largest standard deviation of the logarithm of a smooth illumination at its knots, a third of the view apart."""
    sharpening: float = 0.0
    """Largest share of what a Gaussian of 1 to 4 pixels takes away that is added once more: halos and outlines of other
    strengths."""
    gamma: float = 0.0
    """Exponents, one per channel, are drawn from exp(+-gamma)."""
    noise: float = 0.0
    """Largest standard deviation of Gaussian noise, image units (0..1)."""
    blur_px: float = 0.0
    """Largest sigma of a Gaussian blur."""
    inverted: float = 0.0
    """Share of the one-channel views that are shown with dark and bright exchanged."""
    membrane_alone: float = 0.0
    """Share of the views of a nuclear and a whole-cell channel that show the whole-cell channel alone."""
    channels_swapped: float = 0.0
    """Share of the other two-channel views whose channels are exchanged."""

    def __post_init__(self) -> None:
        strengths = ("mosaic", "aspect", "rotated", "elastic_px", "shading", "sharpening", "gamma", "noise", "blur_px")
        wrong = {name: getattr(self, name) for name in strengths if not getattr(self, name) >= 0}
        if wrong:
            raise RecipeError(f"augmentation has {wrong}; expected 0 or more.", kind="out_of_range")
        shares = ("inverted", "membrane_alone", "channels_swapped")
        outside = {name: getattr(self, name) for name in shares if not 0 <= getattr(self, name) <= 1}
        if outside:
            raise RecipeError(f"augmentation has {outside}; expected shares in [0, 1].", kind="out_of_range")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One training: the model, both stages, the data's augmentation and the seed."""

    model: ModelConfig
    stage1: OptimizerConfig
    stage2: OptimizerConfig
    detection: DetectionLossConfig = field(default_factory=DetectionLossConfig)
    masks: MaskLossConfig = field(default_factory=MaskLossConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    dataset_weights: Mapping[str, float] = field(default_factory=dict)
    """Factors by which datasets, by name, are drawn more often than by the square root of their share; 1 if absent."""
    synthetic_share: float = 0.0
    """Share of the views that show an image made on the fly (``training.data.synthetic``) in place of a tile."""
    synthetic_weights: Mapping[str, float] = field(default_factory=dict)
    """Factors by which groups of made images, by name, are drawn; 1 if absent, 0 leaves a group out."""
    mask_weight_in_stage1: float = 0.0
    """Above 0, stage 1 also trains the mask decoder on ground-truth boxes: for models that do not start from SAM."""
    train_decoder_in_stage2: bool = False
    """Stage 2 of the paper trains the neck alone; True adds the prompt encoder and the mask decoder."""
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
        if any(not weight >= 0 for weight in self.synthetic_weights.values()):
            raise RecipeError(
                f"synthetic_weights is {dict(self.synthetic_weights)}; expected values of 0 or more.",
                kind="out_of_range",
                field="synthetic_weights",
            )

    def to_json(self) -> str:
        """As stored beside a run."""
        return json.dumps(asdict(self), indent=2) + "\n"


# The paper's text lost its numbers (appendix B); Anchor DETR's and SAM's published defaults take their place.
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

# Small enough to train on a CPU and to ship; starts from nothing, so it needs what speeds a DETR's convergence up.
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
    """A preset by name, or a recipe from a JSON file: ``{"preset": "nano", "stage1": {"steps": 100}, ...}``.

    Values not in the file are the preset's.

    Raises:
        RecipeError: no such preset or file, damaged JSON, or a name or value that does not exist.
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
    """Fields of a dataclass as an object, some replaced; of dataclasses in it, some of theirs."""
    refuse_unknown(changes, type(value), place)
    merged = {one.name: getattr(value, one.name) for one in fields(value)} | changes
    for name in changes:
        if is_dataclass(current := getattr(value, name)) and isinstance(changes[name], Mapping):
            merged[name] = _merged(current, changes[name], f"{place}.{name}".lstrip("."))
    return merged
