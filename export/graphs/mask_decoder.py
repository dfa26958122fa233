"""SAM's prompt encoder and mask decoder for box prompts, many boxes of many images in one call.

It does less work than the original, and each reduction is exact:

- The image-side projections of layer 0 are the same for all boxes of an image, so they are computed once per image.
- With T = 7 tokens and H = 8 heads, H * T = 56 is less than the 128 inner channels. Projections of the G * G image
  tokens therefore move to the token side: ``(X W) q = X (W q)`` and ``P (X W) = (P X) W``.
- A key bias shifts all logits of a query alike and cancels in the softmax. Weights sum to 1, so a bias of the output
  is a bias of the values.
- The last attention runs only for the two tokens that are read, and the heads only for the requested mask.
- The two upscaling convolutions have kernel = stride = 2, so each token becomes its own 4x4 pixels. Only the tokens of
  the box's window are upscaled; details are packed by token and need no unpacking.

For ``gpu``, a window's tokens also pass through the layers separately. If they were taken from a layer's output,
TensorRT's builder would split the LayerNorm before it into two kernels, with a float32 tensor of all tokens in between.

Shape legend: B images, K boxes, N = G * G image tokens, T prompt tokens, H heads, d head channels, C width.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.graphs.box_prior import BoxPrior
from export.graphs.decoder_attention import (
    ImageToToken,
    SharedImageToToken,
    TokenAttention,
    TokenToImage,
    TokenToSharedImage,
)
from runtime.engines.manifest import Target
from training.model import CellSAM


class _Layer(nn.Module):
    """One two-way block (SAM, appendix A): tokens to tokens, tokens to image, MLP, image to tokens."""

    token_to_image: Any
    image_to_token: Any
    norm1: nn.LayerNorm
    norm2: nn.LayerNorm
    norm3: nn.LayerNorm
    norm4: nn.LayerNorm
    mlp: nn.Module

    def __init__(self, layer: Any, *, first: bool, shared: bool, target: Target) -> None:
        """Args: first: no position and no residual yet. shared: all boxes of an image still have equal image tokens."""
        super().__init__()
        self.first, self.shared = first, shared
        self.self_attn = TokenAttention(layer.self_attn)
        self.norm1, self.norm2 = layer.norm1, layer.norm2
        self.norm3, self.norm4 = layer.norm3, layer.norm4
        self.mlp = layer.mlp
        to_image, to_token = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
        self.token_to_image = TokenToSharedImage(to_image) if shared else TokenToImage(to_image, target)
        self.image_to_token = (SharedImageToToken if shared else ImageToToken)(to_token, target)

    def tokens_to_tokens(self, tokens: Tensor, prompt: Tensor) -> Tensor:
        """Attend among the prompt tokens, (K, T, C) to (K, T, C)."""
        if self.first:  # SAM's skip_first_layer_pe: no position, and no residual either
            out: Tensor = self.norm1(self.self_attn(tokens, tokens))
        else:
            out = self.norm1(tokens + self.self_attn(tokens + prompt, tokens))
        return out


class _FirstOutput(nn.Module):
    """SAM's IoU head for the single mask: only the first of its outputs."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        *inner, last = head.layers
        first = nn.Linear(last.in_features, 1)
        first.weight, first.bias = nn.Parameter(last.weight[:1]), nn.Parameter(last.bias[:1])
        self.layers = nn.Sequential(*(part for layer in inner for part in (layer, nn.ReLU())), first)

    def forward(self, token: Tensor) -> Tensor:
        """Map (K, C) to (K, 1)."""
        out: Tensor = self.layers(token)
        return out


