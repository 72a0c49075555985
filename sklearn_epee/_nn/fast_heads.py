"""Heads of a trained network on a CPU, with packed weights for wide layers."""

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


class PackedHead:
    """The head of one task in float32, with packed weights for its wide layers.

    For a few rows, a wide layer takes as long as reading its weight, for which torch's own product
    takes twice as long. The last layer of a bottleneck is merged into the next one, which saves a
    product.

    Parameters
    ----------
    head : ExitHead
        On a CPU.
    """

    def __init__(self, head: ExitHead) -> None:
        dense = None if head.dense is None else LinearWeights.of(head.dense)
        self._out = LinearWeights.of(head.out)
        self._bottleneck = None if head.bottleneck is None else NarrowRows(head.bottleneck)
        if head.bottleneck is not None:
            if dense is None:
                self._out = behind_bottleneck(head.bottleneck, self._out)
            else:
                dense = behind_bottleneck(head.bottleneck, dense)
        self._dense = None if dense is None else make_product(dense, torch.float32)

    def __call__(self, pooled: Tensor) -> Tensor:
        """Return the logits of pooled rows, (n, n_classes)."""
        rows = filled_up(pooled)
        if self._bottleneck is not None:
            rows = torch.cat([rows, self._bottleneck(rows)], dim=1)
        if self._dense is not None:
            rows = self._dense(rows)[: pooled.shape[0]].tanh_()
        return functional.linear(rows[: pooled.shape[0]], self._out.weight, self._out.bias)


class NarrowRows:
    """The first half of a bottleneck, up to its narrow layer, in float32.

    Parameters
    ----------
    bottleneck : Bottleneck
        On a CPU.
    """

    def __init__(self, bottleneck: Bottleneck) -> None:
        self._norm = bottleneck.norm
        down = LinearWeights.of(bottleneck.down)
        self._down = make_product(down, torch.float32, functional.gelu)

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the output of the narrow layer, (r, width / 4)."""
        return self._down.activated(self._norm(rows))


@torch.no_grad()
def behind_bottleneck(bottleneck: Bottleneck, affine: LinearWeights) -> LinearWeights:
    """Merge the last layer of a bottleneck into the linear layer that follows it.

    ``W (x + U h + u) + b`` is ``[W, W U] [x, h] + (W u + b)``.

    Parameters
    ----------
    bottleneck : Bottleneck
    affine : LinearWeights
        The linear layer after the bottleneck.

    Returns
    -------
    LinearWeights
        Layer whose input is the bottleneck's input x, concatenated with its narrow output h, see
        `NarrowRows`.
    """
    weight, up = affine.weight.double(), bottleneck.up
    bias = weight @ up.bias.double()
    if affine.bias is not None:
        bias += affine.bias.double()
    joined = torch.cat([weight, weight @ up.weight.double()], dim=1)
    return LinearWeights(joined.float(), bias.float())


def fast_head(head: nn.Module) -> Head:
    """Return a fast version of a head: a function from pooled rows to logits, in float32.

    Parameters
    ----------
    head : Module
        On a CPU, in float32, in evaluation mode.

    Returns
    -------
    callable
        The head itself if it cannot be made faster.
    """
    if isinstance(head, TaskHeads):
        return functools.partial(task_logits, [fast_head(part) for part in head.tasks])
    if isinstance(head, LabelHead):
        return functools.partial(_logits_of_labels, fast_head(head.head), head.constants)
    # A subclass may compute something else.
    if type(head) is ExitHead and _is_wide(head) and can_pack(torch.float32):
        return PackedHead(head)
    return head


def _is_wide(head: ExitHead) -> bool:
    return head.dense is not None or head.bottleneck is not None


def _logits_of_labels(head: Head, constants: Tensor, pooled: Tensor) -> Tensor:
    return label_logits(head(pooled), constants)
