"""The ellipse inside each box as a mask prompt (``ModelConfig.box_prior``), added to the image's tokens.

The reduction is exact. If the weights and biases of a convolution have zero mean over its channels, so has its output,
and the norm need not subtract the mean. The last convolution, 1 x 1, becomes a product of tokens.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn

from runtime.ops.boxes import LOGITS_PER_TOKEN
from training.model import ModelConfig
from training.model.cellsam import ellipse_prior, window_prior


class BoxPrior(nn.Module):
    """SAM's ``mask_downscaling``, applied to the ellipses."""

    weight: Tensor
    bias: Tensor

    def __init__(self, prompt_encoder: Any, config: ModelConfig) -> None:
        super().__init__()
        self.side, self.image_size = LOGITS_PER_TOKEN * config.grid_size, config.image_size
        *narrow, wide = prompt_encoder.mask_downscaling
        self.layers = nn.Sequential(*map(_Centred, narrow[::3], narrow[1::3]))
        self.register_buffer("weight", wide.weight.detach().flatten(1).t())  # (mask channels, C)
        self.register_buffer("bias", wide.bias.detach())

    def of_windows(self, boxes_xyxy_model: Tensor, window_rows: Tensor, window_cols: Tensor) -> Tensor:
        """Map boxes (K, 4), token rows (K, R) and columns (K, S) to the prior's tokens in windows, (K, R * S, C)."""
        inner = torch.arange(LOGITS_PER_TOKEN)
        along_x, along_y = (
            ((LOGITS_PER_TOKEN * tokens.unsqueeze(2) + inner).flatten(1) + 0.5) * (self.image_size / self.side)
            for tokens in (window_cols, window_rows)
        )
        prior = window_prior(boxes_xyxy_model, along_x, along_y).to(self.weight.dtype)
        narrow = self.layers(prior).flatten(2).transpose(1, 2)
        tokens: Tensor = narrow @ self.weight + self.bias
        return tokens

    def forward(self, image: Tensor, image_index: Tensor, boxes_xyxy_model: Tensor) -> Tensor:
        """Map image tokens (B, N, C), the image of each box (K,) and boxes (K, 4) to each box's tokens (K, N, C)."""
        prior = ellipse_prior(boxes_xyxy_model, self.side, self.image_size).to(image.dtype)
        narrow = self.layers(prior).flatten(2).transpose(1, 2)
        tokens: Tensor = (image + self.bias).index_select(0, image_index) + narrow @ self.weight
        return tokens


class _Centred(nn.Module):
    """A convolution with stride = kernel, SAM's norm over channels, and GELU."""

    float32_parts = ("convolution",)
    float32_buffers = ("weight", "bias")

    weight: Tensor
    bias: Tensor

    def __init__(self, convolution: nn.Conv2d, norm: LayerNorm2d) -> None:
        super().__init__()
        assert convolution.bias is not None
        weight, bias = convolution.weight.detach(), convolution.bias.detach()
        side: int = convolution.kernel_size[0]
        self.convolution = nn.Conv2d(convolution.in_channels, convolution.out_channels, side, side)
        self.convolution.weight = nn.Parameter(weight - weight.mean(0, keepdim=True))
        self.convolution.bias = nn.Parameter(bias - bias.mean())
        self.register_buffer("weight", norm.weight.detach()[:, None, None])
        self.register_buffer("bias", norm.bias.detach()[:, None, None])
        self.eps: float = norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """Map (K, C, side * h, side * w) to (K, C', h, w)."""
        centred = self.convolution(x)
        deviation = (centred.square().mean(1, keepdim=True) + self.eps).sqrt()
        return F.gelu((centred / deviation * self.weight + self.bias).to(x.dtype))
