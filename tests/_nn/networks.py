"""Small multi-exit networks."""

from __future__ import annotations

import torch

from sklearn_epee._nn.backbones import load_backbone
from sklearn_epee._nn.network import MultiExitNetwork
from tests.checkpoints import kind_of, randomise, tiny_config


def make_network(family: str, pooling: str, dropout: float = 0.0) -> MultiExitNetwork:
    """Return a network of three classes with weights that make every layer change its input."""
    backbone = randomise(load_backbone(tiny_config(family), kind_of(family)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = MultiExitNetwork(backbone, 3, pooling, dropout)
        with torch.no_grad():
            for head in network.heads:
                if head.query is not None:
                    head.query.normal_()
    return network.eval()
