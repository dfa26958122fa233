"""Fine features for the mask decoder, taken from the stem.

SAM's mask decoder sees one vector per patch of 16 pixels and draws 4 x 4 logits from it. SAM 2 (Ravi et al. 2024,
arXiv:2408.00714, section 4) adds features of stride 8 and 4 during upscaling. Here they come from the convolutions of
the stem. They are packed into the channels of the image embedding, so the engines keep their inputs and outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.model.config import ModelConfig


class Details(nn.Module):
    """Project the stem's last two inner levels to the terms that the decoder's two upscaling steps add.

    All parameters start at zero, so weights that were trained without details give the same results.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        fine, coarse = config.stem[-2:]
        self.coarse = nn.Conv2d(coarse, config.embedding_dim // 4, kernel_size=3, padding=1)
        self.fine = nn.Conv2d(fine, config.embedding_dim // 8, kernel_size=3, padding=1)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Return packed details (B, 3 * embedding_dim, G, G).

        A token has 4 pixels of embedding_dim / 4 channels and 16 of embedding_dim / 8.

        Args:
            fine: (B, stem[-2], 4G, 4G).
            coarse: (B, stem[-1], 2G, 2G).
        """
        return pack(torch.cat((self.coarse(coarse), pack(self.fine(fine))), 1))


def pack(x: Tensor) -> Tensor:
    """Pack (B, c, 2H, 2W) into (B, 4c, H, W): row and column within 2 x 2 pixels come before the channel."""
    batch, channels, height, width = x.shape
    blocks = x.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(batch, 4 * channels, height // 2, width // 2)


def unpack(x: Tensor) -> Tensor:
    """Unpack (B, 4c, H, W) to (B, c, 2H, 2W): the inverse of ``pack``."""
    batch, channels, height, width = x.shape
    blocks = x.reshape(batch, 2, 2, channels // 4, height, width)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(batch, channels // 4, 2 * height, 2 * width)


def unpack_details(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Split (B, 3C, G, G) into the terms for stride 8, (B, C / 4, 2G, 2G), and stride 4, (B, C / 8, 4G, 4G)."""
    levels = unpack(packed)
    coarse = levels.shape[1] // 3
    return levels[:, :coarse], unpack(levels[:, coarse:])
