"""CellFinder with all image-independent parts folded into constants.

Shape legend: B images, A anchors, G grid side, D width, H heads, d head channels.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.graphs.fused import attend
from export.graphs.heads import split_heads
from runtime.engines.manifest import Target
from training.model import CellFinder
from training.model.cellfinder import DecoderLayer, Positions, SpatialEncoderLayer
from training.model.position import inverse_sigmoid
from training.model.rcda import RowColumnAttention


class _RowColumnProduct(nn.Module):
    """The attention product of RCDA on projected inputs, followed by its output projection.

    For ``gpu``, a head's channels come before the columns, and the sum over columns is an elementwise product and a
    sum. For a matrix product with one row, TensorRT would transpose the largest tensor of the engine.
    """

    def __init__(self, attention: RowColumnAttention, target: Target) -> None:
        super().__init__()
        self.target = target
        self.heads = attention.heads
        self.out_proj = attention.out_proj

    def forward(self, q_row: Tensor, q_col: Tensor, k_row: Tensor, k_col: Tensor, value_BGGD: Tensor) -> Tensor:
        """Map scaled queries (B, Q, D), keys (B, G, D) and values (B, G, G, D) to (B, Q, D)."""
        batch, grid, _, width = value_BGGD.shape
        heads, head_dim = self.heads, width // self.heads
        q_row, q_col, k_row, k_col = (split_heads(x, heads) for x in (q_row, q_col, k_row, k_col))
        row = (q_row @ k_row.transpose(-1, -2)).softmax(-1)
        col = (q_col @ k_col.transpose(-1, -2)).softmax(-1)
        value = value_BGGD.reshape(batch, grid, grid, heads, head_dim)
        count = q_row.shape[2]
        if self.target == "gpu":
            by_row = value.permute(0, 3, 1, 4, 2).reshape(batch, heads, grid, head_dim * grid)
            per_column = (col @ by_row).reshape(batch, heads, count, head_dim, grid)
            attended = (row.reshape(batch, heads, count, 1, grid) * per_column).sum(-1)
        else:
            by_row = value.permute(0, 3, 1, 2, 4).reshape(batch, heads, grid, grid * head_dim)
            per_column = (col @ by_row).reshape(batch, heads, count, grid, head_dim)
            attended = (row.reshape(batch, heads, count, 1, grid) @ per_column).reshape(batch, heads, count, head_dim)
        out: Tensor = self.out_proj(attended.transpose(1, 2).reshape(batch, count, width))
        return out


class _Projections:
    """The five stacked projections of one RCDA layer, with the query scale folded into those of the queries."""

    def __init__(self, attention: RowColumnAttention) -> None:
        weights = attention.in_proj_weight.detach().chunk(5)
        biases = attention.in_proj_bias.detach().chunk(5)
        scale = (weights[0].shape[1] // attention.heads) ** -0.5
        self.q_row = (weights[0] * scale, biases[0] * scale)
        self.q_col = (weights[1] * scale, biases[1] * scale)
        self.k_row, self.k_col, self.value = (
            (weights[2], biases[2]),
            (weights[3], biases[3]),
            (weights[4], biases[4]),
        )


class _EncoderLayer(nn.Module):
    """Spatial encoder layer: one projection of the map for queries and values; positions are added as constants."""

    weight: Tensor
    value_bias: Tensor
    q_row_bias: Tensor
    q_col_bias: Tensor
    k_row_weight: Tensor
    k_row_bias: Tensor
    k_col_weight: Tensor
    k_col_bias: Tensor

    def __init__(self, layer: SpatialEncoderLayer, positions: Positions, target: Target) -> None:
        super().__init__()
        p = _Projections(layer.self_attn)
        self.register_buffer("weight", torch.cat((p.q_row[0], p.q_col[0], p.value[0])))
        # A query at (y, x) carries the embedding of x for its row product and of y for its column product.
        self.register_buffer("q_row_bias", F.linear(positions.row, *p.q_row))
        self.register_buffer("q_col_bias", F.linear(positions.col, *p.q_col)[:, None])
        self.register_buffer("value_bias", p.value[1])
        self.register_buffer("k_row_weight", p.k_row[0])
        self.register_buffer("k_row_bias", F.linear(positions.row, *p.k_row))
        self.register_buffer("k_col_weight", p.k_col[0])
        self.register_buffer("k_col_bias", F.linear(positions.col, *p.k_col))
        self.product = _RowColumnProduct(layer.self_attn, target)
        self.norm1, self.ffn = layer.norm1, layer.ffn

    def forward(self, memory_BGGD: Tensor) -> Tensor:
        """Map (B, G, G, D) to (B, G, G, D)."""
        q_row, q_col, value = F.linear(memory_BGGD, self.weight).chunk(3, -1)
        attended = self.product(
            (q_row + self.q_row_bias).flatten(1, 2),
            (q_col + self.q_col_bias).flatten(1, 2),
            F.linear(memory_BGGD.mean(1), self.k_row_weight) + self.k_row_bias,
            F.linear(memory_BGGD.mean(2), self.k_col_weight) + self.k_col_bias,
            value + self.value_bias,
        )
        out: Tensor = self.ffn(self.norm1(memory_BGGD + attended.reshape(memory_BGGD.shape)))
        return out


class _SelfAttention(nn.Module):
    """Self-attention of the anchors; the query position is added as a constant."""

    def __init__(self, attention: nn.MultiheadAttention, *, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = attention.num_heads, fused
        weights, biases = attention.in_proj_weight.detach(), attention.in_proj_bias.detach()
        width = attention.embed_dim
        scale = torch.ones(2 * width, 1)
        scale[:width] = (width // self.heads) ** -0.5
        self.qk = nn.Parameter(weights[: 2 * width] * scale)
        self.qk_bias = nn.Parameter(biases[: 2 * width] * scale[:, 0])
        self.v = nn.Parameter(weights[2 * width :])
        self.v_bias = nn.Parameter(biases[2 * width :])
        self.out_proj = attention.out_proj

    def forward(self, target_BAD: Tensor, query_position: Tensor) -> Tensor:
        q, k = F.linear(target_BAD + query_position, self.qk, self.qk_bias).chunk(2, -1)
        v = F.linear(target_BAD, self.v, self.v_bias)
        if self.fused:
            by_head = (*target_BAD.shape[:2], self.heads, -1)
            attended = attend(q.reshape(by_head), k.reshape(by_head), v.reshape(by_head))
        else:
            q, k, v = (split_heads(x, self.heads) for x in (q, k, v))
            attended = ((q @ k.transpose(-1, -2)).softmax(-1) @ v).transpose(1, 2).reshape(target_BAD.shape)
        out: Tensor = self.out_proj(attended)
        return out


class _CrossAttention(nn.Module):
    """RCDA from the anchors to the map. ``keys`` are the map's means over its height and over its width."""

    k_row_bias: Tensor
    k_col_bias: Tensor

    def __init__(self, layer: DecoderLayer, positions: Positions, target: Target) -> None:
        super().__init__()
        p = _Projections(layer.cross_attn)
        self.projections = nn.ParameterDict(
            {
                "q_row": p.q_row[0],
                "q_row_bias": p.q_row[1],
                "q_col": p.q_col[0],
                "q_col_bias": p.q_col[1],
                "k_row": p.k_row[0],
                "k_col": p.k_col[0],
                "value": p.value[0],
                "value_bias": p.value[1],
            }
        )
        self.register_buffer("k_row_bias", F.linear(positions.row, *p.k_row))
        self.register_buffer("k_col_bias", F.linear(positions.col, *p.k_col))
        self.product = _RowColumnProduct(layer.cross_attn, target)

    def queries(self, target: Tensor, query_x: Tensor, query_y: Tensor) -> tuple[Tensor, Tensor]:
        p = self.projections
        return (
            F.linear(target + query_x, p["q_row"], p["q_row_bias"]),
            F.linear(target + query_y, p["q_col"], p["q_col_bias"]),
        )

    def forward(self, queries: tuple[Tensor, Tensor], memory_BGGD: Tensor, keys: tuple[Tensor, Tensor]) -> Tensor:
        p = self.projections
        out: Tensor = self.product(
            *queries,
            F.linear(keys[0], p["k_row"]) + self.k_row_bias,
            F.linear(keys[1], p["k_col"]) + self.k_col_bias,
            F.linear(memory_BGGD, p["value"], p["value_bias"]),
        )
        return out


