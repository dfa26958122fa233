"""CellSAM as a PyTorch module."""

from training.model.cellfinder import CellFinder, CellFinderOutput
from training.model.cellsam import CellSAM, DecoderOutput
from training.model.config import ModelConfig
from training.model.image_encoder import EncoderOutput, ImageEncoder

__all__ = [
    "CellFinder",
    "CellFinderOutput",
    "CellSAM",
    "DecoderOutput",
    "EncoderOutput",
    "ImageEncoder",
    "ModelConfig",
]
