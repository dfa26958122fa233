"""The mask decoder's attentions, with image projections moved to the token side if that saves work.

For ``gpu``, image tokens come before heads in all large tensors, and softmaxes over T use the Softmax operator. Then
TensorRT's builder transposes nothing, and keeps each LayerNorm between them in one kernel. For ``any``, T comes before
the image tokens: over a last axis of 7, backends spend more time on a softmax than on the products.

Shape legend: B images, K boxes, N = G * G image tokens, T prompt tokens, H heads, d head channels, C width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.graphs.heads import split_heads
from runtime.engines.manifest import Target


def _highest(x: Tensor) -> Tensor:
    """Reduce (K, H, T, N) to the maximum over T, (K, H, 1, N).

    Not ``amax``: before 2026, onnxruntime has no CUDA kernel for ReduceMax of opset 20 (its issue 27729), and would
    move the logits to the host and back.
    """
    while (count := x.shape[2]) > 1:
        half = (count + 1) // 2
        x = torch.maximum(x[:, :, :half], x[:, :, count - half :])
    return x


def join_heads(x: Tensor) -> Tensor:
    """Map (K, H, N, d) to (K, N, H * d)."""
    return x.transpose(1, 2).flatten(2)


class TokenAttention(nn.Module):
    """SAM's attention among the prompt tokens."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.heads: int = attention.num_heads
        self.q_proj, self.k_proj = attention.q_proj, attention.k_proj
        self.v_proj, self.out_proj = attention.v_proj, attention.out_proj

    def forward(self, query: Tensor, value: Tensor) -> Tensor:
        """Map queries, which are also the keys, and values, (K, T, C) each, to (K, T, C)."""
        q = split_heads(self.q_proj(query), self.heads)
        k = split_heads(self.k_proj(query), self.heads)
        v = split_heads(self.v_proj(value), self.heads)
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
        out: Tensor = self.out_proj(join_heads(weights @ v))
        return out


