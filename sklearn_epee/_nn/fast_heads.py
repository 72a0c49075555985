"""Heads in prediction; on a CPU, a few products for all tasks, with packed weights."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from .backbones import LinearWeights
from .fast_attention import Seen, attend
from .fast_backbone import flat_rows, split_heads
from .head_attention import HEAD_WIDTH, N_HEADS, HeadAttention
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
    """

    def __init__(self, heads: Sequence[ExitHead]) -> None:
        bottlenecks = [head.bottleneck for head in heads if head.bottleneck is not None]
        denses = [LinearWeights.of(head.dense) for head in heads if head.dense is not None]
        outs = [LinearWeights.of(head.out) for head in heads]
        width = (denses or outs)[0].weight.shape[1]
        self._narrow = NarrowRows(bottlenecks) if bottlenecks else None
        if bottlenecks:
            denses = list(map(behind_bottleneck, bottlenecks, denses))
            outs = outs if denses else list(map(behind_bottleneck, bottlenecks, outs))
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


class WordAttention(Protocol):
    """Interface of the attention of an exit for words; see `HeadAttention.of_words`."""

    def __call__(self, hidden: Tensor, mask: Tensor, index: Tensor) -> Tensor:
        """Return the states of words with what each has read added, (w, d) float32.

        Parameters
        ----------
        hidden : Tensor of shape (n, t, d)
        mask : Tensor of shape (n, t), bool
        index : Tensor of shape (w,), int64
            Index of each word's first piece among all positions of the batch.
        """
        ...


class PlainWordAttention:
    """The attention of an exit for words, in float32.

    Parameters
    ----------
    attention : HeadAttention
    """

    def __init__(self, attention: HeadAttention) -> None:
        self._attention = attention

    def __call__(self, hidden: Tensor, mask: Tensor, index: Tensor) -> Tensor:
        """See `WordAttention`."""
        width = hidden.shape[1]
        rows, positions = index.div(width, rounding_mode="floor"), index % width
        return self._attention.of_words(hidden, mask, rows, positions)


class PackedWordAttention:
    """The attention of an exit for words on a CPU, in the data type of the layers.

    It is a part of a layer: products have packed weights, and the results do not depend on the rest
    of the batch.

    Parameters
    ----------
    attention : HeadAttention
    dtype : torch.dtype
    """

    def __init__(self, attention: HeadAttention, dtype: torch.dtype) -> None:
        query = LinearWeights.of(attention.query).scaled(HEAD_WIDTH**-0.5)
        read = [query, LinearWeights.of(attention.key), LinearWeights.of(attention.value)]
        self._read = make_product(joined(read, n_shared=query.weight.shape[1]), dtype)
        self._out = make_product(LinearWeights.of(attention.out), dtype)
        self._dtype = dtype

    def __call__(self, hidden: Tensor, mask: Tensor, index: Tensor) -> Tensor:
        """See `WordAttention`."""
        hidden = hidden.to(self._dtype)
        projected = split_heads(self._read(flat_rows(hidden)), hidden, 3 * N_HEADS)
        query, k, v = projected.chunk(3, dim=1)
        attended = attend(query, k, v, Seen(mask[:, None, None, :]))
        read = attended.transpose(1, 2).flatten(2).flatten(0, 1).index_select(0, index)
        words = hidden.flatten(0, 1).index_select(0, index).float()
        return words.add_(self._out(filled_up(read))[: len(index)].float())


def word_attention(attention: HeadAttention, dtype: torch.dtype) -> WordAttention:
    """Return the fastest version of the attention of an exit for words.

    Parameters
    ----------
    attention : HeadAttention
        On its device.
    dtype : torch.dtype
        Data type of the hidden states.
    """
    if attention.query.weight.device.type == "cpu":
        return PackedWordAttention(attention, dtype)
    return PlainWordAttention(attention)


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
        return _fast_tasks(list(head.tasks))
    if isinstance(head, LabelHead):
        return functools.partial(_logits_of_labels, fast_head(head.head), head.constants)
    # A subclass may compute something else.
    return FastHead([head]) if type(head) is ExitHead else head


def _fast_tasks(heads: list[nn.Module]) -> Head:
    exact = [head for head in heads if type(head) is ExitHead]
    if len(exact) == len(heads) and not any(map(_reads_own_input, exact)):
        return FastHead(exact)
    return functools.partial(task_logits, [fast_head(head) for head in heads])


def _reads_own_input(head: ExitHead) -> bool:
    """Return whether the wide layers of a task need another input than those of other tasks."""
    # Dense layers behind bottlenecks would be one product with many zeros.
    return head.query is not None or (head.bottleneck is not None and head.dense is not None)


def _logits_of_labels(head: Head, constants: Tensor, pooled: Tensor) -> Tensor:
    return label_logits(head(pooled), constants)
