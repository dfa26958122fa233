"""Evaluation of PyTorch models in float64 without a float64 copy, and in float32 with other rounding errors."""

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
    """Compute everything inside the context in float64, and the heads of ViT attentions one after the other.

    Each global attention of a ViT-B at 1024 pixels builds 12 x 4096 x 4096 weights, 1.6 GB in float64, and adds to them
    twice; a single head needs a twelfth of that.

    Args:
        model: a float32 model in eval mode. Its weights stay in float32, and the context leaves it unchanged.
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
    """Mode in which each PyTorch function computes in float64, whatever the dtype of its arguments.

    Each function gets its float32 arguments converted, weights included. So only one function's weights exist in
    float64 at a time. The model needs no change, even if it requests float32 by name, as SAM's prompt encoder does for
    coordinates. A function that writes into a float32 tensor from outside would write into a copy.
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
    """Convert float32 to float64, for a tensor or a dtype argument."""
    if isinstance(value, Tensor):
        return value.double() if value.dtype == torch.float32 else value
    return torch.float64 if value is torch.float32 else value


class OtherRounding(TorchFunctionMode):
    """Mode in which each weight passed to a PyTorch function is changed by up to one unit in the last place.

    The result is as valid a float32 result as that of the original weights, but every rounding error differs,
    including those of constants that the model computes from its weights.
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
        """Call ``func`` with changed last bits of its weights."""
        return func(*_mapped(self._moved, tuple(args)), **_mapped(self._moved, dict(kwargs or {})))

    def _moved(self, value: Any) -> Any:
        return self.last_bits(value) if isinstance(value, nn.Parameter) else value

    def last_bits(self, values: Tensor) -> Tensor:
        """Change float32 values by up to one unit in the last place each."""
        noise = 2 * torch.rand(values.shape, generator=self._generator) - 1
        return values * (1 + torch.finfo(torch.float32).eps * noise)


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """Apply ``change`` to a value, or to each item inside tuples, lists and dicts."""
    if type(value) in (tuple, list):
        return type(value)(_mapped(change, item) for item in value)
    if type(value) is dict:
        return {key: _mapped(change, item) for key, item in value.items()}
    return change(value)


def _sum_of_heads(attention: Attention, x: Tensor) -> Tensor:
    """Map (B, H, W, C) to (B, H, W, C): compute an attention as the sum of its heads' contributions."""
    total: Tensor = attention.proj.bias.expand_as(x)
    for head in range(attention.num_heads):
        total = total + Attention.forward(_one_head(attention, head), x)
    return total


def _one_head(attention: Attention, head: int) -> SimpleNamespace:
    """Return an attention with a single head and without a bias in its output projection."""
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
