"""Row-column decoupled attention (RCDA) of Anchor DETR."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class RowColumnAttention(nn.Module):
    """Attention over a feature map, weighted by the outer product of a row softmax and a column softmax.

    For query q, the weight of pixel (h, w) is ``softmax_w(q_row . k_row[w]) * softmax_h(q_col . k_col[h])``, where
    ``k_row`` is the key map averaged over its height and ``k_col`` averaged over its width. The (H, W) weight map is
    never formed.

    Source: Wang et al. 2022 (Anchor DETR, arXiv:2109.07107), section 3.4.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        """Args: dim: channels. heads: attention heads. dropout: dropout on both softmaxes during training."""
        super().__init__()
        self.heads = heads
        # Rows of the stacked projection: q_row, q_col, k_row, k_col, value.
        self.in_proj_weight = nn.Parameter(torch.empty(5 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(5 * dim))
        self.out_proj = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    @torch.no_grad()
    def init_local(self) -> None:
        """Let query and key projections compare the first channels of both, with a different sharpness in each head."""
        dim = self.in_proj_weight.shape[1]
        head_dim = dim // self.heads
        gains = torch.linspace(0.6, 1.4, self.heads)
        pick = torch.cat([gain * torch.eye(head_dim, dim) for gain in gains])
        for block in range(4):  # q_row, q_col, k_row, k_col
            self.in_proj_weight[block * dim : (block + 1) * dim] = pick

    def _split_heads(self, x: Tensor) -> Tensor:
        """Reshape (B, N, D) to (B, heads, N, D / heads)."""
        heads: Tensor = x.unflatten(-1, (self.heads, -1))  # type: ignore[no-untyped-call]
        return heads.transpose(1, 2)

    def forward(self, query_row: Tensor, query_col: Tensor, key_row: Tensor, key_col: Tensor, value: Tensor) -> Tensor:
        """Attend from Q queries to an (H, W) map.

        Args:
            query_row, query_col: (B, Q, D).
            key_row, key_col: (B, H, W, D), key maps with the position embeddings of their axis.
            value: (B, H, W, D).

        Returns:
            (B, Q, D).
        """
        weights = self.in_proj_weight.chunk(5)
        biases = self.in_proj_bias.chunk(5)
        # A linear map commutes with the mean, so the keys are averaged before their projection.
        inputs = (query_row, query_col, key_row.mean(1), key_col.mean(2), value.flatten(1, 2))
        q_row, q_col, k_row, k_col, v = (
            self._split_heads(nn.functional.linear(x, w, b)) for x, w, b in zip(inputs, weights, biases, strict=True)
        )
        scale = q_row.shape[-1] ** -0.5
        row = self.dropout((q_row * scale @ k_row.transpose(-1, -2)).softmax(-1))  # (B, heads, Q, W)
        col = self.dropout((q_col * scale @ k_col.transpose(-1, -2)).softmax(-1))  # (B, heads, Q, H)
        height, width = value.shape[1:3]
        values: Tensor = v.unflatten(2, (height, width))  # type: ignore[no-untyped-call]
        per_column: Tensor = (col @ values.flatten(3)).unflatten(-1, (width, -1))
        out = (row.unsqueeze(-2) @ per_column).squeeze(-2)  # (B, heads, Q, D / heads)
        projected: Tensor = self.out_proj(out.transpose(1, 2).flatten(2))
        return projected
