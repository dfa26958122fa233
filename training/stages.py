"""Both training stages as Lightning modules (paper, section 2.3 and Appendix B)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchvision.ops import box_convert

from runtime.ops.boxes import LOGITS_PER_TOKEN
from training.batches import Batch
from training.checkpoint import METADATA_KEY, UNKNOWN_USAGE, metadata
from training.losses import Losses, detection_losses, mask_losses
from training.model import CellSAM
from training.recipe import OptimizerConfig, Recipe
from training.usage import Usage

# SAM's parts for points and for several masks per prompt; box prompts do not use them.
_UNUSED = (
    *("point_embeddings.0.", "point_embeddings.1.", "not_a_point_embed."),
    *(f"output_hypernetworks_mlps.{n}." for n in (1, 2, 3)),
)
_FOR_MASKS = ("encoder.neck.", "encoder.details.")
_DECODER = ("prompt_encoder.", "mask_decoder.")
_DETECTOR = "cellfinder."


class Stage(pl.LightningModule):
    """Base of both stages: the optimizer, its schedule, the logs, the checkpoint's metadata."""

    def __init__(
        self,
        recipe: Recipe,
        model: CellSAM,
        optimizer: OptimizerConfig,
        *,
        licence: str,
        usage: Usage = UNKNOWN_USAGE,
    ) -> None:
        """Args: licence, usage: licence and usage of the trained weights, stored in every checkpoint."""
        super().__init__()
        self.recipe, self.model = recipe, model
        self._optimizer, self._licence, self._usage = optimizer, licence, usage
        unused = (*_UNUSED, "no_mask_embed." if model.config.box_prior else "mask_downscaling.")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(self.trains(name) and not any(part in name for part in unused))

    def trains(self, name: str) -> bool:
        """Return whether this stage trains a parameter of the model."""
        raise NotImplementedError

    def batch_losses(self, batch: Batch) -> Losses:
        """Return the weighted losses of a batch, to be summed."""
        raise NotImplementedError

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Log every loss and return their sum."""
        losses = self.batch_losses(batch)
        total = torch.stack(list(losses.values())).sum()
        logged = {f"train/{name}": value.detach() for name, value in losses.items()}
        self.log_dict({**logged, "train/loss": total.detach()}, batch_size=len(batch.boxes), sync_dist=True)
        return total

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Move a batch to the device, as Lightning expects."""
        return batch.to(device)

    def configure_optimizers(self) -> Any:
        """Create AdamW with a separate rate for the ViT, and without decay on biases, norms and embeddings."""
        config = self._optimizer
        groups = [
            {"params": list(params), "lr": rate, "weight_decay": decay}
            for params, rate, decay in self._groups()
            if params
        ]
        optimizer = AdamW(groups)
        schedule = LambdaLR(optimizer, lambda step: learning_rate_factor(step, config))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _groups(self) -> Iterator[tuple[list[nn.Parameter], float, float]]:
        config = self._optimizer
        trained = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        for in_encoder, rate in ((True, config.encoder_learning_rate), (False, config.learning_rate)):
            for decayed in (True, False):
                chosen = [p for name, p in trained if _in_body(name) == in_encoder and _decays(name, p) == decayed]
                yield chosen, rate, config.weight_decay if decayed else 0.0

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        """Clip gradients by norm if the recipe sets one."""
        if self._optimizer.clip_norm is not None:
            self.clip_gradients(optimizer, self._optimizer.clip_norm, "norm")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the checkpoint readable by ``training.checkpoint.load_checkpoint``."""
        checkpoint[METADATA_KEY] = metadata(self.model.config, self._licence, self._usage)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Let training continue after the last step of an earlier run: its only epoch lasts as long as steps remain."""
        loops = checkpoint["loops"]["fit_loop"]
        loops["epoch_loop.batch_progress"]["is_last_batch"] = False
        for progress in loops["epoch_progress"].values():
            progress.update(processed=0, completed=0)

    def over_processes(self, count: int) -> float:
        """Average a count of this process's batch over all processes; at least 1."""
        value = torch.tensor(float(count), device=self.device)
        return max(float(self.trainer.strategy.reduce(value, reduce_op="mean")), 1.0)

    def mask_branch_losses(self, batch: Batch, embedding: Tensor) -> Losses:
        """Return the losses of the mask decoder on ground-truth boxes; the sample's number seeds the draw of cells."""
        config = self.recipe.masks
        drawn = [self._draw(batch, b) for b in range(len(batch.boxes))]
        cells = self.over_processes(sum(len(indices) for indices in drawn))
        side = LOGITS_PER_TOKEN * self.model.config.grid_size * config.upsampling
        size = self.model.config.image_size
        if any(len(indices) for indices in drawn):
            prompts = torch.cat([self._prompts(batch, b, indices) for b, indices in enumerate(drawn)])
            truth = torch.cat([_true_masks(batch.labels[b], indices, side) for b, indices in enumerate(drawn)])
            weight = 1.0
        else:  # every process must contribute to every parameter's gradient
            prompts = torch.tensor([[0.0, 0.0, size, size]], device=self.device)
            truth, weight = torch.zeros(1, side, side, device=self.device), 0.0
            drawn = [torch.zeros(1, dtype=torch.long, device=self.device)]
        image_index = torch.cat([torch.full_like(indices, b) for b, indices in enumerate(drawn)])
        output = self.model.decode(embedding, prompts, image_index)
        windows = None if config.window_margin_px is None else _windows(prompts, config.window_margin_px, side, size)
        losses = mask_losses(output, truth, cells, config, windows)
        return {name: weight * value for name, value in losses.items()}

    def _draw(self, batch: Batch, b: int) -> Tensor:
        count, max_cells = len(batch.boxes[b]), self.recipe.masks.cells_per_image
        rng = np.random.default_rng((self.recipe.seed, batch.numbers[b], 1))
        return torch.as_tensor(np.sort(rng.permutation(count)[:max_cells]), device=self.device)

    def _prompts(self, batch: Batch, b: int, indices: Tensor) -> Tensor:
        """Return boxes in model pixels, with SAM's noise: 10 % of the side, at most 20 of 1024 pixels."""
        size = self.model.config.image_size
        boxes = box_convert(batch.boxes[b][indices], "cxcywh", "xyxy") * size
        rng = np.random.default_rng((self.recipe.seed, batch.numbers[b], 2))
        noise = torch.as_tensor(rng.normal(size=tuple(boxes.shape)), dtype=boxes.dtype, device=boxes.device)
        sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        max_shift = 20 * size / 1024
        shift: Tensor = (noise * self.recipe.masks.box_jitter * sides).clamp(-max_shift, max_shift)
        noisy: Tensor = boxes + shift
        return noisy


