"""Attention for training on a CPU in bfloat16, where torch's own is slow.

With dropout, `scaled_dot_product_attention` computes in float32, and without, its backward pass is
slower than the products that it consists of. Here, forward and backward pass are these products, in
bfloat16 with float32 sums. The attention weights are only stored if dropout has changed them, and
are otherwise computed again in the backward pass, so that memory does not grow with the square of
the length for all layers at once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


def attention(
    query: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    mask: Tensor | None,
    dropout: float,
    is_causal: bool,
    scale: float,
) -> Tensor:
    """Return the scaled dot-product attention.

    Parameters
    ----------
    query : Tensor of shape (n, heads, r, d)
    k, v : Tensor of shape (n, heads, t, d)
    mask : Tensor that broadcasts to (n, heads, r, t), bool or float, or None
        Which keys a query attends to, or what is added to the scores.
    dropout : float
        Of the attention weights.
    is_causal : bool
        Whether each query attends to the keys up to its own; then there is no `mask`.
    scale : float
        Factor of the scores.

    Returns
    -------
    Tensor of shape (n, heads, r, d)
    """
    if not _trains_in_bfloat16_on_cpu(query):
        return functional.scaled_dot_product_attention(
            query, k, v, attn_mask=mask, dropout_p=dropout, is_causal=is_causal, scale=scale
        )
    if is_causal:
        mask = torch.ones(query.shape[2], k.shape[2], dtype=torch.bool).tril()
    with torch.autocast("cpu", enabled=False):
        attended: Tensor = _Attention.apply(query, k, v, mask, dropout, scale)
    return attended


def _trains_in_bfloat16_on_cpu(query: Tensor) -> bool:
    on_cpu = query.device.type == "cpu" and query.dtype == torch.bfloat16
    return on_cpu and query.requires_grad and torch.is_grad_enabled()


class _Attention(torch.autograd.Function):
    """softmax(scale * q k^T + mask) v, with dropout of the softmax."""

    @staticmethod
    def forward(  # noqa: PLR0917 - torch passes them by position
        ctx: Any,
        query: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        dropout: float,
        scale: float,
    ) -> Tensor:
        weights = _weights(query, k, mask, scale)
        keep = _kept(weights.shape, dropout) if dropout else None
        factor = 1.0 / (1.0 - dropout)
        kept = weights if keep is None else weights * keep
        attended = (kept @ v).mul_(factor)
        # Without dropout, weights are computed again.
        stored = (None, None) if keep is None else (weights, keep)
        ctx.save_for_backward(query, k, v, attended, mask, *stored)
        ctx.factor, ctx.scale = factor, scale
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, k, v, attended, mask, weights, keep = ctx.saved_tensors
        gradient = gradient * ctx.factor
        # Of the softmax: w * (g - sum(w * g)), and that sum is the one of output times gradient.
        sums = (gradient.float() * attended.float()).sum(-1, keepdim=True) / ctx.factor
        of_weights = gradient @ v.transpose(-2, -1)
        if keep is None:
            weights = _weights(query, k, mask, ctx.scale)
            of_v = weights.transpose(-2, -1) @ gradient
        else:
            of_weights *= keep
            of_v = (weights * keep).transpose(-2, -1) @ gradient
        of_scores = (of_weights - sums.to(of_weights.dtype)).mul_(weights)
        of_mask = of_scores.sum_to_size(mask.shape) if ctx.needs_input_grad[3] else None
        of_scores = of_scores * ctx.scale
        return of_scores @ k, of_scores.transpose(-2, -1) @ query, of_v, of_mask, None, None


def _weights(query: Tensor, k: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Return the softmax of the scores, (n, heads, r, t)."""
    scores = (query * scale) @ k.transpose(-2, -1)
    if mask is not None and mask.dtype == torch.bool:
        # Of a query without any key, the weights are equal rather than NaN.
        scores.masked_fill_(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores += mask
    return scores.softmax(-1)


def _kept(shape: torch.Size, dropout: float) -> Tensor:
    """Return which weights dropout keeps, bool; the probability is rounded to 1 / 65,536."""
    n = shape.numel()
    # Four numbers of 16 bits from each of 64: drawing single ones takes longer than the products.
    wide = torch.empty((n + 3) // 4, dtype=torch.int64)
    wide.random_(torch.iinfo(torch.int64).min, None)
    narrow = wide.view(torch.int16)[:n].view(shape)
    return narrow >= round(dropout * 65536) - 32768
