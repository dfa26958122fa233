"""SAM's prompt encoder and mask decoder for box prompts, many boxes of many images in one call.

What it does less than the original, all of it exact:

- the image-side projections of layer 0 are the same for every box of an image, so they are made once per image;
- with T = 7 tokens and H = 8 heads, H * T = 56 is less than the 128 inner channels, so projections of the G * G image
  tokens move to the token side: ``(X W) q = X (W q)`` and ``P (X W) = (P X) W``;
- a key bias shifts all logits of a query alike and drops out of the softmax; weights add up to 1, so that a bias of
  the output is one of the values;
- the last attention runs for the two tokens that are read, and the heads for the one mask that is asked for;
- the two upscaling convolutions have kernel = stride = 2, so each token becomes its own 4x4 pixels, and only the
  tokens of the box's window are upscaled; details come packed by token, and none are unpacked.

Shape legend: B images, K boxes, N = G * G image tokens, T prompt tokens, H heads, d head channels, C width.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.graphs.box_prior import BoxPrior
from export.graphs.heads import split_heads
from training.model import CellSAM


def _highest(x: Tensor) -> Tensor:
    """(K, H, T, N) to the maximum over T, (K, H, 1, N).

    Not ``amax``: ReduceMax of opset 20 has no CUDA kernel in onnxruntime before 2026 (its issue 27729), and would take
    the logits to the host and back.
    """
    while (count := x.shape[2]) > 1:
        half = (count + 1) // 2
        x = torch.maximum(x[:, :, :half], x[:, :, count - half :])
    return x


def _join_heads(x: Tensor) -> Tensor:
    """(K, H, N, d) to (K, N, H * d)."""
    return x.transpose(1, 2).flatten(2)


class _TokenAttention(nn.Module):
    """SAM's attention among the prompt tokens."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.heads: int = attention.num_heads
        self.q_proj, self.k_proj = attention.q_proj, attention.k_proj
        self.v_proj, self.out_proj = attention.v_proj, attention.out_proj

    def forward(self, query: Tensor, value: Tensor) -> Tensor:
        """Queries, also the keys, and values (K, T, C) to (K, T, C)."""
        q = split_heads(self.q_proj(query), self.heads)
        k = split_heads(self.k_proj(query), self.heads)
        v = split_heads(self.v_proj(value), self.heads)
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        out: Tensor = self.out_proj(_join_heads(weights @ v))
        return out


