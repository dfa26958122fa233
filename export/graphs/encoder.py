"""SAM's ViT with relative-position terms either added to the attention's logits or folded into its product.

Shape legend: B images, H heads, N tokens of an attention group, D head channels, C model width, G grid side,
P window side.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.graphs.fused import aligned, attend, attend_plainly
from training.model import ImageEncoder
from training.model.image_encoder import embed_patches

Form = Literal["bias", "folded", "wide", "fused"]
"""Form of the attention. ``bias`` adds relative positions to the logits. ``folded`` puts them inside the product, with
plain operators. ``wide`` is ``folded`` with values as wide as the queries, which TensorRT turns into one kernel.
``fused`` puts them inside the product of an attention that is one onnxruntime operator."""


class _RelativeAttention(nn.Module):
    """Common base of the forms of SAM's attention: its projections and sizes."""

    def __init__(self, attention: Any, side: int) -> None:
        """Args: side: side of the map or window that contains the tokens, in tokens."""
        super().__init__()
        self.heads: int = attention.num_heads
        self.side = side
        self.scale: float = attention.scale
        self.qkv = attention.qkv
        self.proj = attention.proj


class _Attention(_RelativeAttention):
    """Self-attention with decomposed relative positions, in plain operators; all forms compute the same.

    The bias of query q and key (y, x) is ``q . R_h[qy, y] + q . R_w[qx, x]``. Adding it to the logits takes a pass over
    the (N, N) logits. But it also equals a dot product of ``[q . R_h[qy], q . R_w[qx]]`` with the one-hot codes of y
    and x. Appending the former to the queries and the latter to the keys therefore gives the biased logits as one plain
    attention, which GPU kernels compute without any (N, N) tensor. ``python -m benchmarks.attention`` compares them.

    Source: Li et al. 2022 (MViTv2, arXiv:2112.01526), section 4.1, for the bias; the folding is algebra.
    """

    rel_h: Tensor
    rel_w: Tensor
    key_code: Tensor

    def __init__(self, attention: Any, side: int, *, folded: bool) -> None:
        super().__init__(attention, side)
        self.folded = folded
        self.register_buffer("rel_h", _relative_table(attention.rel_pos_h, side))
        self.register_buffer("rel_w", _relative_table(attention.rel_pos_w, side))
        if folded:
            self.register_buffer("key_code", _key_code(side))

    def forward(self, tokens_BNC: Tensor) -> Tensor:
        batch, count, width = tokens_BNC.shape
        side = self.side
        qkv = self.qkv(tokens_BNC).reshape(batch, count, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, H, N, D)
        q_grid = q.reshape(batch, self.heads, side, side, -1)
        # (B, H, y, x, D) @ (y, D, P): the table row of the query's y; likewise for x.
        rel_h = q_grid @ self.rel_h.transpose(-1, -2)
        rel_w = (q_grid.transpose(2, 3) @ self.rel_w.transpose(-1, -2)).transpose(2, 3)
        if self.folded:
            query = torch.cat((q_grid * self.scale, rel_h, rel_w), -1).reshape(batch, self.heads, count, -1)
            key = torch.cat((k, self.key_code.expand(batch, self.heads, count, 2 * side)), -1)
            logits = query @ key.transpose(-1, -2)
        else:
            plain = ((q * self.scale) @ k.transpose(-1, -2)).reshape(batch, self.heads, count, side, side)
            rows = rel_h.reshape(batch, self.heads, count, side, 1)
            columns = rel_w.reshape(batch, self.heads, count, 1, side)
            logits = (plain + rows + columns).reshape(batch, self.heads, count, count)
        attended = logits.softmax(-1) @ v
        out: Tensor = self.proj(attended.transpose(1, 2).reshape(batch, count, width))
        return out


