"""Heads in prediction; on a CPU, a few products for all tasks, with packed weights."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from .backbones import LinearWeights
from .heads import Bottleneck, ExitHead, LabelHead, label_logits
from .network import Head
from .packed_linear import filled_up, make_product
from .tasks import TaskHeads, task_logits


class FastHead:
    """The head of one task, or of several tasks that read the same rows, in float32.

    Layers of several tasks are computed as one product. Wide layers have packed weights: for a few
    rows, they take as long as reading their weights, for which torch's own product takes twice as
    long. The last layer of a bottleneck is merged into the next one, which saves a product.

    Parameters
    ----------
    heads : sequence of ExitHead
        One per task, on a CPU. Several heads may have dense layers or bottlenecks, not both.
    added : Linear, default=None
        Layer whose output is added to the rows before all heads, which have no bottlenecks then. It
        is merged into the next layer, and its inputs are at the end of the rows.
    """

    def __init__(self, heads: Sequence[ExitHead], added: nn.Linear | None = None) -> None:
        bottlenecks = [head.bottleneck for head in heads if head.bottleneck is not None]
        denses = [LinearWeights.of(head.dense) for head in heads if head.dense is not None]
        outs = [LinearWeights.of(head.out) for head in heads]
        width = (denses or outs)[0].weight.shape[1]
        self._narrow = NarrowRows(bottlenecks) if bottlenecks else None
        residuals = [bottleneck.up for bottleneck in bottlenecks]
        if added is not None:
            residuals, width = [added] * len(heads), width + added.in_features
        if residuals:
            denses = list(map(behind_residual, residuals, denses))
            outs = outs if denses else list(map(behind_residual, residuals, outs))
        self._dense = make_product(joined(denses, width), torch.float32) if denses else None
        self._out = joined(outs, n_shared=0 if denses else width)

    def __call__(self, pooled: Tensor) -> Tensor:
        """Return the logits of pooled rows, (n, n_classes of all tasks)."""
        rows = pooled
        if self._narrow is not None or self._dense is not None:
            rows = filled_up(rows)
        if self._narrow is not None:
            rows = torch.cat([rows, self._narrow(rows)], dim=1)
        if self._dense is not None:
            rows = self._dense(rows).tanh_()
        return functional.linear(rows[: len(pooled)], self._out.weight, self._out.bias)


class NarrowRows:
    """The first halves of bottlenecks that read the same rows, up to their narrow layers.

    Parameters
    ----------
    bottlenecks : sequence of Bottleneck
        On a CPU, in float32.
    """

    def __init__(self, bottlenecks: Sequence[Bottleneck]) -> None:
        self._norm = bottlenecks[0].norm
        downs = [LinearWeights.of(part.down) for part in bottlenecks]
        if len(bottlenecks) > 1:
            # Without their scales and shifts, the norms of all tasks are the same.
            self._norm = nn.LayerNorm(
                self._norm.normalized_shape, self._norm.eps, elementwise_affine=False
            )
            downs = list(map(behind_norm, (part.norm for part in bottlenecks), downs))
        down = joined(downs, n_shared=downs[0].weight.shape[1])
        self._down = make_product(down, torch.float32, functional.gelu)

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the outputs of the narrow layers side by side, (r, T * width / 4)."""
        return self._down.activated(self._norm(rows))


@torch.no_grad()
def joined(layers: Sequence[LinearWeights], n_shared: int) -> LinearWeights:
    """Return one linear layer that computes the outputs of several, side by side.

    Parameters
    ----------
    layers : sequence of LinearWeights
        All with the same number of inputs.
    n_shared : int
        Number of first inputs that all layers read. The other inputs of the new layer are those of
        each layer, side by side.

    Returns
    -------
    LinearWeights
    """
    if len(layers) == 1:
        return layers[0]
    weights = [layer.weight for layer in layers]
    shared = torch.cat([weight[:, :n_shared] for weight in weights])
    own = torch.block_diag(*(weight[:, n_shared:] for weight in weights))
    biases = [
        layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias
        for layer in layers
    ]
    return LinearWeights(torch.cat([shared, own], dim=1), torch.cat(biases))


@torch.no_grad()
def behind_norm(norm: nn.LayerNorm, affine: LinearWeights) -> LinearWeights:
    """Merge the scale and shift of a norm into the linear layer that follows it."""
    weight = affine.weight.double()
    bias = weight @ norm.bias.double()
    if affine.bias is not None:
        bias += affine.bias.double()
    return LinearWeights((weight * norm.weight.double()).float(), bias.float())


@torch.no_grad()
def behind_residual(added: nn.Linear, affine: LinearWeights) -> LinearWeights:
    """Merge a linear layer whose output is added to a state into the linear layer that follows.

    ``W (x + U h + u) + b`` is ``[W, W U] [x, h] + (W u + b)``.

    Parameters
    ----------
    added : Linear
        Maps h to what is added to x.
    affine : LinearWeights
        The linear layer after the sum.

    Returns
    -------
    LinearWeights
        Layer whose input is x, concatenated with h.
    """
    weight = affine.weight.double()
    bias = weight @ added.bias.double()
    if affine.bias is not None:
        bias += affine.bias.double()
    joined = torch.cat([weight, weight @ added.weight.double()], dim=1)
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
        return _fast_tasks(list(head.tasks))
    if isinstance(head, LabelHead):
        return functools.partial(_logits_of_labels, fast_head(head.head), head.constants)
    # A subclass may compute something else.
    return FastHead([head]) if type(head) is ExitHead else head


def _fast_tasks(heads: list[nn.Module]) -> Head:
    exact = exact_heads(heads)
    if exact is not None and not any(map(_reads_own_input, exact)):
        return FastHead(exact)
    return functools.partial(task_logits, [fast_head(head) for head in heads])


def exact_heads(heads: Sequence[nn.Module]) -> list[ExitHead] | None:
    """Return the heads if all are exactly of the class `ExitHead`, else None."""
    # A subclass may compute something else.
    exact = [head for head in heads if type(head) is ExitHead]
    return exact if len(exact) == len(heads) else None


def _reads_own_input(head: ExitHead) -> bool:
    """Return whether the wide layers of a task need another input than those of other tasks."""
    # Dense layers behind bottlenecks would be one product with many zeros.
    return head.query is not None or (head.bottleneck is not None and head.dense is not None)


def _logits_of_labels(head: Head, constants: Tensor, pooled: Tensor) -> Tensor:
    return label_logits(head(pooled), constants)
