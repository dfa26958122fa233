"""SAM's image encoder, which also returns the features before its neck."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn

from training.model.config import STEM_GROUPS, ModelConfig
from training.model.details import Details


class EncoderOutput(NamedTuple):
    """Both outputs of the shared trunk (G = image_size / 16, 64 for the ViT-B)."""

    patch_features: Tensor
    """ViT output before the neck, (B, encoder_dim, G, G): the input of CellFinder."""
    image_embedding: Tensor
    """ViT output after the neck, with the details if the model has them, (B, embedding_channels, G, G): the input of
    the mask decoder."""


class Body(NamedTuple):
    """Outputs of the ViT's body for B images."""

    patch_features: Tensor
    """(B, encoder_dim, G, G)."""
    stem_levels: tuple[Tensor, ...]
    """The stem's last two inner levels, (B, stem[-2], 4G, 4G) and (B, stem[-1], 2G, 2G); () without a stem."""


class ConvolutionStem(nn.Sequential):
    """Convolutions of stride 2, each but the last followed by GroupNorm and GELU, in place of the patch embedding.

    Source: Xiao et al. 2021 (arXiv:2106.14881), section 4; GroupNorm instead of BatchNorm, for small batches.
    """

    def __init__(self, channels: tuple[int, ...], out: int) -> None:
        """Args: channels: output channels of the inner convolutions. out: output channels of the last one."""
        layers: list[nn.Module] = []
        for before, after in pairwise((3, *channels)):
            layers += [
                nn.Conv2d(before, after, kernel_size=3, stride=2, padding=1, bias=False),
                nn.GroupNorm(STEM_GROUPS, after),
                nn.GELU(),
            ]
        super().__init__(*layers, nn.Conv2d(channels[-1], out, kernel_size=3, stride=2, padding=1))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Map (B, 3, S, S) to (B, G, G, out), as SAM's patch embedding does."""
        return self.levels(pixel_values)[-1].permute(0, 2, 3, 1)

    def levels(self, pixel_values: Tensor) -> list[Tensor]:
        """Return the output of every level, from (B, channels, S / 2, S / 2) to (B, out, G, G)."""
        outputs = [pixel_values]
        for layer in self:
            if isinstance(layer, nn.Conv2d):
                outputs.append(layer(outputs[-1]))
            else:
                outputs[-1] = layer(outputs[-1])
        return outputs[1:]


class ImageEncoder(ImageEncoderViT):  # type: ignore[misc]
    """SAM's ViT with windowed attention, relative positions and a convolutional neck.

    In the paper (section 2.3, Fig. 1), one ViT feeds both branches: CellFinder takes the patch features, and the mask
    decoder the embedding after the neck.
    """

    def __init__(self, config: ModelConfig, *, neck: bool = True) -> None:
        """Args: config: the sizes. neck: False for the separate body of the box branch, which has no neck."""
        super().__init__(
            img_size=config.image_size,
            patch_size=config.patch_size,
            embed_dim=config.encoder_dim,
            depth=config.encoder_depth,
            num_heads=config.encoder_heads,
            mlp_ratio=config.encoder_mlp_ratio,
            out_chans=config.embedding_dim,
            qkv_bias=True,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=config.window_size,
            global_attn_indexes=config.global_attention_blocks,
        )
        if config.stem:
            self.patch_embed = ConvolutionStem(config.stem, config.encoder_dim)
        if not neck:
            del self.neck
        self.details = Details(config) if config.details and neck else None

    def body(self, pixel_values: Tensor) -> Body:
        """Return the features before the neck and the stem's levels for (B, 3, S, S) model input."""
        stem_levels, tokens = embed_patches(self.patch_embed, pixel_values)
        tokens = tokens + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        return Body(tokens.permute(0, 3, 1, 2), stem_levels)

    def embedding(self, body: Body) -> Tensor:
        """Return the input of the mask decoder, (B, embedding_channels, G, G)."""
        after_neck: Tensor = self.neck(body.patch_features)
        return after_neck if self.details is None else torch.cat((after_neck, self.details(*body.stem_levels)), 1)

    def patch_features(self, pixel_values: Tensor) -> Tensor:
        """Return the features before the neck, (B, encoder_dim, G, G), for (B, 3, S, S) model input."""
        return self.body(pixel_values).patch_features

    def forward(self, pixel_values: Tensor) -> EncoderOutput:
        """Return both outputs for (B, 3, S, S) model input."""
        body = self.body(pixel_values)
        return EncoderOutput(body.patch_features, self.embedding(body))


def embed_patches(patch_embed: nn.Module, pixel_values: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return the stem's last two inner levels, () without a stem, and the tokens (B, G, G, encoder_dim)."""
    if not isinstance(patch_embed, ConvolutionStem):
        return (), patch_embed(pixel_values)
    *inner, last = patch_embed.levels(pixel_values)
    return tuple(inner[-2:]), last.permute(0, 2, 3, 1)


@torch.no_grad()
def same_body(a: ImageEncoder, b: ImageEncoder) -> bool:
    """Return whether two encoders have the same weights, apart from their necks, bit for bit."""
    mine = {k: v for k, v in a.state_dict().items() if not k.startswith("neck.")}
    other = {k: v for k, v in b.state_dict().items() if not k.startswith("neck.")}
    return mine.keys() == other.keys() and all(torch.equal(v, other[k]) for k, v in mine.items())
