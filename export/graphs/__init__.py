"""The three engines as PyTorch modules in inference form: constants folded, shared work done once.

Each module computes what its counterpart in ``training.model`` computes, with less work. The reductions are exact
algebra; verification compares the exported graph with the unreduced model.
"""

from export.graphs.cellfinder import CellFinderGraph
from export.graphs.encoder import EncoderGraph, Form
from export.graphs.mask_decoder import MaskDecoderGraph

__all__ = ["CellFinderGraph", "EncoderGraph", "Form", "MaskDecoderGraph"]
