"""Count the multiplications and additions of the layers of a backbone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from sklearn_epee._compat import attention_on_cpu

from .backbones import BackboneAdapter


def _attention_on_cpu(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Return the number of operations of attention, given the shapes of its inputs."""
    return int(sdpa_flop_count(query, key, value))


@torch.no_grad()
def layer_flops(adapter: BackboneAdapter, batch: Mapping[str, Tensor]) -> NDArray[np.float64]:
    """Return the floating point operations of a backbone's parts for a batch.

    Parameters
    ----------
    adapter : BackboneAdapter
    batch : dict of str to Tensor
        Inputs of the backbone.

    Returns
    -------
    ndarray of shape (M + 1,), float64
        Operations of the embedding and of every layer: matrix products, convolutions, attention.
    """
    counted = []
    known = {attention_on_cpu(): _attention_on_cpu}
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        hidden, mask = adapter.embed(batch)
        counted.append(counter.get_total_flops())
        for layer in range(1, adapter.n_layers + 1):
            hidden = adapter.layer(layer, hidden, mask)
            counted.append(counter.get_total_flops())
    return np.diff(np.array(counted, dtype=np.float64), prepend=0)


def head_work(head: nn.Module) -> float:
    """Return the floating point operations of a head for one sample."""
    linear = (module for module in head.modules() if isinstance(module, nn.Linear))
    return float(sum(2 * module.weight.numel() for module in linear))
