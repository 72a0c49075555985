"""The heads of a trained network on a CPU, the weights of their wide layers packed."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional

from .backbones import LinearWeights
from .heads import Bottleneck, ExitHead, LabelHead, label_logits
from .network import Head
from .packed_linear import can_pack, filled_up, make_product
from .tasks import TaskHeads, task_logits


class PackedBottleneck:
    """The residual map in front of a head, in float32.

    Parameters
    ----------
    bottleneck : Bottleneck
        On a CPU.
    """

    def __init__(self, bottleneck: Bottleneck) -> None:
        self._norm = bottleneck.norm
        down, up = LinearWeights.of(bottleneck.down), LinearWeights.of(bottleneck.up)
        self._down = make_product(down, torch.float32, functional.gelu)
        self._up = make_product(up, torch.float32)

    def __call__(self, rows: Tensor) -> Tensor:
        """Return rows, mapped to the same width."""
        return self._up.added(self._down.activated(self._norm(rows)), rows)


class PackedHead:
    """The classifier after one layer, for one task, in float32: its wide layers and a linear map.

    A few rows through a wide layer take as long as reading its weight, which torch's own product
    does twice as slowly.

    Parameters
    ----------
    head : ExitHead
        On a CPU.
    """

    def __init__(self, head: ExitHead) -> None:
        self._bottleneck = None if head.bottleneck is None else PackedBottleneck(head.bottleneck)
        dense = head.dense
        self._dense = (
            None if dense is None else make_product(LinearWeights.of(dense), torch.float32)
        )
        self._out = head.out

    def __call__(self, pooled: Tensor) -> Tensor:
        """Return the logits of pooled rows, (n, n_classes)."""
        rows = filled_up(pooled)
        if self._bottleneck is not None:
            rows = self._bottleneck(rows)
        if self._dense is not None:
            rows = self._dense(rows)[: pooled.shape[0]].tanh_()
        return functional.linear(rows[: pooled.shape[0]], self._out.weight, self._out.bias)


def fast_head(head: nn.Module) -> Head:
    """Return what computes the logits of a head from pooled rows in float32.

    Parameters
    ----------
    head : Module
        On a CPU, in float32, in evaluation mode.

    Returns
    -------
    callable
        The head itself where there is nothing to gain.
    """
    if isinstance(head, TaskHeads):
        return functools.partial(task_logits, [fast_head(part) for part in head.tasks])
    if isinstance(head, LabelHead):
        return functools.partial(_logits_of_labels, fast_head(head.head), head.constants)
    # A head of a class of its own may compute something else.
    if type(head) is ExitHead and _is_wide(head) and can_pack(torch.float32):
        return PackedHead(head)
    return head


def _is_wide(head: ExitHead) -> bool:
    return head.dense is not None or head.bottleneck is not None


def _logits_of_labels(head: Head, constants: Tensor, pooled: Tensor) -> Tensor:
    return label_logits(head(pooled), constants)
