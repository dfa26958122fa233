"""Losses of both stages: sums over a batch, divided by a count that all processes share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate
from torchvision.ops import box_convert, generalized_box_iou_loss, sigmoid_focal_loss

from training.assignment import Match, match_cost, one_to_many, one_to_one
from training.model import CellFinderOutput, DecoderOutput
from training.recipe import DetectionLossConfig, MaskLossConfig

Losses = dict[str, Tensor]

_OUTSIDE_SHARE = 0.01
"""Weight of the focal loss of the whole map, relative to that of the window."""


def detection_losses(
    output: CellFinderOutput, targets: list[Tensor], cells: float, config: DetectionLossConfig
) -> Losses:
    """Compute focal, L1 and GIoU losses of the last decoder layer and, as ``..._aux``, of the earlier ones.

    Args:
        output: boxes and logits of B images.
        targets: boxes of the cells of each image, (T, 4) cxcywh, fractions.
        cells: number of cells in the batch, averaged over the processes; at least 1.

    Returns:
        Weighted losses, to be summed.

    Source: Carion et al. 2020 (DETR) for the set loss; Lin et al. 2017 for the focal loss.
    """
    losses = _layer_losses(output, targets, cells, config, matches=1)
    for layer in output.auxiliary:
        matched = config.auxiliary_matches
        for name, value in _layer_losses(layer, targets, cells * matched, config, matches=matched).items():
            losses[f"{name}_aux"] = losses.get(f"{name}_aux", value.new_zeros(())) + value
    return losses


def _layer_losses(
    output: CellFinderOutput, targets: list[Tensor], cells: float, config: DetectionLossConfig, *, matches: int
) -> Losses:
    boxes, logits = output.boxes_cxcywh_norm.float(), output.logits.float()
    found = []
    for b, target in enumerate(targets):
        cost = match_cost(boxes[b], logits[b], target, config)
        found.append(one_to_one(cost) if matches == 1 else one_to_many(cost, matches))
    predicted, true = _pairs(boxes, targets, found)
    l1 = (predicted - true).abs().sum()
    corners, true_corners = box_convert(predicted, "cxcywh", "xyxy"), box_convert(true, "cxcywh", "xyxy")
    giou = generalized_box_iou_loss(corners, true_corners, reduction="sum")
    wanted = torch.zeros_like(logits)
    batch = torch.cat([torch.full_like(match.query, b) for b, match in enumerate(found)])
    fit = _paired_iou(corners.detach(), true_corners) if config.score_is_iou else 1.0
    wanted[batch, torch.cat([match.query for match in found]), config.cell_class] = fit
    focal = _soft_focal_loss(logits, wanted, config)
    return {
        "class": config.class_weight * focal / cells,
        "l1": config.l1_weight * l1 / cells,
        "giou": config.giou_weight * giou / cells,
    }


def _soft_focal_loss(logits: Tensor, wanted: Tensor, config: DetectionLossConfig) -> Tensor:
    """Sum the focal loss for targets in [0, 1]; for 0 and 1 it equals that of Lin et al. 2017.

    Source: Li et al. 2020 (Generalized Focal Loss), equation 5, with the class weights of the focal loss.
    """
    cross_entropy = binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    distance = (wanted - logits.sigmoid()).abs() ** config.focal_gamma
    weight = torch.where(wanted > 0, config.focal_alpha, 1 - config.focal_alpha)
    return (weight * distance * cross_entropy).sum()


def _paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the IoU of pairs of boxes, (M, 4) xyxy each."""
    overlap = (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
    area_a, area_b = ((box[:, 2:] - box[:, :2]).clamp(min=0).prod(1) for box in (a, b))
    return overlap / (area_a + area_b - overlap).clamp(min=1e-9)


def _pairs(boxes: Tensor, targets: list[Tensor], found: list[Match]) -> tuple[Tensor, Tensor]:
    """Return matched boxes and their targets, (M, 4) each."""
    predicted = torch.cat([boxes[b, match.query] for b, match in enumerate(found)])
    true = torch.cat([target[match.cell] for target, match in zip(targets, found, strict=True)])
    return predicted, true


def mask_losses(
    output: DecoderOutput, masks: Tensor, cells: float, config: MaskLossConfig, windows: Tensor | None = None
) -> Losses:
    """Compute focal and dice losses of the masks, and the squared error of the IoU estimates.

    Args:
        output: K masks.
        masks: (K, h, w) ground truth in {0, 1}; the logits are resized to this size, as at inference.
        cells: number of masks in the batch, averaged over the processes; at least 1.
        windows: (K, h, w) in {0, 1}, 1 where the losses apply (``MaskLossConfig.window_margin_px``); None: everywhere.

    Source: Kirillov et al. 2023 (SAM), appendix A, training algorithm.
    """
    maps = output.low_res_masks.float()
    if maps.shape[2:] != masks.shape[1:]:
        maps = interpolate(maps, masks.shape[1:], mode="bilinear", align_corners=False)
    logits, truth = maps.flatten(1), masks.float().flatten(1)
    everywhere = sigmoid_focal_loss(logits, truth, reduction="none")
    focal = everywhere.mean(1)
    probability, inside, wanted = logits.sigmoid(), logits > 0, truth > 0.5
    if windows is not None:
        seen = windows.float().flatten(1)
        focal = _OUTSIDE_SHARE * focal + (everywhere * seen).sum(1) / seen.sum(1).clamp(min=1)
        probability, truth = probability * seen, truth * seen
        inside, wanted = inside & (seen > 0), wanted & (seen > 0)
    overlap = (probability * truth).sum(1)
    dice = 1 - (2 * overlap + 1) / (probability.sum(1) + truth.sum(1) + 1)
    iou = (inside & wanted).sum(1) / (inside | wanted).sum(1).clamp(min=1)
    estimate = (output.iou_predictions[:, 0].float() - iou).square().sum()
    return {
        "mask_focal": config.focal_weight * focal.sum() / cells,
        "mask_dice": config.dice_weight * dice.sum() / cells,
        "mask_iou": config.iou_weight * estimate / cells,
    }
