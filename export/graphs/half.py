"""Typed half precision: weights and activations in float16, with float32 islands for values that need them.

The types, casts included, are written into the graph, so every backend computes the same. TensorRT 11 supports no other
way, and onnxruntime needs no conversion pass.

Islands, with reasons:

- LayerNorm and GroupNorm: variances of activations beyond 256 overflow float16.
- The box and class heads and the anchors' logits: boxes must be accurate to a fraction of a pixel in 1024, which
  float16 does not resolve near 1.
- The prompt's corner codes: angles span many cycles.
- The mask kernel's product with the pixels, and the IoU head: their outputs are cut at a threshold.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn

from export.errors import ExportError

M = TypeVar("M", bound=nn.Module)

NORMS = (nn.LayerNorm, nn.GroupNorm, LayerNorm2d)


class InFloat32(nn.Module):
    """A module that computes in float32 among half-precision neighbours."""

    def __init__(self, inner: nn.Module, *, back: bool) -> None:
        """Args: inner: the module. back: convert the output to the input's type; False leaves it float32."""
        super().__init__()
        self.inner, self.back = inner, back

    def forward(self, x: Tensor) -> Tensor:
        """Run the module on a float32 copy of the input."""
        out: Tensor = self.inner(x.float())
        return out.to(x.dtype) if self.back else out


def halve(graph: M) -> M:
    """Return a copy of an engine's graph that computes in float16.

    A module lists submodules that stay float32, and return it, in ``float32_parts``, and buffers that stay float32 in
    ``float32_buffers``.

    Raises:
        ExportError: float16 cannot hold the weights.
    """
    copied = copy.deepcopy(graph)
    _halve(copied)
    return copied


def _halve(module: nn.Module) -> None:
    parts, buffers = (getattr(module, name, ()) for name in ("float32_parts", "float32_buffers"))
    for name, child in list(module.named_children()):
        if name in parts:
            setattr(module, name, InFloat32(child, back=False))
        elif isinstance(child, NORMS):
            setattr(module, name, InFloat32(child, back=True))
        else:
            _halve(child)
    for name, parameter in module.named_parameters(recurse=False):
        setattr(module, name, nn.Parameter(_half(parameter), requires_grad=False))
    for name, buffer in module.named_buffers(recurse=False):
        if buffer.is_floating_point() and name not in buffers:
            setattr(module, name, _half(buffer))


def _half(x: Tensor) -> Tensor:
    half = x.detach().half()
    if not torch.isfinite(half).all():
        largest = float(x.detach().abs().max())
        raise ExportError(
            f"weights of up to {largest:.3g} do not fit into float16; expected at most 65504. Export with "
            "precision='fp32'.",
            kind="out_of_range",
            field="precision",
        )
    return half