class DetectorStage(Stage):
    """Stage 1: train CellFinder and the ViT on boxes, and the mask decoder if the recipe asks for it."""

    def trains(self, name: str) -> bool:
        """Implement ``Stage``."""
        parts = self.recipe.parts_in_stage1
        if name.startswith((*_FOR_MASKS, *_DECODER)):
            return self.recipe.mask_weight_in_stage1 > 0 and parts != "detector"
        return parts == "all" or (parts == "detector" and name.startswith(_DETECTOR))

    def batch_losses(self, batch: Batch) -> Losses:
        """Implement ``Stage``."""
        parts = self.recipe.parts_in_stage1
        weight = 0.0 if parts == "detector" else self.recipe.mask_weight_in_stage1
        encoder, pixels = self.model.encoder, batch.pixel_values
        if parts == "masks":
            return self._weighted_mask_losses(batch, encoder.embedding(encoder.body(pixels)))
        body = encoder.body(pixels) if self.model.detector_encoder is None else None  # one trunk serves both branches
        features = self.model.detector_features(pixels) if body is None else body.patch_features
        output = self.model.detect(features, auxiliary=True)
        cells = self.over_processes(sum(len(boxes) for boxes in batch.boxes))
        losses = detection_losses(output, batch.boxes, cells, self.recipe.detection)
        if weight:
            embedding = encoder.embedding(encoder.body(pixels) if body is None else body)
            losses |= self._weighted_mask_losses(batch, embedding)
        return losses

    def _weighted_mask_losses(self, batch: Batch, embedding: Tensor) -> Losses:
        masks = self.mask_branch_losses(batch, embedding)
        return {name: self.recipe.mask_weight_in_stage1 * value for name, value in masks.items()}


class MaskStage(Stage):
    """Stage 2: freeze the ViT and CellFinder, and train the neck to feed SAM's decoder again.

    The paper trains the neck alone. Details, if the model has them, belong to the neck. A model that does not start
    from SAM also trains the decoder.
    """

    def trains(self, name: str) -> bool:
        """Implement ``Stage``."""
        if name.startswith(_FOR_MASKS):
            return True
        return self.recipe.train_decoder_in_stage2 and name.startswith(_DECODER)

    def batch_losses(self, batch: Batch) -> Losses:
        """Implement ``Stage``."""
        with torch.no_grad():
            body = self.model.encoder.body(batch.pixel_values)
        return self.mask_branch_losses(batch, self.model.encoder.embedding(body))


def learning_rate_factor(step: int, config: OptimizerConfig) -> float:
    """Return the factor on the base rate at a step: linear warm-up, then a step drop or a cosine to a hundredth."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "step":
        return config.drop_factor if step >= config.drop_at * config.steps else 1.0
    progress = min((step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1), 1.0)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2


def _in_body(name: str) -> bool:
    """Return whether a parameter belongs to a ViT body; the neck is trained like a head."""
    return name.startswith(("encoder.", "detector_encoder.")) and not name.startswith(_FOR_MASKS)


def _decays(name: str, parameter: nn.Parameter) -> bool:
    embedding = any(
        part in name for part in ("pos_embed", "rel_pos", "anchor_points", "pattern", "token", "embeddings")
    )
    return parameter.dim() > 1 and not embedding


def _windows(boxes_xyxy: Tensor, margin: float, side: int, size: int) -> Tensor:
    """Return (K, side, side) bool: the pixels within ``margin`` pixels of each of the (K, 4) boxes in model pixels."""
    centres = (torch.arange(side, device=boxes_xyxy.device) + 0.5) * (size / side)
    low, high = boxes_xyxy[:, :2] - margin, boxes_xyxy[:, 2:] + margin
    x, y = ((centres > low[:, axis, None]) & (centres < high[:, axis, None]) for axis in (0, 1))
    return y[:, :, None] & x[:, None]


def _true_masks(labels: Tensor, indices: Tensor, side: int) -> Tensor:
    """Return (K, side, side) masks of the chosen cells from (S, S) labels: 1 if a cell covers over half a pixel."""
    masks = (labels[None] == (indices + 1)[:, None, None]).float()
    return (nn.functional.adaptive_avg_pool2d(masks, side) > 0.5).float()
