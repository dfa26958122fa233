"""Windows of image tokens around boxes, for a mask decoder that sees only these (``ModelConfig.windowed_decoder``)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from runtime.ops.boxes import LOGITS_PER_TOKEN, token_windows

OUTSIDE_LOGIT = -20.0
"""Mask logit of pixels outside a box's window."""


class Windows(NamedTuple):
    """Token positions of K windows of equal size."""

    members: Tensor
    """(K,) int64, indices of the boxes."""
    rows: Tensor
    """(K, R) int64 token rows, in 0..G-1."""
    columns: Tensor
    """(K, S) int64 token columns."""

    def of(self, tokens: Tensor, owners: Tensor) -> Tensor:
        """Cut the windows out of token maps.

        Args:
            tokens: (B, C, G, G).
            owners: (K,) int64, index of the map of each window.

        Returns:
            (K, C, R, S).
        """
        cut = tokens.movedim(1, -1)[owners[:, None, None], self.rows[:, :, None], self.columns[:, None, :]]
        return cut.movedim(-1, 1)

    def paste(self, masks: Tensor, canvas: Tensor) -> None:
        """Write the logits of the windows, (K, 4R, 4S), into those of all A boxes, (A, 4G, 4G), in place."""
        rows, columns = (_fine(tokens) for tokens in (self.rows, self.columns))
        canvas[self.members[:, None, None], rows[:, :, None], columns[:, None, :]] = masks


def _fine(tokens: Tensor) -> Tensor:
    """Return the (K, 4R) positions of the logits of (K, R) tokens."""
    inner = torch.arange(LOGITS_PER_TOKEN, device=tokens.device)
    return (LOGITS_PER_TOKEN * tokens[:, :, None] + inner).flatten(1)


def windows_of(boxes_xyxy_model: Tensor, image_size: int, grid_size: int) -> list[Windows]:
    """Return the windows in which the runtime decodes boxes, grouped by side.

    Args:
        boxes_xyxy_model: (K, 4), model pixels.
        image_size: side of the model input, pixels.
        grid_size: tokens per side.
    """
    origins, sides = token_windows(boxes_xyxy_model.detach().float().cpu().numpy(), image_size, grid_size, full=False)
    first, side_of_box = (torch.from_numpy(array).to(boxes_xyxy_model.device) for array in (origins, sides))
    found = []
    for side in sorted(set(sides.tolist())):
        members = (side_of_box == side).nonzero()[:, 0]
        tokens = torch.arange(side, device=first.device)
        found.append(Windows(members, first[members, :1] + tokens, first[members, 1:] + tokens))
    return found