class MaskDecoderGraph(nn.Module):
    """The mask decoder engine: maps embeddings, box prompts and windows to mask logits and IoU estimates."""

    float32_parts = ("hypernetwork", "iou_head")
    float32_buffers = ("corner_frequencies", "corner_embedding")

    corner_frequencies: Tensor
    corner_embedding: Tensor
    output_tokens: Tensor
    image_pe: Tensor
    no_mask: Tensor
    upscale1_weight: Tensor
    upscale1_bias: Tensor
    upscale2_weight: Tensor
    upscale2_bias: Tensor

    @torch.no_grad()
    def __init__(self, model: CellSAM, target: Target = "any") -> None:
        super().__init__()
        # With a box prior, each box has its own tokens from the start, so the form for GPUs saves nothing.
        self.target = target = "any" if model.config.box_prior or model.config.windowed_decoder else target
        prompt, decoder = model.prompt_encoder, model.mask_decoder
        self.grid, self.image_size = model.config.grid_size, model.config.image_size
        self.register_buffer("corner_frequencies", prompt.pe_layer.positional_encoding_gaussian_matrix)
        corners = torch.cat([prompt.point_embeddings[2].weight, prompt.point_embeddings[3].weight])
        self.register_buffer("corner_embedding", corners)
        self.register_buffer("output_tokens", torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])[None])
        self.register_buffer("image_pe", prompt.get_dense_pe().flatten(2).transpose(1, 2))  # (1, N, C)
        self.register_buffer("no_mask", prompt.no_mask_embed.weight)
        transformer = decoder.transformer
        self.box_prior = BoxPrior(prompt, model.config) if model.config.box_prior else None
        self.windowed = model.config.windowed_decoder
        shared = self.box_prior is None and not self.windowed
        self.layers = nn.ModuleList(
            _Layer(layer, first=index == 0, shared=index == 0 and shared, target=target)
            for index, layer in enumerate(transformer.layers)
        )
        self.final_attention = TokenToImage(transformer.final_attn_token_to_image, target)
        self.norm_final = transformer.norm_final_attn
        self.hypernetwork = decoder.output_hypernetworks_mlps[0]
        self.iou_head = _FirstOutput(decoder.iou_prediction_head)
        first, norm, _, second, _ = decoder.output_upscaling
        self.upscale_norm = nn.LayerNorm(first.out_channels, eps=norm.eps)
        self.upscale_norm.weight, self.upscale_norm.bias = norm.weight, norm.bias
        self.with_details = model.config.details
        self._register_upscaling("upscale1", first)
        self._register_upscaling("upscale2", second)

    def _register_upscaling(self, name: str, convolution: nn.ConvTranspose2d) -> None:
        """Register a transposed convolution with kernel = stride = 2 as a linear map to 2 * 2 pixels."""
        weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (2 * 2 * out, in)
        assert convolution.bias is not None
        self.register_buffer(f"{name}_weight", weight)
        self.register_buffer(f"{name}_bias", convolution.bias.repeat(4))

    def forward(
        self,
        image_embedding: Tensor,
        image_index: Tensor,
        boxes_xyxy_model: Tensor,
        window_rows: Tensor,
        window_cols: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Decode K masks, each inside its own window of tokens.

        Args:
            image_embedding: (B, C, G, G), or (B, 4C, G, G) with details.
            image_index: (K,) int64, the image of each box.
            boxes_xyxy_model: (K, 4), model pixels.
            window_rows: (K, R) int64, the token rows to upscale, in 0..G-1.
            window_cols: (K, S) int64, the token columns.

        Returns:
            ``mask_logits`` (K, 4R, 4S) and ``iou_predictions`` (K,).
        """
        embedding = image_embedding.to(self.image_pe.dtype).flatten(2).transpose(1, 2)  # (B, N, C or 4C)
        width = self.image_pe.shape[-1]
        image = embedding[..., :width]
        details = embedding[..., width:] if self.with_details else None
        prior = self.box_prior  # specific to each box, so no part of the image can be shared
        prompt = self._prompt_tokens(boxes_xyxy_model)
        window = window_rows.unsqueeze(2) * self.grid + window_cols.unsqueeze(1)  # (K, R, S) indices of tokens
        if self.windowed:
            own = self.no_mask if prior is None else prior.of_windows(boxes_xyxy_model, window_rows, window_cols)
            positions = _window(self.image_pe, window, torch.zeros_like(image_index))
            seen = _window(image, window, image_index)
            seen, positions = (x.reshape(window.shape[0], -1, width) for x in (seen, positions))
            tokens, image = self._attended(prompt, seen + own, positions)
            inside = image.flatten(0, 1)
        else:
            image = image + self.no_mask if prior is None else prior(image, image_index, boxes_xyxy_model)
            tokens, inside = self._two_way(prompt, image, image_index, window)
        iou = self.iou_head(tokens[:, 0]).reshape(-1)
        kernel = self.hypernetwork(tokens[:, 1])
        added = None if details is None else _window(details, window, image_index)
        logits = self._upscale(inside, added, kernel)
        # (row, column, then the two levels of 2 x 2 pixels) to pixel rows and columns.
        boxes, height, length = window.shape
        pixels = logits.reshape(boxes, height, length, 2, 2, 2, 2).permute(0, 1, 3, 5, 2, 4, 6)
        return pixels.reshape(boxes, 4 * height, 4 * length), iou

    def _prompt_tokens(self, boxes_xyxy_model: Tensor) -> Tensor:
        """Map (K, 4) boxes to (K, T, C): IoU token, mask tokens, the box's two corners."""
        count = boxes_xyxy_model.shape[0]
        corners = (boxes_xyxy_model.reshape(count, 2, 2) + 0.5) / self.image_size
        # Keeps SAM's order of operations: masks are sensitive to the last bits of the angles, and folding the factors
        # into the matrix would round them differently.
        angles = 2 * math.pi * ((2 * corners - 1) @ self.corner_frequencies)
        embedded = torch.cat((angles.sin(), angles.cos()), -1) + self.corner_embedding
        return torch.cat((self.output_tokens.expand(count, -1, -1), embedded.to(self.output_tokens.dtype)), 1)

    def _two_way(self, prompt: Tensor, image: Tensor, image_index: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two tokens that are read, and the image tokens inside the windows.

        Args:
            prompt: (K, T, C).
            image: (B, N, C), or (K, N, C) with a box prior.
            image_index: (K).
            window: (K, R, S) indices of tokens.

        Returns:
            (K, 2, C) and (K * R * S, C).
        """
        tokens = prompt
        own = torch.arange(window.shape[0], device=window.device)
        apart = self.target == "gpu"
        inside = _window(image, window, image_index) if apart else image
        for module in self.layers:
            layer = cast(_Layer, module)
            tokens = layer.tokens_to_tokens(tokens, prompt)
            if layer.shared:
                with_pe = image + self.image_pe
                keys, values = layer.token_to_image.per_image(with_pe, image)
                queries = layer.image_to_token.per_image(with_pe)
                keys, values, image_side, image = (
                    per_image.index_select(0, image_index) for per_image in (keys, values, queries, image)
                )
                attended = layer.token_to_image(tokens + prompt, keys, values)
            else:
                image_side = image + self.image_pe
                attended = layer.token_to_image(tokens + prompt, image_side, image)
            tokens = layer.norm2(tokens + attended)
            tokens = layer.norm3(tokens + layer.mlp(tokens))
            weights = layer.image_to_token(tokens + prompt, image_side)
            values = layer.image_to_token.token_values(tokens)
            image = layer.norm4(image + weights @ values)
            if apart:
                weights_inside = _window(weights, window, own).reshape(window.shape[0], -1, weights.shape[-1])
                inside = layer.norm4(inside + (weights_inside @ values).flatten(0, 1))
        read = tokens[:, :2]
        attended = self.final_attention(read + prompt[:, :2], image, image, self.image_pe)
        return self.norm_final(read + attended), inside if apart else _window(image, window, own)

    def _attended(self, prompt: Tensor, image: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Run ``_two_way`` on image tokens that belong to one box each: image and positions (K, M, C)."""
        tokens = prompt
        for module in self.layers:
            layer = cast(_Layer, module)
            tokens = layer.tokens_to_tokens(tokens, prompt)
            keys = image + positions
            tokens = layer.norm2(tokens + layer.token_to_image(tokens + prompt, keys, image))
            tokens = layer.norm3(tokens + layer.mlp(tokens))
            weights = layer.image_to_token(tokens + prompt, keys)
            image = layer.norm4(image + weights @ layer.image_to_token.token_values(tokens))
        read = tokens[:, :2]
        attended = self.final_attention(read + prompt[:, :2], image, image, positions)
        return self.norm_final(read + attended), image

    def _upscale(self, tokens: Tensor, details: Tensor | None, kernel: Tensor) -> Tensor:
        """Map the tokens of all windows, M for each of K boxes, to the logits of their 4 x 4 pixels.

        Args:
            tokens: (K * M, C).
            details: (K * M, 3C), or None. Each of the four pixels of the first step has C / 4 channels for itself, and
                C / 8 for each of the four pixels that the second step derives from it.
            kernel: (K, C / 8), mask kernels.

        Returns:
            (K, M * 16, 1).
        """
        width = tokens.shape[-1]
        x = F.linear(tokens, self.upscale1_weight, self.upscale1_bias).reshape(-1, 4, width // 4)
        if details is not None:
            coarse, fine = torch.tensor_split(details.reshape(-1, 4, 3 * width // 4), (width // 4,), dim=-1)
            x = x + coarse
        x = F.linear(F.gelu(self.upscale_norm(x)), self.upscale2_weight, self.upscale2_bias)
        if details is not None:
            x = x + fine
        return F.gelu(x.reshape(kernel.shape[0], -1, width // 8)).to(kernel.dtype) @ kernel.unsqueeze(-1)


def _window(tokens: Tensor, places: Tensor, owner: Tensor) -> Tensor:
    """Gather tokens (B, N, C) at the indices (K, R, S), 0..N-1, of their owners (K,), 0..B-1: (K * R * S, C)."""
    count, width = tokens.shape[1:]
    index = owner.reshape(-1, 1, 1) * count + places
    return tokens.reshape(-1, width).index_select(0, index.reshape(-1))
