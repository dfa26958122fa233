"""Attention as one onnxruntime operator, which its CUDA provider runs as one kernel without an (N, N) tensor.

The operator is ``com.microsoft.MultiHeadAttention``, not ONNX's ``Attention``. The former has these kernels in every
supported onnxruntime (from 1.23; ``contrib_ops/cuda/bert/multihead_attention.cc``). The latter came to CUDA unfused
(pull request 27030 of onnxruntime, January 2026) and got the kernels with 27542 (March 2026). It needs opset 23, for
which CUDA lacked other operators of these graphs for longer (issues 26065, 26393; pull request 27728). TensorRT parses
``Attention`` only from 10.14 on (onnx/onnx-tensorrt#1043), later than the oldest version that plans are built with, and
never ``MultiHeadAttention``; it gets the plain form.

According to that file, the CUDA provider chooses these kernels for attention without mask and bias:

- Flash attention (``flash_attention/flash_api.cc``): float16, compute capability 8.0 or later, heads of up to 256
  channels, a multiple of 8, and values with as many channels as queries and keys.
- Memory-efficient attention (``cutlass_fmha/memory_efficient_attention.h``): float16, or float32 with at least 256
  tokens; heads of up to 1024 channels, multiples of 8; values may have fewer.
- cuDNN's (``cudnn_fmha/cudnn_flash_attention.cc``), preferred on compute capability 9.0 and later since pull request
  28849 (June 2026): float16, heads of up to 256 channels, multiples of 8; values may have fewer.

None limits tokens or groups. Other sizes use a product with all logits in memory. Heads are therefore widened with zero
channels to a multiple of 8 and, in float16 up to 256, values to the width of queries and keys. The zeros add nothing to
products, and the additional output channels are cut off.

Shape legend: B groups (images or windows), N queries, M keys, H heads, E channels of a query, D of a value.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from export.graphs.heads import split_heads

DOMAIN, OPERATOR = "com.microsoft", "MultiHeadAttention"

ALIGNMENT = 8
"""Number that divides the channels of all kernels; see the module."""

MOST_FLASH = 256
"""Most channels of a head in flash attention."""


def aligned(channels: int) -> int:
    """Return the next multiple of ``ALIGNMENT``."""
    return -(-channels // ALIGNMENT) * ALIGNMENT


def attend(query_BNHE: Tensor, key_BMHE: Tensor, value_BMHD: Tensor) -> Tensor:
    """Attend with scaled queries, as one ONNX operator; return (B, N, H D)."""
    batch, count, heads, channels = query_BNHE.shape
    kept, width = value_BMHD.shape[-1], aligned(channels)
    like_queries = value_BMHD.dtype == torch.float16 and kept <= width <= MOST_FLASH
    value_width = width if like_queries else aligned(kept)
    query, key, value = _widened(query_BNHE, width), _widened(key_BMHE, width), _widened(value_BMHD, value_width)
    attended = multi_head_attention(query.flatten(2), key.flatten(2), value.flatten(2), heads)
    if value_width == kept:
        return attended
    return attended.reshape(batch, count, heads, value_width)[..., :kept].flatten(2)


def attend_plainly(query_BNHE: Tensor, key_BMHE: Tensor, value_BMHD: Tensor) -> Tensor:
    """Compute ``attend`` in plain operators, with values always as wide as queries.

    TensorRT's builder then makes each of the 12 attentions of a ViT-B in float16 one kernel; with narrow values it
    fuses none (TensorRT for RTX 1.7; ``cellsam-engine build --dry-run --report``).
    """
    kept, width = value_BMHD.shape[-1], aligned(query_BNHE.shape[-1])
    query, key, value = (_widened(x, width).transpose(1, 2) for x in (query_BNHE, key_BMHE, value_BMHD))
    attended = (query @ key.transpose(-1, -2)).softmax(-1) @ value
    return attended[..., :kept].transpose(1, 2).flatten(2)


def _widened(x_BNHE: Tensor, channels: int) -> Tensor:
    """Append zeros to the last axis. Not ``F.pad``: see the encoder's ``_padded``."""
    missing = channels - x_BNHE.shape[-1]
    if not missing:
        return x_BNHE
    zero = torch.tensor(0.0, dtype=x_BNHE.dtype)
    return torch.cat((x_BNHE, zero.expand(*x_BNHE.shape[:-1], missing)), -1)


def multi_head_attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Apply the operator with scale 1: (B, N, H E), (B, M, H E) and (B, M, H D) to (B, N, H D)."""
    if torch.onnx.is_in_onnx_export():
        return torch.onnx.ops.symbolic(
            f"{DOMAIN}::{OPERATOR}",
            (query, key, value),
            {"num_heads": heads, "scale": 1.0},
            dtype=value.dtype,
            shape=(*query.shape[:2], value.shape[2]),
            version=1,
        )
    q, k, v = (split_heads(x, heads) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v, scale=1.0).transpose(1, 2).flatten(2)