class TokenToImage(nn.Module):
    """Attention from the prompt tokens to the image, with the image's projections moved to the token side."""

    k_weight: Tensor
    v_weight: Tensor
    v_bias: Tensor

    def __init__(self, attention: Any, target: Target) -> None:
        super().__init__()
        self.target = target
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
            key_pe: (1, N, C), positions missing from ``image_keys``. They are added to the logits, which are smaller
                than the image for small T.

        Returns:
            (K, T, C).
        """
        count, tokens, width = query.shape
        q = split_heads(self.q_proj(query), self.heads) * self.scale
        image_query = (q @ self.k_weight).reshape(count, self.heads * tokens, width)
        if self.target == "gpu":
            weights = self._token_major(image_query, image_keys, key_pe)
        else:
            logits = image_query @ image_keys.transpose(-1, -2)
            if key_pe is not None:
                logits = logits + image_query @ key_pe.transpose(-1, -2)
            weights = logits.softmax(-1)  # (K, H * T, N)
        context = (weights @ image).reshape(count, self.heads, tokens, width)
        out: Tensor = self.out_proj(join_heads(context @ self.v_weight + self.v_bias))
        return out

    @staticmethod
    def _token_major(image_query: Tensor, image_keys: Tensor, key_pe: Tensor | None) -> Tensor:
        """Compute the weights (K, H * T, N) from a product with image tokens first.

        For a plain attention, TensorRT's builder would transpose all keys and split the LayerNorm that computes them.
        """
        logits = image_keys @ image_query.transpose(-1, -2)  # (K, N, H * T)
        if key_pe is not None:
            logits = logits + key_pe @ image_query.transpose(-1, -2)
        return logits.softmax(1).transpose(-1, -2)


class TokenToSharedImage(nn.Module):
    """Layer 0's token-to-image attention: keys and values projected once per image."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.heads: int = attention.num_heads
        self.scale = (attention.internal_dim // self.heads) ** -0.5
        self.q_proj, self.out_proj = attention.q_proj, attention.out_proj
        self.k_proj, self.v_proj = attention.k_proj, attention.v_proj

    def per_image(self, image_with_pe: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, N, C) to keys (B, H, d, N) and values (B, H, N, d)."""
        # The key bias cancels in the softmax.
        keys = split_heads(F.linear(image_with_pe, self.k_proj.weight), self.heads).transpose(-1, -2)
        return keys, split_heads(self.v_proj(image), self.heads)

    def forward(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Map queries (K, T, C), keys (K, H, d, N) and values (K, H, N, d) to (K, T, C)."""
        q = split_heads(self.q_proj(query), self.heads) * self.scale
        out: Tensor = self.out_proj(join_heads((q @ keys).softmax(-1) @ values))
        return out


class ImageToToken(nn.Module):
    """Attention from the image to the prompt tokens, with both image-side projections moved to the token side."""

    q_weight: Tensor
    q_bias: Tensor
    out_weight: Tensor
    out_bias: Tensor

    def __init__(self, attention: Any, target: Target) -> None:
        super().__init__()
        self.target = target
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
        """Map (K, T, C) to the tokens' values after the output projection, (K, H * T, C)."""
        projected = split_heads(self.v_proj(value), self.heads) @ self.out_weight + self.out_bias
        return projected.flatten(1, 2)

    def forward(self, query: Tensor, image_with_pe: Tensor) -> Tensor:
        """Map token keys before projection (K, T, C) and the image (K, N, C) to value weights (K, N, H * T)."""
        count, tokens, width = query.shape
        k = split_heads(self.k_proj(query), self.heads)  # (K, H, T, d)
        image_key = (k @ self.q_weight).reshape(count, self.heads * tokens, width)
        if self.target == "gpu":
            bias = (k @ self.q_bias).reshape(count, 1, self.heads * tokens)
            return self._softmax_last(image_with_pe @ image_key.transpose(-1, -2) + bias, tokens)
        logits = (image_key @ image_with_pe.transpose(-1, -2)).reshape(count, self.heads, tokens, -1)
        return self._softmax_tokens(logits + k @ self.q_bias)

    def _softmax_last(self, logits: Tensor, tokens: int) -> Tensor:
        """Map logits (K, N, H * T) to weights that sum to 1 over the T of each head."""
        return logits.reshape(logits.shape[0], -1, self.heads, tokens).softmax(-1).flatten(2)

    @staticmethod
    def _softmax_tokens(logits: Tensor) -> Tensor:
        """Map logits (K, H, T, N) to weights (K, N, H * T); spelled out because T is not the last axis."""
        exponentials = (logits - _highest(logits)).exp()
        return (exponentials / exponentials.sum(2, keepdim=True)).flatten(1, 2).transpose(-1, -2)


class SharedImageToToken(ImageToToken):
    """Layer 0's image-to-token attention: queries projected once per image."""

    def per_image(self, image_with_pe: Tensor) -> Tensor:
        """Map (B, N, C) to scaled queries: (B, H, d, N) for ``any``, (B, N, H * d) for ``gpu``."""
        weight = self.q_weight.flatten(0, 1)
        queries = F.linear(image_with_pe, weight, self.q_bias.flatten())
        return queries if self.target == "gpu" else split_heads(queries, self.heads).transpose(-1, -2)

    def forward(self, query: Tensor, image_query: Tensor) -> Tensor:
        """Compute the weights as in ``ImageToToken``, from the queries of ``per_image``."""
        k = split_heads(self.k_proj(query), self.heads)  # (K, H, T, d)
        if self.target != "gpu":
            return self._softmax_tokens(k @ image_query)
        # One product for all heads: keys as diagonal blocks of an (H * d, H * T) matrix.
        count, heads, tokens, channels = k.shape
        diagonal = torch.eye(heads, dtype=k.dtype).reshape(heads, 1, heads, 1)
        blocks = (k.transpose(-1, -2).unsqueeze(3) * diagonal).reshape(count, heads * channels, heads * tokens)
        return self._softmax_last(image_query @ blocks, tokens)
