"""The engines of a model: their names, files, inputs, outputs and dynamic dimensions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from export.graphs import CellFinderGraph, EncoderGraph, Form, MaskDecoderGraph
from export.graphs.half import halve
from runtime.engines.manifest import Attention, EngineName, Precision, Target
from training.model import CellSAM


@dataclass(frozen=True, kw_only=True)
class EngineGraph:
    """One engine to write."""

    name: EngineName
    graph: nn.Module
    inputs: dict[str, Tensor]
    """Example inputs. Dynamic dimensions have distinct sizes above 1, so that none looks like a constant."""
    outputs: tuple[str, ...]
    dynamic: dict[str, dict[int, str]]
    """Names of the dynamic dimensions, by input and axis."""
    attention: Attention = "plain"
    """Operators of the large attentions."""

    @property
    def file(self) -> str:
        """File name in the engine directory."""
        return f"{self.name}.onnx"


HANDED_ON = ("patch_features", "image_embedding")
"""Tensors passed from engine to engine, in half precision if the engines compute in half precision."""


def engine_graphs(
    model: CellSAM, precision: Precision = "fp32", attention: Attention = "plain", target: Target = "any"
) -> list[EngineGraph]:
    """Build the engines of a model: two for plain SAM weights, three for CellSAM, four if its trunks are separate.

    Pixels enter in float32, and boxes, logits, mask logits and IoU estimates leave in float32, at any precision. The
    mask decoder's attentions have few queries and always use plain operators. For ``int8`` the graphs are in float32;
    their files are quantised afterwards (``export.quantised``).
    """
    engines = _graphs(model, attention, target)
    return [_halved(engine) for engine in engines] if precision == "fp16" else engines


def _halved(engine: EngineGraph) -> EngineGraph:
    inputs = {name: tensor.half() if name in HANDED_ON else tensor for name, tensor in engine.inputs.items()}
    return replace(engine, graph=halve(engine.graph), inputs=inputs)


def _graphs(model: CellSAM, attention: Attention, target: Target) -> list[EngineGraph]:
    config = model.config
    form: Form = "fused" if attention == "fused" else "wide" if target == "gpu" else "folded"
    shared = config.detector and config.trunk == "shared"
    pixel_values = torch.zeros(2, 3, config.image_size, config.image_size)
    encoder_outputs = ("patch_features", "image_embedding") if shared else ("image_embedding",)
    engines = [
        EngineGraph(
            name="encoder",
            graph=EncoderGraph(model.encoder, features=shared, embedding=True, form=form),
            inputs={"pixel_values": pixel_values},
            outputs=encoder_outputs,
            dynamic={"pixel_values": {0: "batch"}},
            attention=attention,
        )
    ]
    if model.detector_encoder is not None:
        engines.append(
            EngineGraph(
                name="detector_encoder",
                graph=EncoderGraph(model.detector_encoder, features=True, embedding=False, form=form),
                inputs={"pixel_values": pixel_values},
                outputs=("patch_features",),
                dynamic={"pixel_values": {0: "batch"}},
                attention=attention,
            )
        )
    if model.cellfinder is not None:
        features = torch.zeros(2, config.encoder_dim, config.grid_size, config.grid_size)
        engines.append(
            EngineGraph(
                name="cellfinder",
                graph=CellFinderGraph(model.cellfinder, target, fused=attention == "fused"),
                inputs={"patch_features": features},
                outputs=("boxes_cxcywh_norm", "logits"),
                dynamic={"patch_features": {0: "batch"}},
                attention=attention,
            )
        )
    return [*engines, _mask_decoder(model, target)]


def _mask_decoder(model: CellSAM, target: Target) -> EngineGraph:
    config = model.config
    batch, boxes, rows, cols = 2, 3, 4, 5
    corners = torch.tensor([[0.1, 0.1, 0.4, 0.3], [0.2, 0.5, 0.6, 0.9], [0.5, 0.2, 0.9, 0.6]])
    return EngineGraph(
        name="mask_decoder",
        graph=MaskDecoderGraph(model, target),
        inputs={
            "image_embedding": torch.zeros(batch, config.embedding_channels, config.grid_size, config.grid_size),
            "image_index": torch.tensor([0, 1, 1]),
            "boxes_xyxy_model": corners * config.image_size,
            "window_rows": torch.arange(rows).repeat(boxes, 1),
            "window_cols": torch.arange(cols).repeat(boxes, 1),
        },
        outputs=("mask_logits", "iou_predictions"),
        dynamic={
            "image_embedding": {0: "batch"},
            "image_index": {0: "boxes"},
            "boxes_xyxy_model": {0: "boxes"},
            "window_rows": {0: "boxes", 1: "window_height"},
            "window_cols": {0: "boxes", 1: "window_width"},
        },
    )
