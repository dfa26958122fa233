"""Sizes of a CellSAM model. The released ViT-B and the small built-in model are two instances of one class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from runtime.engines.manifest import Trunk

STEM_GROUPS = 8
"""Groups of the GroupNorm after each convolution of the stem."""

Queries = Literal["pattern", "features"]

_GREATEST = {
    "image_size": 8192,
    "patch_size": 256,
    "encoder_dim": 8192,
    "encoder_depth": 128,
    "encoder_heads": 256,
    "window_size": 1024,
    "embedding_dim": 4096,
    "decoder_depth": 64,
    "decoder_heads": 256,
    "decoder_mlp_dim": 65_536,
    "iou_head_depth": 64,
    "iou_head_dim": 8192,
    "finder_dim": 4096,
    "finder_heads": 256,
    "finder_ff_dim": 65_536,
    "finder_encoder_layers": 64,
    "finder_decoder_layers": 64,
    "finder_groups": 4096,
    "anchors": 65_536,
    "classes": 1024,
}
"""Largest value of every integer. Sizes come from checkpoints; beyond these limits, building the model would overflow
or take hours. Each limit is several times the size of the largest ViT (ViT-22B has 48 blocks of 6144 channels)."""

_GREATEST_FACTORS = {"encoder_mlp_ratio": 64.0, "position_cycles": 4096.0, "offset_scale": 64.0}
"""Largest value of every factor; factors are above 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Sizes of a CellSAM model. The defaults are the released ViT-B at 1024 pixels.

    Source: CellSAM (Israel et al. 2023), Appendix B; SAM (Kirillov et al. 2023), ``sam_vit_b``;
    Anchor DETR (Wang et al. 2022).

    Raises:
        ValueError: a size is out of range, or sizes do not fit together.
    """

    image_size: int = 1024
    """Side of the square model input, pixels."""
    patch_size: int = 16
    """Side of one ViT patch, pixels."""
    encoder_dim: int = 768
    encoder_depth: int = 12
    encoder_heads: int = 12
    encoder_mlp_ratio: float = 4.0
    stem: tuple[int, ...] = ()
    """Output channels of the 3x3 convolutions of stride 2 that replace the patch embedding, without the last one to
    ``encoder_dim``. (): SAM's single convolution with kernel = stride. A ViT trained from scratch learns much faster on
    a convolutional stem (Xiao et al. 2021, arXiv:2106.14881)."""
    window_size: int = 14
    """Side of the attention windows, tokens."""
    global_attention_blocks: tuple[int, ...] = (2, 5, 8, 11)
    """Indices of the blocks that attend over the whole image instead of windows."""

    embedding_dim: int = 256
    """Channels after the neck; width of the prompt encoder and the mask decoder."""
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp_dim: int = 2048
    iou_head_depth: int = 3
    iou_head_dim: int = 256

    finder_dim: int = 256
    """Width of CellFinder."""
    finder_heads: int = 8
    finder_ff_dim: int = 1024
    finder_encoder_layers: int = 6
    finder_decoder_layers: int = 6
    finder_groups: int = 32
    """Groups of the GroupNorm after the input projection."""
    finder_dropout: float = 0.0
    position_cycles: float = 1.0
    """Cycles of the fastest position sine over the image. Anchor DETR uses 1; with more, neighbouring tokens differ
    from the start, which a model trained from scratch needs."""
    anchors: int = 3500
    """Number of learned anchor points; each has one query."""
    classes: int = 2
    queries: Queries = "pattern"
    """Content of a query before the first decoder layer. ``pattern``: one learned vector for all, as in Anchor DETR.
    ``features``: in addition, the detector's feature at the query's token, with one query per token. A model trained
    from scratch needs this (idea: Zhang et al. 2023, DINO, section 3.4)."""
    offset_scale: float = 1.0
    """Factor on the box head's centre offsets, which are logits of a fraction of the image side: 1 moves a box by up to
    a quarter of the image. Anchor DETR uses 1; a small factor places small cells finely from the start."""
    details: bool = False
    """Pass the stem's finer levels to the mask decoder as well (``training.model.details``). They are packed into the
    channels of the embedding, which then has ``4 * embedding_dim``. Needs a stem of two levels or more."""
    box_prior: bool = False
    """Also prompt the mask decoder with the ellipse inside the box, through SAM's mask prompt. With SAM's two corner
    tokens alone, training from scratch takes long."""

    windowed_decoder: bool = False
    """Show the mask decoder only the tokens of a window around the box: the box and two tokens on every side
    (``runtime.ops.boxes.token_windows``). Cells are small compared with an image, so this saves most of the decoder's
    work. The weights must suit it; those of SAM and CellSAM do not."""

    trunk: Trunk = "shared"
    """``shared``: both branches use one ViT, as in the paper. ``separate``: the box branch has its own ViT body."""
    detector: bool = True
    """False for plain SAM weights, which have no CellFinder and need boxes from the user."""

    def __post_init__(self) -> None:
        for name, greatest in _GREATEST.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= greatest:
                raise ValueError(f"{name} is {value!r}; expected a whole number from 1 to {greatest}.")
        for name, limit in _GREATEST_FACTORS.items():
            if not 0.0 < getattr(self, name) <= limit:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected a number above 0, up to {limit:g}.")
        self._check_encoder()
        self._check_detector()

    def _check_encoder(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}.")
        if self.stem and 2 ** (len(self.stem) + 1) != self.patch_size:
            raise ValueError(
                f"stem {self.stem} halves the image {len(self.stem) + 1} times; expected patches of "
                f"{self.patch_size} pixels. Change the number of stem levels, or patch_size."
            )
        if any(channels % STEM_GROUPS or not 0 < channels <= _GREATEST["encoder_dim"] for channels in self.stem):
            raise ValueError(
                f"stem is {self.stem}; expected multiples of {STEM_GROUPS}, up to {_GREATEST['encoder_dim']}."
            )
        if self.details and len(self.stem) < 2:
            raise ValueError(f"details need a stem of two levels or more; stem is {self.stem}.")
        pairs = (
            ("encoder_dim", self.encoder_dim, "encoder_heads", self.encoder_heads),
            ("embedding_dim", self.embedding_dim, "decoder_heads", 2 * self.decoder_heads),
            ("finder_dim", self.finder_dim, "finder_heads", self.finder_heads),
            ("finder_dim", self.finder_dim, "finder_groups", self.finder_groups),
            ("embedding_dim", self.embedding_dim, "mask upscaling", 8),
            ("finder_dim", self.finder_dim, "sine embedding", 4),
        )
        for name, value, by, divisor in pairs:
            if value % divisor:
                raise ValueError(f"{name} is {value}; expected a multiple of {divisor} ({by}).")
        outside = [block for block in self.global_attention_blocks if not 0 <= block < self.encoder_depth]
        if outside:
            raise ValueError(
                f"global_attention_blocks names {outside}; expected indices below encoder_depth, {self.encoder_depth}."
            )

    def _check_detector(self) -> None:
        if not 0.0 <= self.finder_dropout < 1.0:
            raise ValueError(f"finder_dropout is {self.finder_dropout}; expected a value in [0, 1).")
        if self.queries not in ("pattern", "features"):
            raise ValueError(f"queries is {self.queries!r}; expected 'pattern' or 'features'.")
        if self.queries == "features" and self.anchors != self.grid_size**2:
            raise ValueError(f"anchors is {self.anchors}; queries 'features' need {self.grid_size**2}, one per token.")
        if self.trunk not in ("shared", "separate"):
            raise ValueError(f"trunk is {self.trunk!r}; expected 'shared' or 'separate'.")
        if self.trunk == "separate" and not self.detector:
            raise ValueError("trunk 'separate' needs a detector: the second trunk feeds only CellFinder.")

    @property
    def embedding_channels(self) -> int:
        """Channels that the encoder passes to the mask decoder: the embedding and its details."""
        return self.embedding_dim * (4 if self.details else 1)

    @property
    def grid_size(self) -> int:
        """Tokens per side: 64 for the ViT-B."""
        return self.image_size // self.patch_size