class _TokenToImage(nn.Module):
    """Attention from the prompt tokens to the image, the image's projections moved to the token side."""

    k_weight: Tensor
    v_weight: Tensor
    v_bias: Tensor

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.heads: int = attention.num_heads
        self.scale = (attention.internal_dim // self.heads) ** -0.5
        self.q_proj, self.out_proj = attention.q_proj, attention.out_proj
        k, v = attention.k_proj.weight.detach(), attention.v_proj.weight.detach()
        self.register_buffer("k_weight", k.reshape(self.heads, -1, k.shape[1]))  # (H, d, C)
        self.register_buffer("v_weight", v.reshape(self.heads, -1, v.shape[1]).transpose(1, 2))  # (H, C, d)
        self.register_buffer("v_bias", attention.v_proj.bias.detach().reshape(self.heads, 1, -1))

    def forward(self, query: Tensor, image_keys: Tensor, image: Tensor, key_pe: Tensor | None = None) -> Tensor:
        """Attend to the image.

        Args:
            query: (K, T, C).
            image_keys, image: (K, N, C) image tokens, with and without their positions.
            key_pe: (1, N, C), positions that ``image_keys`` lacks: added to the logits, which are smaller than the
                image where T is.

        Returns:
            (K, T, C).
        """
        count, tokens, width = query.shape
        q = split_heads(self.q_proj(query), self.heads) * self.scale
        image_query = (q @ self.k_weight).reshape(count, self.heads * tokens, width)
        logits = image_query @ image_keys.transpose(-1, -2)
        if key_pe is not None:
            logits = logits + image_query @ key_pe.transpose(-1, -2)
        weights = logits.softmax(-1)  # (K, H * T, N)
        context = (weights @ image).reshape(count, self.heads, tokens, width)
        out: Tensor = self.out_proj(_join_heads(context @ self.v_weight + self.v_bias))
        return out


class _TokenToSharedImage(nn.Module):
    """Layer 0's token-to-image attention: keys and values projected once per image."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.heads: int = attention.num_heads
        self.scale = (attention.internal_dim // self.heads) ** -0.5
        self.q_proj, self.out_proj = attention.q_proj, attention.out_proj
        self.k_proj, self.v_proj = attention.k_proj, attention.v_proj

    def per_image(self, image_with_pe: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, C) to keys (B, H, d, N) and values (B, H, N, d)."""
        # The key bias drops out of the softmax.
        keys = split_heads(F.linear(image_with_pe, self.k_proj.weight), self.heads).transpose(-1, -2)
        return keys, split_heads(self.v_proj(image), self.heads)

    def forward(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        q = split_heads(self.q_proj(query), self.heads) * self.scale
        out: Tensor = self.out_proj(_join_heads((q @ keys).softmax(-1) @ values))
        return out


class _ImageToToken(nn.Module):
    """Attention from the image to the prompt tokens, both image-side projections moved to the token side."""

    q_weight: Tensor
    q_bias: Tensor
    out_weight: Tensor
    out_bias: Tensor

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.heads: int = attention.num_heads
        self.k_proj, self.v_proj = attention.k_proj, attention.v_proj
        scale = (attention.internal_dim // self.heads) ** -0.5
        q_weight = attention.q_proj.weight.detach() * scale
        q_bias = attention.q_proj.bias.detach() * scale
        out_weight, out_bias = attention.out_proj.weight.detach(), attention.out_proj.bias.detach()
        self.register_buffer("q_weight", q_weight.reshape(self.heads, -1, q_weight.shape[1]))  # (H, d, C)
        self.register_buffer("q_bias", q_bias.reshape(self.heads, -1, 1))  # (H, d, 1)
        self.register_buffer("out_weight", out_weight.t().reshape(self.heads, -1, out_weight.shape[0]))  # (H, d, C)
        self.register_buffer("out_bias", out_bias / self.heads)

    def token_values(self, value: Tensor) -> Tensor:
        """(K, T, C) to the tokens' values after the output projection, (K, H * T, C)."""
        projected = split_heads(self.v_proj(value), self.heads) @ self.out_weight + self.out_bias
        return projected.flatten(1, 2)

    def forward(self, query: Tensor, value: Tensor, image_with_pe: Tensor) -> Tensor:
        """Token keys (before projection) and values (K, T, C), image tokens (K, N, C) to (K, N, C)."""
        count, tokens, width = query.shape
        k = split_heads(self.k_proj(query), self.heads)  # (K, H, T, d)
        image_key = (k @ self.q_weight).reshape(count, self.heads * tokens, width)
        logits = (image_key @ image_with_pe.transpose(-1, -2)).reshape(count, self.heads, tokens, -1)
        return self.attended(logits + k @ self.q_bias, value)

    def attended(self, logits: Tensor, value: Tensor) -> Tensor:
        """Logits (K, H, T, N) and token values (K, T, C) to (K, N, C).

        T is in place 2 and the softmax written out: over a last axis of 7, backends spend more time on it than on the
        products.
        """
        exponentials = (logits - _highest(logits)).exp()
        weights = (exponentials / exponentials.sum(2, keepdim=True)).flatten(1, 2)  # (K, H * T, N)
        return weights.transpose(-1, -2) @ self.token_values(value)


class _SharedImageToToken(_ImageToToken):
    """Layer 0's image-to-token attention: queries projected once per image."""

    def per_image(self, image_with_pe: Tensor) -> Tensor:
        """(B, N, C) to scaled queries (B, H, d, N)."""
        weight = self.q_weight.flatten(0, 1)
        return split_heads(F.linear(image_with_pe, weight, self.q_bias.flatten()), self.heads).transpose(-1, -2)

    def forward(self, query: Tensor, value: Tensor, image_query: Tensor) -> Tensor:
        return self.attended(split_heads(self.k_proj(query), self.heads) @ image_query, value)


class _Layer(nn.Module):
    """One two-way block (SAM, appendix A): tokens to tokens, tokens to image, MLP, image to tokens."""

    token_to_image: Any
    image_to_token: Any
    norm1: nn.LayerNorm
    norm2: nn.LayerNorm
    norm3: nn.LayerNorm
    norm4: nn.LayerNorm
    mlp: nn.Module

    def __init__(self, layer: Any, *, first: bool, shared: bool) -> None:
        """Args: first: no position and no residual yet. shared: all boxes of an image still have the same tokens."""
        super().__init__()
        self.first, self.shared = first, shared
        self.self_attn = _TokenAttention(layer.self_attn)
        self.norm1, self.norm2 = layer.norm1, layer.norm2
        self.norm3, self.norm4 = layer.norm3, layer.norm4
        self.mlp = layer.mlp
        token_to_image = _TokenToSharedImage if shared else _TokenToImage
        image_to_token = _SharedImageToToken if shared else _ImageToToken
        self.token_to_image = token_to_image(layer.cross_attn_token_to_image)
        self.image_to_token = image_to_token(layer.cross_attn_image_to_token)

    def tokens_to_tokens(self, tokens: Tensor, prompt: Tensor) -> Tensor:
        if self.first:  # SAM's skip_first_layer_pe: no position, and no residual either
            out: Tensor = self.norm1(self.self_attn(tokens, tokens))
        else:
            out = self.norm1(tokens + self.self_attn(tokens + prompt, tokens))
        return out


class _FirstOutput(nn.Module):
    """SAM's IoU head for the single mask: the first of its outputs alone."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        *inner, last = head.layers
        first = nn.Linear(last.in_features, 1)
        first.weight, first.bias = nn.Parameter(last.weight[:1]), nn.Parameter(last.bias[:1])
        self.layers = nn.Sequential(*(part for layer in inner for part in (layer, nn.ReLU())), first)

    def forward(self, token: Tensor) -> Tensor:
        """(K, C) to (K, 1)."""
        out: Tensor = self.layers(token)
        return out


class MaskDecoderGraph(nn.Module):
    """The mask decoder engine: embeddings, box prompts and windows to mask logits and IoU estimates."""

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
    def __init__(self, model: CellSAM) -> None:
        super().__init__()
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
        self.layers = nn.ModuleList(
            _Layer(layer, first=index == 0, shared=index == 0 and self.box_prior is None)
            for index, layer in enumerate(transformer.layers)
        )
        self.final_attention = _TokenToImage(transformer.final_attn_token_to_image)
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
        """A transposed convolution with kernel = stride = 2 as a linear map to 2 * 2 pixels."""
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
            image_index: (K) int64, the image of each box.
            boxes_xyxy_model: (K, 4), model pixels.
            window_rows: (K, R) int64, the token rows to upscale, in 0..G-1.
            window_cols: (K, S) int64, the token columns.

        Returns:
            ``mask_logits`` (K, 4R, 4S), ``iou_predictions`` (K).
        """
        embedding = image_embedding.to(self.image_pe.dtype).flatten(2).transpose(1, 2)  # (B, N, C or 4C)
        width = self.image_pe.shape[-1]
        image = embedding[..., :width]
        details = embedding[..., width:] if self.with_details else None
        prior = self.box_prior  # a box's own, so that nothing of the image is left to share
        image = image + self.no_mask if prior is None else prior(image, image_index, boxes_xyxy_model)
        prompt = self._prompt_tokens(boxes_xyxy_model)
        tokens, image = self._two_way(prompt, image, image_index)
        iou = self.iou_head(tokens[:, 0]).reshape(-1)
        kernel = self.hypernetwork(tokens[:, 1])
        window = window_rows.unsqueeze(2) * self.grid + window_cols.unsqueeze(1)  # (K, R, S) places of tokens
        added = None if details is None else _window(details, window, image_index)
        own = torch.arange(window.shape[0], device=window.device)
        logits = self._upscale(_window(image, window, own), added, kernel)
        # (row, column, then the two levels of 2 x 2 pixels) to pixel rows and columns.
        boxes, height, length = window.shape
        pixels = logits.reshape(boxes, height, length, 2, 2, 2, 2).permute(0, 1, 3, 5, 2, 4, 6)
        return pixels.reshape(boxes, 4 * height, 4 * length), iou

    def _prompt_tokens(self, boxes_xyxy_model: Tensor) -> Tensor:
        """(K, 4) boxes to (K, T, C): IoU token, mask tokens, the box's two corners."""
        count = boxes_xyxy_model.shape[0]
        corners = (boxes_xyxy_model.reshape(count, 2, 2) + 0.5) / self.image_size
        # In SAM's order of operations: masks are sensitive to the last bits of the angles, and folding the factors
        # into the matrix rounds them differently.
        angles = 2 * math.pi * ((2 * corners - 1) @ self.corner_frequencies)
        embedded = torch.cat((angles.sin(), angles.cos()), -1) + self.corner_embedding
        return torch.cat((self.output_tokens.expand(count, -1, -1), embedded.to(self.output_tokens.dtype)), 1)

    def _two_way(self, prompt: Tensor, image: Tensor, image_index: Tensor) -> tuple[Tensor, Tensor]:
        """Prompt (K, T, C), images (B, N, C), or (K, N, C) with a box prior, to the two read tokens and image tokens.

        Returns:
            (K, 2, C) and (K, N, C).
        """
        tokens = prompt
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
            image = layer.norm4(image + layer.image_to_token(tokens + prompt, tokens, image_side))
        read = tokens[:, :2]
        attended = self.final_attention(read + prompt[:, :2], image, image, self.image_pe)
        return self.norm_final(read + attended), image

    def _upscale(self, tokens: Tensor, details: Tensor | None, kernel: Tensor) -> Tensor:
        """The tokens of all windows, M for each of K boxes, to the logits of their 4 x 4 pixels.

        Args:
            tokens: (K * M, C).
            details: (K * M, 3C): for each of the four pixels of the first step, C / 4 channels for itself and C / 8 for
                each of the four that the second makes of it. None: without details.
            kernel: (K, C / 8), of the masks.

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
    """Tokens (B, N, C) at the places (K, R, S), 0..N-1, of their owners (K), 0..B-1, to (K * R * S, C)."""
    count, width = tokens.shape[1:]
    index = owner.reshape(-1, 1, 1) * count + places
    return tokens.reshape(-1, width).index_select(0, index.reshape(-1))