class _DecoderLayer(nn.Module):
    norm1: nn.LayerNorm
    norm2: nn.LayerNorm
    ffn: nn.Module

    def __init__(self, layer: DecoderLayer, positions: Positions, target: Target, *, fused: bool) -> None:
        super().__init__()
        self.self_attn = _SelfAttention(layer.self_attn, fused=fused)
        self.cross_attn = _CrossAttention(layer, positions, target)
        self.norm1, self.norm2, self.ffn = layer.norm1, layer.norm2, layer.ffn


class CellFinderGraph(nn.Module):
    """The detector engine: maps features before the neck to boxes and logits of each anchor.

    ``fused`` writes the self-attention of the anchors as one onnxruntime operator. RCDA keeps its form. It could be an
    attention over the map, because the product of its weights is the softmax of the summed logits. That would need no
    (A, G D) tensor, but three times the multiplications, or four times with widened values.
    """

    float32_parts = ("bbox_embed", "class_embed")
    float32_buffers = ("anchor_logits",)

    query: Tensor
    query_x: Tensor
    query_y: Tensor
    pattern: Tensor
    first_target: Tensor
    first_q_row: Tensor
    first_q_col: Tensor
    anchor_logits: Tensor

    @torch.no_grad()
    def __init__(self, finder: CellFinder, target: Target = "any", *, fused: bool = False) -> None:
        super().__init__()
        positions = finder.positions()
        self.input_proj = finder.input_proj
        self.encoder_layers = nn.ModuleList(
            _EncoderLayer(cast(SpatialEncoderLayer, layer), positions, target) for layer in finder.encoder_layers
        )
        self.decoder_layers = nn.ModuleList(
            _DecoderLayer(cast(DecoderLayer, layer), positions, target, fused=fused) for layer in finder.decoder_layers
        )
        self.class_embed, self.bbox_embed = finder.class_embed, finder.bbox_embed
        for name in ("query", "query_x", "query_y"):
            self.register_buffer(name, getattr(positions, name))
        # inverse_sigmoid reaches 1e5 before its logarithm, so it is computed here in float32, not at run time.
        self.register_buffer("anchor_logits", inverse_sigmoid(finder.anchor_points))
        self.queries_know_features = finder.queries_know_features
        if self.queries_know_features:
            self.register_buffer("pattern", finder.pattern)
            return
        # Before seeing the image, every query equals the pattern. So layer 0's self-attention is constant, and so are
        # the queries of its cross-attention.
        first = cast(_DecoderLayer, self.decoder_layers[0])
        pattern = finder.pattern.expand(1, finder.anchor_points.shape[0], -1)
        seen_nothing = first.norm2(pattern + first.self_attn(pattern, self.query))
        q_row, q_col = first.cross_attn.queries(seen_nothing, self.query_x, self.query_y)
        self.register_buffer("first_target", seen_nothing)
        self.register_buffer("first_q_row", q_row)
        self.register_buffer("first_q_col", q_col)

    def forward(self, patch_features: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, encoder_dim, G, G) to ``boxes_cxcywh_norm`` (B, A, 4) and ``logits`` (B, A, classes)."""
        memory = self.input_proj(patch_features).permute(0, 2, 3, 1)
        for layer in self.encoder_layers:
            memory = layer(memory)
        keys = (memory.mean(1), memory.mean(2))  # shared by all decoder layers
        batch = memory.shape[0]
        target = memory.flatten(1, 2) + self.pattern if self.queries_know_features else self.first_target
        for index, module in enumerate(self.decoder_layers):
            layer = cast(_DecoderLayer, module)
            if index == 0 and not self.queries_know_features:
                queries = tuple(q.expand(batch, -1, -1) for q in (self.first_q_row, self.first_q_col))
            else:
                target = layer.norm2(target + layer.self_attn(target, self.query))
                queries = layer.cross_attn.queries(target, self.query_x, self.query_y)
            target = layer.ffn(layer.norm1(target + layer.cross_attn(queries, memory, keys)))
        offset_xy, size_wh = self.bbox_embed(target).split(2, dim=-1)
        boxes = torch.cat((offset_xy + self.anchor_logits, size_wh), -1).sigmoid()
        return boxes, self.class_embed(target)
