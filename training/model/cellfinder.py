"""CellFinder: the Anchor DETR box detector on SAM's ViT features (paper, section 2.3 and Appendix B)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.model.config import ModelConfig
from training.model.position import grid_centres, inverse_sigmoid, sine_embedding_1d, sine_embedding_2d
from training.model.rcda import RowColumnAttention


@dataclass(frozen=True)
class CellFinderOutput:
    """Boxes and class logits of the A anchors."""

    boxes_cxcywh_norm: Tensor
    """(B, A, 4) centre x, centre y, width, height as fractions of the image sides."""
    logits: Tensor
    """(B, A, classes), before the sigmoid."""
    auxiliary: tuple[CellFinderOutput, ...] = ()
    """Outputs of the earlier decoder layers, for the auxiliary losses; empty unless requested. If queries start from
    features, also the output before the first layer."""


@dataclass(frozen=True)
class Positions:
    """Embedded positions shared by all layers (D = finder_dim, A anchors, (H, W) feature map)."""

    row: Tensor
    """(W, D): column centres, for attention along a row."""
    col: Tensor
    """(H, D): row centres, for attention along a column."""
    query: Tensor
    """(A, D): anchor points in 2-D, for self-attention."""
    query_x: Tensor
    """(A, D)"""
    query_y: Tensor
    """(A, D)"""


class FeedForward(nn.Module):
    """Two linear layers with a ReLU, followed by a residual connection and a LayerNorm."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden)
        self.linear2 = nn.Linear(hidden, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., D) to (..., D)."""
        hidden = self.dropout(torch.relu(self.linear1(x)))
        out: Tensor = self.norm2(x + self.dropout(self.linear2(hidden)))
        return out


class SpatialEncoderLayer(nn.Module):
    """RCDA self-attention of the feature map, then a feed-forward block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attn = RowColumnAttention(config.finder_dim, config.finder_heads, config.finder_dropout)
        self.norm1 = nn.LayerNorm(config.finder_dim)
        self.ffn = FeedForward(config.finder_dim, config.finder_ff_dim, config.finder_dropout)
        self.dropout = nn.Dropout(config.finder_dropout)

    def forward(self, memory: Tensor, positions: Positions) -> Tensor:
        """Map (B, H, W, D) to (B, H, W, D)."""
        with_row = memory + positions.row
        with_col = memory + positions.col[:, None]
        attended = self.self_attn(with_row.flatten(1, 2), with_col.flatten(1, 2), with_row, with_col, memory)
        out: Tensor = self.ffn(self.norm1(memory + self.dropout(attended.view_as(memory))))
        return out


