"""The parts of a transformer layer (weights and modules) that adapters return."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

__all__ = ["AttentionParts", "LayerParts", "LinearWeights", "RMSWeights"]


class AttentionParts(NamedTuple):
    """The parts of one layer's self-attention, as the family's own modules."""

    query: nn.Module
    key: nn.Module
    value: nn.Module
    dropout: float
    query_norm: nn.Module | None = None
    """Normalizes each query, (..., head_dim), before the rotary embedding."""
    key_norm: nn.Module | None = None


class LinearWeights(NamedTuple):
    """Weights of a linear layer x -> x W' + b."""

    weight: Tensor
    """(out, in)."""
    bias: Tensor | None

    @classmethod
    def of(cls, module: nn.Module) -> LinearWeights:
        """Return the weights of a linear module; that of GPT-2 has a transposed weight."""
        weight: Any = module.weight
        bias: Any = module.bias
        return cls(weight.T if isinstance(module, Conv1D) else weight, bias)

    def scaled(self, factor: Tensor | float) -> LinearWeights:
        """Return the layer with its output multiplied by a number, or by one number per column."""
        factor = torch.as_tensor(factor, dtype=self.weight.dtype, device=self.weight.device)
        bias = None if self.bias is None else self.bias * factor
        return LinearWeights(self.weight * factor.reshape(-1, 1), bias)

    def chunk(self, n: int) -> list[LinearWeights]:
        """Split the layer into n layers that compute equal parts of the output, as views."""
        biases = [None] * n if self.bias is None else self.bias.chunk(n)
        return [LinearWeights(*pair) for pair in zip(self.weight.chunk(n), biases, strict=True)]


class RMSWeights(NamedTuple):
    """Weights of a norm that divides by the root mean square, x -> x / rms(x) * weight."""

    weight: Tensor
    eps: float

    def scaled(self, factor: float) -> RMSWeights:
        """Return the norm with its output multiplied by a number."""
        return RMSWeights(self.weight * factor, self.eps)


class LayerParts(NamedTuple):
    """Parts of a layer with the standard structure, sufficient to run it without its modules.

    Pre-norm: ``x + out(attend(norm_1(x)))``, then ``x + down(expand(norm_2(x)))``.
    Post-norm: ``norm_1(x + out(attend(x)))``, then ``norm_2(x + down(expand(x)))``.

    ``expand(x)`` is ``activation(up(x))``, and with a gate ``activation(gate(x)) * up(x)``.
    """

    query: LinearWeights
    key: LinearWeights
    value: LinearWeights
    out: LinearWeights
    up: LinearWeights
    down: LinearWeights
    norm_1: nn.LayerNorm | RMSWeights | None
    """None: the input of the layer is already normalized (pre-norm only)."""
    norm_2: nn.LayerNorm | RMSWeights
    activation: nn.Module
    pre_norm: bool
    gate: LinearWeights | None = None
    query_norm: RMSWeights | None = None
    """Normalizes each query, (..., head_dim), before its position rotates it."""
    key_norm: RMSWeights | None = None

    def with_query_scaled(self, factor: float) -> LayerParts:
        """Return the parts with all queries multiplied by a number."""
        if self.query_norm is not None:
            return self._replace(query_norm=self.query_norm.scaled(factor))
        return self._replace(query=self.query.scaled(factor))
