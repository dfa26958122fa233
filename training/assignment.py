"""Assignment of queries to cells."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torchvision.ops import box_convert, generalized_box_iou

from training.recipe import DetectionLossConfig


@dataclass(frozen=True, slots=True)
class Match:
    """M pairs of a query and a cell in one image."""

    query: Tensor
    """(M) int64"""
    cell: Tensor
    """(M) int64"""


@torch.no_grad()
def match_cost(boxes: Tensor, logits: Tensor, targets: Tensor, config: DetectionLossConfig) -> Tensor:
    """Compute the cost of every query for every cell of one image.

    Args:
        boxes: (A, 4) cxcywh, fractions.
        logits: (A, classes).
        targets: (T, 4) cxcywh, fractions.

    Returns:
        (A, T): weighted sum of class (focal), L1 and GIoU costs.

    Source: Zhu et al. 2021 (Deformable DETR), matcher of the published code.
    """
    probability = logits[:, config.cell_class].float().sigmoid()
    alpha, gamma = config.focal_alpha, config.focal_gamma
    positive = -alpha * (1 - probability) ** gamma * (probability + 1e-8).log()
    negative = -(1 - alpha) * probability**gamma * (1 - probability + 1e-8).log()
    l1 = torch.cdist(boxes.float(), targets, p=1)
    giou = generalized_box_iou(box_convert(boxes.float(), "cxcywh", "xyxy"), box_convert(targets, "cxcywh", "xyxy"))
    cost: Tensor = config.class_cost * (positive - negative)[:, None] + config.l1_cost * l1 - config.giou_cost * giou
    return cost


def one_to_one(cost: Tensor) -> Match:
    """Return the assignment of least total cost (Hungarian): one query per cell, if there are enough queries."""
    query, cell = linear_sum_assignment(cost.cpu().numpy())
    return Match(torch.as_tensor(query, device=cost.device), torch.as_tensor(cell, device=cost.device))


def one_to_many(cost: Tensor, count: int) -> Match:
    """Return the ``count`` cheapest queries of every cell; a query claimed by several goes to its cheapest cell."""
    queries, cells = cost.shape
    chosen = torch.zeros_like(cost, dtype=torch.bool)
    cheapest = cost.topk(min(count, queries), dim=0, largest=False).indices
    chosen.scatter_(0, cheapest, True)
    best = torch.where(chosen, cost, torch.inf).argmin(dim=1) if cells else cost.new_zeros(queries, dtype=torch.long)
    query = chosen.any(dim=1).nonzero().squeeze(1)
    return Match(query, best[query])