class DecoderLayer(nn.Module):
    """Self-attention of the queries, RCDA cross-attention to the feature map, a feed-forward block."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, heads, dropout = config.finder_dim, config.finder_heads, config.finder_dropout
        self.self_attn = nn.MultiheadAttention(dim, heads, dropout=dropout, batch_first=True)
        self.norm2 = nn.LayerNorm(dim)
        self.cross_attn = RowColumnAttention(dim, heads, dropout)
        self.norm1 = nn.LayerNorm(dim)
        self.ffn = FeedForward(dim, config.finder_ff_dim, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, target: Tensor, memory: Tensor, positions: Positions) -> Tensor:
        """Update queries (B, A, D) from a feature map (B, H, W, D)."""
        query = target + positions.query
        attended = self.self_attn(query, query, target, need_weights=False)[0]
        target = self.norm2(target + self.dropout(attended))
        attended = self.cross_attn(
            target + positions.query_x,
            target + positions.query_y,
            memory + positions.row,
            memory + positions.col[:, None],
            memory,
        )
        out: Tensor = self.ffn(self.norm1(target + self.dropout(attended)))
        return out


class BoxHead(nn.Module):
    """Three linear layers with ReLU between them; initially it predicts zero offsets and small boxes."""

    def __init__(self, dim: int, offset_scale: float = 1.0) -> None:
        """Args: dim: channels. offset_scale: factor on the two offsets (``ModelConfig.offset_scale``)."""
        super().__init__()
        self.offset_scale = offset_scale
        linears = [nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, 4)]
        self.layers = nn.ModuleList(linears)
        last = linears[-1]
        nn.init.zeros_(last.weight)
        with torch.no_grad():
            last.bias.copy_(torch.tensor([0.0, 0.0, -2.0, -2.0]))

    def forward(self, query: Tensor) -> Tensor:
        """Map (..., D) to (..., 4): logit offsets of the centre from its anchor, and logits of width and height."""
        x = query
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        out: Tensor = self.layers[-1](x)
        if self.offset_scale == 1.0:
            return out
        offset_xy, size_wh = out.split(2, dim=-1)  # type: ignore[no-untyped-call]
        return torch.cat((offset_xy * self.offset_scale, size_wh), dim=-1)


class CellFinder(nn.Module):
    """Anchor DETR head: 1x1 projection, spatial encoder, anchor decoder, and heads that all layers share.

    Each anchor has one pattern (paper, Appendix B: objects of one image have a similar scale).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim = config.finder_dim
        self.grid_size = config.grid_size
        self.position_cycles = config.position_cycles
        self.queries_know_features = config.queries == "features"
        projection = nn.Conv2d(config.encoder_dim, dim, kernel_size=1)
        self.input_proj = nn.Sequential(projection, nn.GroupNorm(config.finder_groups, dim))
        self.adapt_pos1d = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.adapt_pos2d = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.anchor_points = nn.Parameter(torch.rand(config.anchors, 2))
        self.pattern = nn.Parameter(torch.randn(1, dim))
        self.encoder_layers = nn.ModuleList(SpatialEncoderLayer(config) for _ in range(config.finder_encoder_layers))
        self.decoder_layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.finder_decoder_layers))
        self.class_embed = nn.Linear(dim, config.classes)
        self.bbox_embed = BoxHead(dim, config.offset_scale)
        nn.init.xavier_uniform_(projection.weight)
        if projection.bias is not None:
            nn.init.zeros_(projection.bias)
        # For a stable start of the focal loss, every query predicts "object" with probability 0.01 (Lin et al. 2017,
        # 4.1).
        nn.init.constant_(self.class_embed.bias, -math.log(99.0))

    @torch.no_grad()
    def init_local(self) -> None:
        """Place anchors on a grid and centre every attention on the position of its query.

        A DETR spends most of its early training on learning where to look (Gao et al. 2021, SMCA; Meng et al. 2021,
        Conditional DETR). Here the position MLP starts as the identity on the fastest half of the sines. The query and
        key projections of all RCDA layers pick the same sines, so their product is largest where query and key
        coincide. The sharpness of this peak differs between heads.
        """
        count, dim = self.anchor_points.shape[0], self.pattern.shape[-1]
        side = math.ceil(math.sqrt(count))
        centres = grid_centres(side)
        grid = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), -1).reshape(-1, 2)
        self.anchor_points.copy_(grid[:count])
        half = dim // 2
        first, _, last = self.adapt_pos1d
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(first.bias)
        first.weight[:half] = torch.eye(half, dim)
        first.weight[half:] = -torch.eye(half, dim)
        last.weight[:half] = torch.cat((torch.eye(half), -torch.eye(half)), dim=1)  # relu(x) - relu(-x) = x
        last.bias[:half] = 0.0
        for layer in (*self.encoder_layers, *self.decoder_layers):
            attention = layer.self_attn if isinstance(layer, SpatialEncoderLayer) else layer.cross_attn
            assert isinstance(attention, RowColumnAttention)
            attention.init_local()

    def positions(self) -> Positions:
        """Return the position embeddings of the feature map and the anchors; they do not depend on the image."""
        dim = self.pattern.shape[-1]
        centres = grid_centres(self.grid_size, device=self.anchor_points.device) * self.position_cycles
        anchors = self.anchor_points * self.position_cycles
        map_embedding = self.adapt_pos1d(sine_embedding_1d(centres, dim))  # square map: rows equal columns
        x, y = anchors.unbind(-1)
        return Positions(
            row=map_embedding,
            col=map_embedding,
            query=self.adapt_pos2d(sine_embedding_2d(anchors, dim)),
            query_x=self.adapt_pos1d(sine_embedding_1d(x, dim)),
            query_y=self.adapt_pos1d(sine_embedding_1d(y, dim)),
        )

    def forward(self, patch_features: Tensor, *, auxiliary: bool = False) -> CellFinderOutput:
        """Detect cells.

        Args:
            patch_features: (B, encoder_dim, G, G), the ViT's output before its neck.
            auxiliary: if True, also return the heads' outputs after every earlier decoder layer.
        """
        positions = self.positions()
        memory = self.input_proj(patch_features).permute(0, 2, 3, 1)
        for layer in self.encoder_layers:
            memory = layer(memory, positions)
        target = self.first_target(memory)
        outputs = [self._heads(target)] if auxiliary and self.queries_know_features else []
        for layer in self.decoder_layers:
            target = layer(target, memory, positions)
            if auxiliary:
                outputs.append(self._heads(target))
        last = outputs.pop() if auxiliary else self._heads(target)
        return CellFinderOutput(last.boxes_cxcywh_norm, last.logits, tuple(outputs))

    def first_target(self, memory: Tensor) -> Tensor:
        """Return queries (B, A, D) for the first decoder layer, from the feature map (B, H, W, D)."""
        pattern = self.pattern.expand(memory.shape[0], self.anchor_points.shape[0], -1)
        return pattern + memory.flatten(1, 2) if self.queries_know_features else pattern

    def _heads(self, target: Tensor) -> CellFinderOutput:
        offset_xy, size_wh = self.bbox_embed(target).split(2, dim=-1)
        centre_xy = offset_xy + inverse_sigmoid(self.anchor_points)
        boxes = torch.cat((centre_xy, size_wh), dim=-1).sigmoid()
        return CellFinderOutput(boxes, self.class_embed(target))
