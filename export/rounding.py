"""PyTorch models computed in float64 without a copy in float64, and in float32 with other roundings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from segment_anything.modeling.image_encoder import Attention
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@contextmanager
def double_precision(model: nn.Module) -> Iterator[None]:
    """Compute everything in float64 inside the context, and the heads of the model's ViT attentions in turn.

    Every global attention of a ViT-B at 1024 pixels forms 12 x 4096 x 4096 weights, 1.6 GB in float64, and adds to them
    twice; of one head that is a twelfth.

    Args:
        model: float32, in eval mode. It is as it was after the context, and its weights stay in float32 inside.
    """
    attentions = [module for module in model.modules() if isinstance(module, Attention)]
    for attention in attentions:
        attention.forward = partial(_sum_of_heads, attention)
    try:
        with _Float64():
            yield
    finally:
        for attention in attentions:
            del attention.forward


class _Float64(TorchFunctionMode):
    """Every PyTorch function called inside computes in float64, whatever the dtype of its arguments.

    Each function gets its float32 arguments converted, weights included: only the weights of one function exist in
    float64 at any time, and a model needs no change, even if it asks for float32 by name, as SAM's prompt encoder does
    for coordinates. A function that writes into a float32 tensor from outside would write into a copy.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call ``func`` with float64 in place of float32, and return float64 in place of float32."""
        result = func(*_mapped(_doubled, tuple(args)), **_mapped(_doubled, dict(kwargs or {})))
        return _mapped(_doubled, result)


def _doubled(value: Any) -> Any:
    """float64 for float32, of a tensor or as an argument."""
    if isinstance(value, Tensor):
        return value.double() if value.dtype == torch.float32 else value
    return torch.float64 if value is torch.float32 else value


class OtherRounding(TorchFunctionMode):
    """Every weight that a PyTorch function called inside gets is off by up to one unit in its last place.

    What comes out is as good a float32 result as that of the weights themselves, with every rounding drawn anew, those
    of constants that the model computes from its weights included.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call ``func`` with other last bits of its weights."""
        return func(*_mapped(self._moved, tuple(args)), **_mapped(self._moved, dict(kwargs or {})))

    def _moved(self, value: Any) -> Any:
        return self.last_bits(value) if isinstance(value, nn.Parameter) else value

    def last_bits(self, values: Tensor) -> Tensor:
        """``values``, float32, each off by up to one unit in the last place."""
        noise = 2 * torch.rand(values.shape, generator=self._generator) - 1
        return values * (1 + torch.finfo(torch.float32).eps * noise)


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """``change`` of a value, or of every item inside tuples, lists and dicts."""
    if type(value) in (tuple, list):
        return type(value)(_mapped(change, item) for item in value)
    if type(value) is dict:
        return {key: _mapped(change, item) for key, item in value.items()}
    return change(value)


def _sum_of_heads(attention: Attention, x: Tensor) -> Tensor:
    """(B, H, W, C) to (B, H, W, C): what the attention gives, as the sum of what each head adds to its output."""
    total: Tensor = attention.proj.bias.expand_as(x)
    for head in range(attention.num_heads):
        total = total + Attention.forward(_one_head(attention, head), x)
    return total


def _one_head(attention: Attention, head: int) -> SimpleNamespace:
    """An attention with one head alone and no bias of its output projection."""
    heads = attention.num_heads
    weight, bias = (x.unflatten(0, (3, heads, -1))[:, head].flatten(0, 1) for x in attention.qkv.parameters())
    columns = attention.proj.weight.unflatten(1, (heads, -1))[:, head]
    return SimpleNamespace(
        num_heads=1,
        scale=attention.scale,
        use_rel_pos=True,
        rel_pos_h=attention.rel_pos_h,
        rel_pos_w=attention.rel_pos_w,
        qkv=partial(nn.functional.linear, weight=weight, bias=bias),
        proj=partial(nn.functional.linear, weight=columns),
    )
