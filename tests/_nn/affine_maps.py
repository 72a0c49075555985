"""Random affine maps, and rows for them to map."""

from __future__ import annotations

import torch

from sklearn_epee._nn.backbones import LinearWeights


def make_affine(n_out: int = 48, n_in: int = 40, bias: bool = True) -> LinearWeights:
    """Return an affine map whose outputs are about as large as its inputs."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(n_out, n_in, generator=generator) * n_in**-0.5
    return LinearWeights(weight, torch.randn(n_out, generator=generator) if bias else None)


def make_rows(n: int = 70, width: int = 40, seed: int = 1) -> torch.Tensor:
    """Return rows of standard normal numbers."""
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
