"""The heads of a trained network on a CPU, the weights of their dense layers packed."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn import functional

from .backbones import LinearWeights
from .heads import ExitHead, LabelHead, label_logits
from .network import Head
from .packed_linear import can_pack, filled_up, make_product
from .tasks import TaskHeads, task_logits


class PackedHead:
    """The classifier after one layer, for one task: dense + tanh, linear, in float32.

    A few rows through a dense layer take as long as reading its weight, which torch's own product
    does twice as slowly.

    Parameters
    ----------
    head : ExitHead
        With a dense layer, on a CPU.
    """

    def __init__(self, head: ExitHead) -> None:
        if head.dense is None:
            raise RuntimeError("This head was made without a dense layer.")
        self._dense = make_product(LinearWeights.of(head.dense), torch.float32)
        self._out = head.out

    def __call__(self, pooled: Tensor) -> Tensor:
        """Return the logits of pooled rows, (n, n_classes)."""
        dense = self._dense(filled_up(pooled))[: pooled.shape[0]]
        return functional.linear(dense.tanh_(), self._out.weight, self._out.bias)


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
    if type(head) is ExitHead and head.dense is not None and can_pack(torch.float32):
        return PackedHead(head)
    return head


def _logits_of_labels(head: Head, constants: Tensor, pooled: Tensor) -> Tensor:
    return label_logits(head(pooled), constants)