class _WideAttention(_RelativeAttention):
    """Folded ``_Attention`` with heads widened for fused kernels; heads stay behind tokens, as projected."""

    rel_h: Tensor
    rel_w: Tensor
    key_code: Tensor

    def __init__(self, attention: Any, side: int, *, operator: bool) -> None:
        """Args: operator: whether to use one onnxruntime operator for the attention."""
        super().__init__(attention, side)
        self.attend = attend if operator else attend_plainly
        channels = attention.qkv.out_features // 3 // self.heads + 2 * side
        # These rows and columns of zeros are the zero channels that the kernels need, without an extra operator.
        zeros = aligned(channels) - channels
        self.register_buffer("rel_h", _relative_table(attention.rel_pos_h, side))
        self.register_buffer("rel_w", F.pad(_relative_table(attention.rel_pos_w, side), (0, 0, 0, zeros)))
        self.register_buffer("key_code", F.pad(_key_code(side), (0, zeros))[:, None])

    def forward(self, tokens_BNC: Tensor) -> Tensor:
        batch, count, width = tokens_BNC.shape
        side, heads = self.side, self.heads
        qkv = self.qkv(tokens_BNC).reshape(batch, count, 3, heads, width // heads)
        q, k, v = qkv.unbind(2)  # each (B, N, H, D)
        q_grid = q.reshape(batch, side, side, heads, -1)
        rel_h = _of_rows(q_grid, self.rel_h)
        rel_w = _of_rows(q_grid.transpose(1, 2), self.rel_w).transpose(1, 2)
        query = torch.cat((q_grid * self.scale, rel_h, rel_w), -1).reshape(batch, count, heads, -1)
        key = torch.cat((k, self.key_code.expand(batch, -1, heads, -1)), -1)
        out: Tensor = self.proj(self.attend(query, key, v))
        return out


def _of_rows(q_BPPHD: Tensor, table: Tensor) -> Tensor:
    """Multiply queries (B, y, x, H, D) by the table (y, R, D) of their own row: (B, y, x, H, R)."""
    batch, rows, columns, heads, _ = q_BPPHD.shape
    product = q_BPPHD.reshape(batch, rows, columns * heads, -1) @ table.transpose(-1, -2)
    return product.reshape(batch, rows, columns, heads, -1)


def _key_code(side: int) -> Tensor:
    """Return (N, 2 side) one-hot codes of each key's row and column."""
    code = torch.eye(side)
    rows = code[:, None].expand(side, side, side)
    columns = code[None].expand(side, side, side)
    return torch.cat((rows, columns), -1).reshape(side * side, 2 * side)


def _relative_table(rel_pos: Tensor, side: int) -> Tensor:
    """Expand (2 side - 1, D) embeddings by distance to (side, side, D) by query and key position."""
    if rel_pos.shape[0] != 2 * side - 1:
        raise ValueError(f"relative positions have {rel_pos.shape[0]} rows; expected {2 * side - 1}.")
    position = torch.arange(side)
    distance = position[:, None] - position[None] + side - 1
    return rel_pos.detach()[distance]


class _Block(nn.Module):
    """One transformer block, global or windowed."""

    def __init__(self, block: Any, grid: int, form: Form) -> None:
        super().__init__()
        self.window: int = block.window_size
        self.grid = grid
        self.norm1, self.norm2, self.mlp = block.norm1, block.norm2, block.mlp
        side = self.window or grid
        self.attention: nn.Module = (
            _WideAttention(block.attn, side, operator=form == "fused")
            if form in ("wide", "fused")
            else _Attention(block.attn, side, folded=form == "folded")
        )

    def forward(self, tokens_BGGC: Tensor) -> Tensor:
        normed = self.norm1(tokens_BGGC)
        if self.window:
            windows = self._partition(normed)
            attended = self._merge(self.attention(windows))
        else:
            attended = self.attention(normed.flatten(1, 2)).reshape(normed.shape)
        # As rows of tokens, not as a map: only then TensorRT merges GELU with the product before it.
        tokens_BNC = (tokens_BGGC + attended).flatten(1, 2)
        out: Tensor = (tokens_BNC + self.mlp(self.norm2(tokens_BNC))).reshape(tokens_BGGC.shape)
        return out

    def _windows_per_side(self) -> int:
        return -(-self.grid // self.window)

    def _partition(self, tokens_BGGC: Tensor) -> Tensor:
        """Map (B, G, G, C) to (B * windows, P * P, C); zero padding is part of the attention, as in SAM."""
        count, side = self._windows_per_side(), self.window
        padding = count * side - self.grid
        padded = _padded(tokens_BGGC, padding) if padding else tokens_BGGC
        split = padded.reshape(-1, count, side, count, side, padded.shape[-1])
        return split.transpose(2, 3).reshape(-1, side * side, padded.shape[-1])

    def _merge(self, windows: Tensor) -> Tensor:
        count, side = self._windows_per_side(), self.window
        split = windows.reshape(-1, count, count, side, side, windows.shape[-1]).transpose(2, 3)
        merged = split.reshape(-1, count * side, count * side, windows.shape[-1])
        return merged[:, : self.grid, : self.grid]


def _padded(tokens_BGGC: Tensor, padding: int) -> Tensor:
    """Pad with zeros below and to the right.

    Not ``F.pad``: at this opset, onnxruntime 1.23 has no CUDA kernel for Pad (its issue 26393), and would move the
    tokens of each windowed block to the host and back.
    """
    batch, rows, columns, width = tokens_BGGC.shape
    zero = torch.tensor(0.0, dtype=tokens_BGGC.dtype)  # new_zeros becomes ConstantOfShape, which also has no kernel
    wider = torch.cat((tokens_BGGC, zero.expand(batch, rows, padding, width)), 2)
    return torch.cat((wider, zero.expand(batch, padding, columns + padding, width)), 1)


class EncoderGraph(nn.Module):
    """The encoder engine.

    ``features`` and ``embedding`` select the outputs: both for a shared trunk, only ``patch_features`` for a separate
    trunk of the box branch, only ``image_embedding`` for that of the mask branch. ``form`` is the attention's form.
    """

    def __init__(self, encoder: ImageEncoder, *, features: bool, embedding: bool, form: Form = "folded") -> None:
        super().__init__()
        grid = encoder.pos_embed.shape[1]
        self.patch_embed = encoder.patch_embed
        self.pos_embed = encoder.pos_embed
        self.blocks = nn.ModuleList(_Block(block, grid, form) for block in encoder.blocks)
        self.neck = encoder.neck if embedding else None
        self.details = encoder.details if embedding else None
        self.features = features

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """Map (B, 3, S, S) to the selected (B, C, G, G) features and (B, embedding_channels, G, G) embedding."""
        stem_levels, tokens = embed_patches(self.patch_embed, pixel_values.to(self.pos_embed.dtype))
        tokens = tokens + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        features = tokens.permute(0, 3, 1, 2)
        outputs = (features,) if self.features else ()
        if self.neck is None:
            return outputs
        embedding = self.neck(features)
        if self.details is not None:
            embedding = torch.cat((embedding, self.details(*stem_levels)), 1)
        return (*outputs, embedding)
