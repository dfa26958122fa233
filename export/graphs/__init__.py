"""The three engines as PyTorch modules for inference: constants are folded, and shared work is done once.

Each module computes the same as its counterpart in ``training.model``, with less work. The reductions are exact
algebra; verification compares the exported graph with the unreduced model.
"""

from export.graphs.cellfinder import CellFinderGraph
from export.graphs.encoder import EncoderGraph, Form
from export.graphs.mask_decoder import MaskDecoderGraph

__all__ = ["CellFinderGraph", "EncoderGraph", "Form", "MaskDecoderGraph"]
