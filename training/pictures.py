"""Pictures of the model's predictions on a few fixed tiles during training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torchvision.ops import box_convert

from runtime.ops.model_input import paper_input
from training.batches import plain
from training.data.format import TileSet
from training.recipe import Recipe

TRUE_COLOUR, FOUND_COLOUR = (80, 200, 255), (255, 200, 0)


class PredictionPictures(pl.Callback):
    """Write ``stepN.png``: a row of tiles with true boxes (blue) and predicted boxes (yellow)."""

    def __init__(self, tiles: TileSet, recipe: Recipe, out: Path, *, every: int, count: int = 4) -> None:
        """Args: every: steps between pictures. count: tiles per picture, spread over the set."""
        self._recipe, self._out, self._every = recipe, out, every
        chosen = np.linspace(0, len(tiles) - 1, min(count, len(tiles))).astype(int)
        self._samples = [plain(tiles[int(index)], recipe.model.image_size) for index in chosen]

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        """Write a picture after every so many steps."""
        if trainer.is_global_zero and trainer.global_step % self._every == 0:
            self._out.mkdir(parents=True, exist_ok=True)
            self.draw(pl_module).save(self._out / f"step{trainer.global_step:07d}.png")

    @torch.no_grad()
    def draw(self, stage: Any) -> Image.Image:
        """Draw all tiles in one picture."""
        size = self._recipe.model.image_size
        panels = []
        for image, labels in self._samples:
            pixels = torch.from_numpy(paper_input(image, size)[None]).to(stage.device)
            with torch.autocast(pixels.device.type, torch.bfloat16, enabled="bf16" in self._recipe.precision):
                found = stage.model.detect(stage.model.detector_features(pixels))
            scores = found.logits[0, :, self._recipe.detection.cell_class].float().sigmoid()
            boxes = box_convert(found.boxes_cxcywh_norm[0].float(), "cxcywh", "xyxy")[scores > 0.4] * size
            panels.append(_panel(image, labels, boxes.cpu().numpy()))
        row = Image.new("RGB", (size * len(panels), size))
        for index, panel in enumerate(panels):
            row.paste(panel, (index * size, 0))
        return row


def _panel(image: NDArray[Any], labels: NDArray[Any], boxes: NDArray[Any]) -> Image.Image:
    from training.batches import boxes_of

    grey = np.clip(image.max(-1) * 255, 0, 255).astype(np.uint8)
    panel = Image.fromarray(grey).convert("RGB")
    draw = ImageDraw.Draw(panel)
    true, _ = boxes_of(labels)
    corners = box_convert(torch.from_numpy(true), "cxcywh", "xyxy").numpy() * len(labels)
    for group, colour in ((corners, TRUE_COLOUR), (boxes, FOUND_COLOUR)):
        for x0, y0, x1, y1 in group:
            draw.rectangle((float(x0), float(y0), float(max(x0, x1)), float(max(y0, y1))), outline=colour)
    return panel
