"""Typed half precision: weights and activations in float16, with islands of float32 where the numbers need them.

The types are written into the graph (casts and all), so that every backend computes the same: TensorRT 11 has no
other way, and onnxruntime needs no conversion pass.

Islands, and why:

- LayerNorm and GroupNorm: variances of activations beyond 256 overflow float16.
- The box and class heads and the anchors' logits: boxes are wanted to a fraction of a pixel of 1024, which float16 does
  not resolve near 1.
- The prompt's corner codes: angles of many cycles.
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
        """Args: inner: the module. back: return to the input's type; False leaves float32."""
        super().__init__()
        self.inner, self.back = inner, back

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x.float())
        return out.to(x.dtype) if self.back else out


def halve(graph: M) -> M:
    """A copy of an engine's graph that computes in float16.

    A module says by ``float32_parts`` which of its modules stay float32 and return it, and by ``float32_buffers`` which
    of its buffers do.

    Raises:
        ExportError: weights that float16 cannot hold.
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
            f"weights up to {largest:.3g} do not fit into float16; export with precision='fp32'.",
            kind="out_of_range",
            field="precision",
        )
    return half
