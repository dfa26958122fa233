"""A small CellSAM whose untrained outputs vary enough for comparisons."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from training.checkpoint import save_checkpoint
from training.model import CellSAM, ModelConfig

SMALL = ModelConfig(
    image_size=160,
    encoder_dim=48,
    encoder_depth=4,
    encoder_heads=4,
    window_size=4,
    global_attention_blocks=(1, 3),
    embedding_dim=64,
    decoder_mlp_dim=96,
    decoder_heads=4,
    iou_head_dim=32,
    finder_dim=64,
    finder_heads=4,
    finder_groups=8,
    finder_ff_dim=96,
    finder_encoder_layers=2,
    finder_decoder_layers=3,
    anchors=150,
)
"""Size: 10 x 10 tokens, windows of 4 that need padding, three decoder layers."""

SEPARATE = replace(SMALL, trunk="separate")
PROMPTED = replace(SMALL, detector=False)


def small_model(config: ModelConfig = SMALL, seed: int = 0) -> CellSAM:
    """Make a model whose weights keep activations from vanishing or exploding, and spread scores over (0, 1)."""
    generator = torch.Generator().manual_seed(seed)
    model = CellSAM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("anchor_points"):
                parameter.uniform_(0.02, 0.98, generator=generator)
            elif "norm" in name and name.endswith("weight"):
                parameter.normal_(1.0, 0.1, generator=generator)
            elif parameter.dim() == 1:
                parameter.normal_(0.0, 0.2, generator=generator)
            else:
                gain = next((value for part, value in _GAINS.items() if part in name), 1.5)
                parameter.normal_(0.0, gain / parameter[0].numel() ** 0.5, generator=generator)
        if model.cellfinder is not None:
            model.cellfinder.class_embed.bias.copy_(torch.tensor([-15.0, 36.0]))
            model.cellfinder.bbox_embed.layers[-1].bias.copy_(torch.tensor([0.0, 0.0, -1.5, -1.5]))
    return model


_GAINS = {
    # Attention that differs between queries, so that boxes and scores differ.
    "in_proj_weight": 6.0,
    "adapt_pos": 6.0,
    "cross_attn.out_proj": 4.0,
    "class_embed": 60.0,
    "bbox_embed.layers.2": 0.3,
    # Masks of both signs.
    "output_hypernetworks": 3.0,
    "output_upscaling": 4.0,
}


CALM = replace(SMALL, classes=1, queries="features", anchors=100, stem=(8, 16, 24), details=True, box_prior=True)


def calm_model(config: ModelConfig = CALM) -> CellSAM:
    """Make a freshly initialised model, whose activations are as large as trained ones and fit into float16."""
    torch.manual_seed(0)
    model = CellSAM(config)
    model.init_local()
    return model.eval()


def save_small(path: Path, config: ModelConfig, seed: int = 0) -> Path:
    save_checkpoint(path, small_model(config, seed), licence="test weights")
    return path
