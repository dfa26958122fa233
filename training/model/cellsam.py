"""CellSAM: SAM's ViT, CellFinder on its features, SAM's mask decoder prompted with the boxes (paper, Fig. 1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor, nn

from runtime.ops.boxes import LOGITS_PER_TOKEN
from training.model.cellfinder import CellFinder, CellFinderOutput
from training.model.config import ModelConfig
from training.model.details import unpack_details
from training.model.image_encoder import EncoderOutput, ImageEncoder
from training.model.windowed import OUTSIDE_LOGIT, Windows, windows_of

PROMPT_CYCLES = 10.0
"""Largest factor on the frequencies of the prompts' position encoding, for models that do not start from SAM."""


class DecoderOutput(NamedTuple):
    """One mask per box prompt."""

    low_res_masks: Tensor
    """(K, 1, 4G, 4G) mask logits; 256 x 256 for the ViT-B."""
    iou_predictions: Tensor
    """(K, 1): the decoder's own estimate of the IoU of its mask, not clamped."""


class CellSAM(nn.Module):
    """The whole model, in three steps: ``encode``, ``detect``, ``decode``."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = ImageEncoder(config)
        self.detector_encoder = ImageEncoder(config, neck=False) if config.trunk == "separate" else None
        self.cellfinder = CellFinder(config) if config.detector else None
        self.prompt_encoder = PromptEncoder(
            embed_dim=config.embedding_dim,
            image_embedding_size=(config.grid_size, config.grid_size),
            input_image_size=(config.image_size, config.image_size),
            mask_in_chans=16,
        )
        self.mask_decoder = MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(
                depth=config.decoder_depth,
                embedding_dim=config.embedding_dim,
                mlp_dim=config.decoder_mlp_dim,
                num_heads=config.decoder_heads,
            ),
            transformer_dim=config.embedding_dim,
            iou_head_depth=config.iou_head_depth,
            iou_head_hidden_dim=config.iou_head_dim,
        )

    @torch.no_grad()
    def init_local(self) -> None:
        """Initialise attention near each anchor (``CellFinder.init_local``) and prompts that separate nearby boxes.

        SAM draws the frequencies of its position encoding with a standard deviation of one cycle per image, so the
        corners of a cell look alike. Here the frequencies are spread up to ``PROMPT_CYCLES`` times that. They are a
        buffer of the checkpoint, so nothing else changes.
        """
        frequencies = self.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix  # (2, embedding_dim / 2)
        frequencies *= torch.logspace(0, math.log10(PROMPT_CYCLES), frequencies.shape[1])
        if self.cellfinder is not None:
            self.cellfinder.init_local()

    def encode(self, pixel_values: Tensor) -> EncoderOutput:
        """Return the features and the embedding of the mask branch's trunk for (B, 3, S, S) model input."""
        out: EncoderOutput = self.encoder(pixel_values)
        return out

    def detector_features(self, pixel_values: Tensor) -> Tensor:
        """Return the features that CellFinder reads, (B, encoder_dim, G, G), for (B, 3, S, S) model input."""
        return (self.detector_encoder or self.encoder).patch_features(pixel_values)

    def detect(self, patch_features: Tensor, *, auxiliary: bool = False) -> CellFinderOutput:
        """Return boxes and logits of every anchor from features before the neck, (B, encoder_dim, G, G).

        Raises:
            ValueError: the model has no detector.
        """
        if self.cellfinder is None:
            raise ValueError("these weights have no CellFinder; pass boxes as prompts instead.")
        out: CellFinderOutput = self.cellfinder(patch_features, auxiliary=auxiliary)
        return out

    def decode(
        self,
        image_embedding: Tensor,
        boxes_xyxy_model: Tensor,
        image_index: Tensor | None = None,
        *,
        windows: Sequence[Windows] | None = None,
    ) -> DecoderOutput:
        """Decode one mask per box.

        Args:
            image_embedding: (B, embedding_channels, G, G).
            boxes_xyxy_model: (K, 4) box prompts in model pixels, 0..image_size.
            image_index: (K) int64, the image of each box; None if there is one image.
            windows: the tokens that the decoder sees for each box, for models with ``windowed_decoder``; by default
                those that the runtime uses. Mask logits outside them are ``OUTSIDE_LOGIT``.

        Source: Kirillov et al. 2023 (arXiv:2304.02643), one mask per box prompt (``multimask_output=False``). The
        original also computes the other masks and drops them; they are left out here.
        """
        config, count = self.config, len(boxes_xyxy_model)
        if image_index is None:
            image_index = torch.zeros(count, dtype=torch.long, device=boxes_xyxy_model.device)
        prior = self._prior(boxes_xyxy_model) if config.box_prior else None
        sparse, dense = self.prompt_encoder(points=None, boxes=boxes_xyxy_model[:, None], masks=prior)
        positions = self.prompt_encoder.get_dense_pe()
        width = config.embedding_dim
        if not config.windowed_decoder:
            embedding = image_embedding[image_index]
            source = embedding[:, :width] + dense
            return DecoderOutput(
                *self._masks(source, embedding[:, width:], positions.expand(count, -1, -1, -1), sparse)
            )
        if windows is None:
            windows = windows_of(boxes_xyxy_model, config.image_size, config.grid_size)
        side = LOGITS_PER_TOKEN * config.grid_size
        logits = sparse.new_full((count, side, side), OUTSIDE_LOGIT)
        estimates = sparse.new_zeros(count, 1)
        for group in windows:
            members = group.members
            embedding = group.of(image_embedding, image_index[members])
            source = embedding[:, :width] + group.of(dense, members)
            masks, estimates[members] = self._masks(
                source, embedding[:, width:], group.of(positions, torch.zeros_like(members)), sparse[members]
            )
            group.paste(masks[:, 0], logits)
        return DecoderOutput(logits[:, None], estimates)

    def _masks(self, source: Tensor, details: Tensor, positions: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Return masks and IoU estimates of K boxes from the tokens that the decoder sees for each.

        Args:
            source: (K, C, h, w), sum of image tokens and dense prompt.
            details: (K, 3C, h, w); (K, 0, h, w) if the model has no details.
            positions: (K, C, h, w).
            prompts: (K, 2, C), corners of the boxes.

        Returns:
            (K, 1, 4h, 4w) and (K, 1).
        """
        decoder = self.mask_decoder
        queries = torch.cat((decoder.iou_token.weight, decoder.mask_tokens.weight)).expand(len(prompts), -1, -1)
        tokens, image = decoder.transformer(source, positions, torch.cat((queries, prompts), dim=1))
        upscaled = self._upscaled(image.transpose(1, 2).reshape(source.shape), details)
        kernel = decoder.output_hypernetworks_mlps[0](tokens[:, 1])  # (K, C / 8): the first mask token
        masks = (kernel[:, None] @ upscaled.flatten(2)).unflatten(2, upscaled.shape[2:])
        return masks, decoder.iou_prediction_head(tokens[:, 0])[:, :1]

    def _upscaled(self, image: Tensor, details: Tensor) -> Tensor:
        """Upscale (K, C, h, w) to (K, C / 8, 4h, 4w), and add the details (K, 3C, h, w) at strides 8 and 4."""
        upscaling = self.mask_decoder.output_upscaling
        if not self.config.details:
            plain: Tensor = upscaling(image)
            return plain
        coarse, fine = unpack_details(details)
        first, norm, activation, second, last = upscaling
        detailed: Tensor = last(second(activation(norm(first(image) + coarse))) + fine)
        return detailed

    def _prior(self, boxes_xyxy_model: Tensor) -> Tensor:
        return ellipse_prior(boxes_xyxy_model, LOGITS_PER_TOKEN * self.config.grid_size, self.config.image_size)


def ellipse_prior(boxes_xyxy: Tensor, side: int, image_size: int) -> Tensor:
    """Draw the inscribed ellipse of each box as a mask prompt.

    Args:
        boxes_xyxy: (K, 4), model pixels.
        side: side of the result, pixels.
        image_size: side of the model input, pixels.

    Returns:
        (K, 1, side, side) float: 1 at the centre of the box, 0 on the ellipse, down to -3 outside.
    """
    centres = (torch.arange(side, device=boxes_xyxy.device) + 0.5) * (image_size / side)
    return window_prior(boxes_xyxy, centres[None], centres[None])


def window_prior(boxes_xyxy: Tensor, along_x: Tensor, along_y: Tensor) -> Tensor:
    """Evaluate ``ellipse_prior`` at separate positions for each box.

    Args:
        boxes_xyxy: (K, 4), model pixels.
        along_x: (K, w), model pixels.
        along_y: (K, h), model pixels.

    Returns:
        (K, 1, h, w).
    """
    low, high = boxes_xyxy[:, None, :2], boxes_xyxy[:, None, 2:]
    half, middle = ((high - low) / 2).clamp(min=1.0), (low + high) / 2
    x, y = (((places - middle[..., axis]) / half[..., axis]).square() for axis, places in enumerate((along_x, along_y)))
    return (1 - x[:, None, None, :] - y[:, None, :, None]).clamp(min=-3.0)
